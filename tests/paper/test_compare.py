"""Folders of runs: what is averaged, what is compared, and what is written about them."""

import csv
import itertools
import re
from dataclasses import asdict, replace

import pytest
from PIL import Image

from psc.config import compose
from psc.errors import DataError
from psc.paper import compare as compare_module
from psc.paper import style
from psc.paper.account import Cost
from psc.paper.compare import compare_runs, comparison_text, write_csv
from psc.paper.groups import finished_runs, group_records
from psc.training.records import write_record

METRICS = "step,train/loss,validation/loss\n0,0.9,\n1,0.7,0.8\n"
VIDEO_METRICS = """epoch,step,train/loss,train/error,validation/loss,validation/top1
0,0,0.9,0.8,,
0,1,,,0.8,0.5
"""


@pytest.fixture
def folder_of(tmp_path):
    """Write records as finished runs without their volumes; returns the folder of runs."""

    def write(**records):
        for name, record in records.items():
            (tmp_path / name).mkdir()
            metrics = VIDEO_METRICS if "top1" in record.metrics["test"] else METRICS
            (tmp_path / name / "metrics.csv").write_text(metrics)
            write_record(replace(record, run=name), tmp_path / name)
        return tmp_path

    return write


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made, and empty files in place of their pixels."""
    monkeypatch.setattr(style, "_save", lambda figure, *paths: [path.touch() for path in paths])


def test_only_finished_runs_are_read(tmp_path, folder_of, make_record):
    with pytest.raises(DataError, match="no finished run"):
        finished_runs(tmp_path)
    folder = folder_of(b=make_record(), a=make_record())
    (folder / "unfinished").mkdir()
    assert [path.name for path in finished_runs(folder)] == ["a", "b"]


def test_everything_that_is_said_to_be_written_is(folder_of, make_record):
    folder = folder_of(a=make_record(), b=make_record("p2sc2", seed=1))
    text, files = compare_runs(folder)
    names = [path.name for path in files]
    tables = ["summary.md", "summary.csv"]
    drawn = ["tradeoff.png", "learning.png", "curves.png", "thresholds.png"]
    assert names == [*tables, *drawn]
    assert all(path.stat().st_size > 0 for path in files)
    assert (folder / "summary.md").read_text() == text
    with (folder / "summary.csv").open() as file:
        assert [row["block"] for row in csv.DictReader(file)] == ["3d", "p2sc2"]
    assert not (folder / "summary.png").exists()  # the volumes are not there


def test_what_evaluate_wrote_is_compared_without_learning_curves(folder_of, make_record, caplog):
    """Of trainings of equal length, by checkpoints of their lowest validation loss."""
    trained = make_record().config["recipe"]["iterations"]
    records = {
        f"{block}-{seed}": replace(
            make_record(block, seed=seed),
            iterations=trained - seed - (block == "p2sc2"),
            wall_seconds={},
        )
        for block, seed in itertools.product(("3d", "p2sc2"), (0, 1, 2))
    }
    folder = folder_of(**records)
    for name in records:
        (folder / name / "metrics.csv").unlink()
    (folder / "learning.png").touch()  # as drawn before the metrics were lost
    text, files = compare_runs(folder)
    names = [path.name for path in files]
    assert names == ["summary.md", "summary.csv", "tradeoff.png", "thresholds.png"]
    assert "no learning curves: " in caplog.text
    assert "learning.png was there before; it is not of these runs" in caplog.text
    assert f"| {trained - 2}–{trained} |" in text
    assert "| p2sc2 − 3d, VI sum [bits] |" in text


@pytest.mark.usefixtures("unrendered")
def test_versions_of_the_code_are_not_mixed(folder_of, make_record):
    folder = folder_of(a=make_record(), b=make_record(seed=1, commit="b" * 40))
    with pytest.raises(DataError, match=r"bbbbbbbb: 1 run \(b\)"):
        compare_runs(folder)
    assert not (folder / "summary.md").exists()
    assert "| 1 |" in compare_runs(folder, commit="bbbb")[0]
    table = compare_runs(folder, all_commits=True)[0].split("\n\n")[0]
    assert table.count("\n| ") == 4  # a line, two networks, no network


def test_videos_have_no_segmentations_and_no_thresholds(folder_of, make_video_record):
    _, files = compare_runs(folder_of(a=make_video_record(), b=make_video_record("p2sc2")))
    names = [path.name for path in files]
    assert names == ["summary.md", "summary.csv", "tradeoff.png", "learning.png", "curves.png"]
    assert Image.open(files[-1]).size == (690, 240)
    assert sorted(p.name for p in files[0].parent.glob("*.png")) == sorted(names[2:])


@pytest.mark.usefixtures("unrendered")
def test_runs_of_several_folders_are_side_by_side(folder_of, make_record):
    folder = folder_of(a=make_record(), b=make_record("p2sc2"))
    for name in "ab":
        (folder / f"of-{name}").mkdir()
        (folder / name).rename(folder / f"of-{name}" / name)
    text, files = compare_runs(folder / "of-a", folder / "of-b")
    assert "| 3d |" in text
    assert "| p2sc2 |" in text
    assert {path.parent for path in files} == {folder / "of-a"}


def test_a_run_that_is_there_twice_is_refused(folder_of, make_record):
    folder = folder_of(a=make_record(), b=make_record())
    with pytest.raises(DataError, match=r"a and .*b are of one row and one seed.* count twice"):
        compare_runs(folder)
    assert not (folder / "summary.md").exists()


@pytest.mark.usefixtures("unrendered")
def test_different_amounts_of_training_data_have_a_picture(folder_of, make_video_record):
    less = {"videos": {"train": 20, "validation": 10, "test": 40}}
    folder = folder_of(a=make_video_record(), b=make_video_record(splits=less))
    text, files = compare_runs(folder)
    assert [path.name for path in files][-2:] == ["data.png", "curves.png"]
    header, _, first, second, _ = text.split("\n\n")[0].splitlines()
    assert [line.split(" | ")[-1] for line in (header, first, second)] == [
        *("to train on |", "3200 |", "20 |")
    ]
    assert "against 3D" not in text


@pytest.mark.usefixtures("unrendered")
def test_each_application_has_its_own_table_and_curves(folder_of, make_record, make_video_record):
    folder = folder_of(a=make_record(), b=make_video_record("p2sc2"))
    text, files = compare_runs(folder)
    assert [path.name for path in files] == [
        "summary.md",
        "summary.csv",
        "tradeoff.png",
        *("learning-affinity.png", "curves-affinity.png", "thresholds.png"),
        *("learning-video.png", "curves-video.png"),
    ]
    assert all(path.is_file() for path in files)
    neurons, actions = text.split("## ")[1:]
    assert neurons.startswith("Neuron segmentation\n\n| block ")
    assert actions.startswith("Action recognition\n\n| block ")
    assert [("VI sum" in part, "top-1" in part) for part in (neurons, actions)] == [
        (True, False),
        (False, True),
    ]
    assert "; d; " in neurons
    assert "; v; " in actions
    with (folder / "summary.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["vi_sum_mean"], first["top1_mean"]) == ("2.0", "")
    assert (second["vi_sum_mean"], second["top1_mean"]) == ("", "0.5")


@pytest.mark.usefixtures("unrendered")
def test_seeds_that_were_validated_apart_have_a_table_and_no_learning_curve(
    folder_of, make_record, caplog
):
    folder = folder_of(a=make_record(), b=make_record(seed=1))
    (folder / "b/metrics.csv").write_text(METRICS.replace("1,0.7", "3,0.7"))
    text, files = compare_runs(folder)
    assert "| 0, 1 |" in text
    assert "no learning.png: " in caplog.text
    assert "learning.png" not in [file.name for file in files]


def test_own_data_have_a_row_for_each_block_over_seeds(
    tmp_path, make_record, make_video_record, make_tissue_record
):
    (tmp_path / "clips").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"clips/{name}").mkdir()
        (tmp_path / f"clips/{name}/1.mp4").touch()
    own = {
        "em": (make_record, ["dataset=own_em", "dataset.raw=a.h5"]),
        "mri": (
            make_tissue_record,
            [
                *("backbone=densenet", "dataset=own_mri", "dataset.folder=b"),
                "dataset.split={validation: [c], test: [IBSR_04, IBSR_05]}",
                "dataset.label_values={csf: 1, gm: 2, wm: 3}",
            ],
        ),
        "video": (
            make_video_record,
            ["backbone=resnet18", "dataset=own_video", f"dataset.folder={tmp_path}/clips"],
        ),
    }
    records = []
    for make, overrides in own.values():
        config = asdict(compose([*overrides, "budget=quick"]))
        for block, seed in itertools.product(("3d", "p2sc2"), (0, 1)):
            record = make(block=block, seed=seed)
            changed = config | {"block": record.config["block"], "seed": seed}
            data = record.data | {"kind": "own"}
            records.append(replace(record, config=changed, data=data))
    text = comparison_text(group_records(records))
    parts = text.split("## ")[1:]
    assert len(parts) == 3
    for part in parts:
        table = rows(part.partition("\n\n")[2].partition("\n\n")[0])
        assert [row[0] for row in table[:2]] == ["3d", "p2sc2"]
        assert all("±" in row[3] and row[-1] == "0, 1" for row in table[:2])


@pytest.mark.usefixtures("unrendered")
def test_errors_are_drawn_over_passes_through_the_training_videos(
    monkeypatch, folder_of, make_video_record
):
    drawn = {}
    monkeypatch.setattr(
        compare_module.curves, "curves_figure", lambda *_, **options: drawn.update(options)
    )
    longer = {"iterations": 5, "batch_size": 64, "test_clips": 20}
    two_gpus = {"devices": 2, "num_nodes": 1}
    records = {
        "a": make_video_record("3d"),
        "b": make_video_record("p1sc1", recipe=longer),
        "c": make_video_record("p2sc2", trainer=two_gpus),
    }
    folder = folder_of(**records)
    compare_runs(folder)
    assert drawn["errors"]
    assert drawn["per_epoch"] == {"3d": 100, "p1sc1": 50, "p2sc2": 50}
    (folder / "d").mkdir()
    some = make_video_record("p3sc1", trainer={"devices": "auto", "num_nodes": 1})
    (folder / "d" / "metrics.csv").write_text(VIDEO_METRICS)
    write_record(some, folder / "d")
    compare_runs(folder)
    assert drawn["per_epoch"] is None


def test_a_run_of_an_unknown_application_is_refused(folder_of, make_record):
    strange = replace(make_record(), metrics={"test": {"dice": 0.9}})
    folder = folder_of(a=strange)
    with pytest.raises(DataError, match=r"run a has the test scores \['dice'\]"):
        compare_runs(folder)
    assert not (folder / "summary.md").exists()


def text_of(records):
    return comparison_text(group_records(records))


def table_of(records):
    """The first of every application's tables."""
    parts = [part for part in text_of(records).split("\n\n") if part.startswith("| block")]
    return "\n".join(parts)


def rows(table):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_one_row_per_network_and_the_baseline_last(make_record):
    records = [make_record("3d", total=2.0), make_record("p2sc2", total=1.0)]
    table = rows(table_of(records))
    assert [row[0] for row in table] == ["3d", "p2sc2", "no network"]
    assert table[0][1:8] == ["1,234,567", "5", "0.500", "1.500", "2.000", "0.100", "-50.0 %"]
    assert table[1][7] == "-75.0 %"
    assert table[2][5] == "4.000"


def test_seeds_are_averaged_with_their_deviation(make_record):
    records = [make_record(seed=0, total=2.0), make_record(seed=1, total=3.0)]
    (row, _) = rows(table_of(records))
    assert row[5] == "2.500 ± 0.707"
    assert row[9] == "0, 1"


def test_other_code_is_another_row_and_says_which(make_record):
    one = table_of([make_record()])
    assert "code" not in one.splitlines()[0]
    two = table_of([make_record(), make_record(seed=1, commit="b" * 40)])
    assert two.splitlines()[0].endswith("| code |")
    table = rows(two)
    assert [row[0] for row in table] == ["3d", "3d", "no network"]
    assert [row[-1] for row in table] == ["aaaaaaaa", "bbbbbbbb", ""]


def test_every_test_has_its_own_baseline(make_record):
    other = make_record("p2sc2", splits={"test": ["here[9:18]"]})
    table = rows(table_of([make_record(), other, make_record("p1sc1")]))
    assert [row[0] for row in table] == ["3d", "p1sc1", "no network", "p2sc2", "no network"]


def test_synthetic_data_is_said_to_be_synthetic(make_record):
    assert "SYNTHETIC" in text_of([make_record()])
    real = text_of([make_record(kind="real sample")])
    assert "SYNTHETIC" not in real
    assert "real sample data" in real
    assert "some CPU" in real
    assert "aaaaaaaa" in real


def test_accuracies_are_in_percent_and_the_last_row_is_chance(make_video_record):
    records = [make_video_record(seed=0, top1=0.5), make_video_record(seed=1, top1=0.508)]
    table = table_of([*records, make_video_record("p2sc2", top1=0.75)])
    header = [cell.strip() for cell in table.splitlines()[0].split("|")[1:-1]]
    assert header == [
        "block",
        "parameters",
        "iterations",
        "top-1 [%]",
        "top-5 [%]",
        "clip top-1 [%]",
        "training [min]",
        "seeds",
    ]
    # 0.008 / √2 and half of it
    first = ["50.4 ± 0.6", "62.9 ± 0.6", "25.2 ± 0.3"]
    assert rows(table) == [
        ["3d", "7,654,321", "5", *first, "1.5", "0, 1"],
        ["p2sc2", "7,654,321", "5", "75.0", "87.5", "37.5", "1.5", "0"],
        ["chance", "0", "0", "1.7", "8.3", "1.7", "", ""],  # 1, 5 and 1 of 60
    ]


def test_a_control_is_said_to_be_one(make_video_record):
    control = {"iterations": 5, "batch_size": 32, "test_clips": 20, "shuffle_frames": True}
    records = [make_video_record(), make_video_record(recipe=control)]
    table = table_of(records)
    assert table.splitlines()[0].endswith("| seeds | control |")
    assert [row[-1] for row in rows(table)] == ["", "shuffled frames", ""]


def test_one_application_has_no_heading(make_record, make_video_record):
    for record in (make_record(), make_video_record()):
        assert "#" not in text_of([record])


def test_tables_of_several_applications_follow_each_other(make_record, make_video_record):
    two = table_of([make_video_record(), make_record(), make_video_record("p2sc2")])
    videos, neurons = re.split(r"\n(?=\| block)", two)
    assert [row[0] for row in rows(videos)] == ["3d", "p2sc2", "chance"]
    assert [row[0] for row in rows(neurons)] == ["3d", "no network"]


NETWORK = "dataset,data,backbone,block,m,n,parameters,input_shape,multiply_adds,flops,iterations"
VI = (
    "vi_split_mean,vi_split_sd,vi_merge_mean,vi_merge_sd,vi_sum_mean,vi_sum_sd,"
    "adapted_rand_error_mean,adapted_rand_error_sd,no_network_vi_sum"
)
ACCURACY = "top1_mean,top1_sd,top5_mean,top5_sd,clip_top1_mean,clip_top1_sd,chance_top1"
RUNS = "training_minutes,seeds,commit"


def test_one_row_per_network(tmp_path, make_record):
    records = [make_record("p2sc3", seed=s, total=1.0 + s / 3) for s in (0, 1)]
    groups = group_records([*records, make_record("3d", kind="real")])
    path = tmp_path / "summary.csv"
    write_csv(groups, [Cost(1234567, 1000, (1, 1, 16, 16, 16)), Cost(1234567, None)], path)
    with path.open() as file:
        reader = csv.DictReader(file)
        first, second = reader
    assert ",".join(reader.fieldnames) == f"{NETWORK},{VI},{RUNS}"
    texts = ("data", "backbone", "block", "m", "n", "seeds", "commit", "iterations", "dataset")
    assert [first[c] for c in texts] == [
        "synthetic", "unet", "p2sc3", "2", "3", "0 1", "aaaaaaaa", "5", "d"
    ]  # fmt: skip
    numbers = ("parameters", "multiply_adds", "flops")
    assert [int(first[column]) for column in numbers] == [1234567, 1000, 2000]
    assert first["input_shape"] == "1x1x16x16x16"
    mean = 1 + 1 / 6
    assert float(first["vi_sum_mean"]) == pytest.approx(mean, abs=1e-12)
    assert float(first["vi_sum_sd"]) == pytest.approx((1 / 3) / 2**0.5, abs=1e-12)
    assert float(first["vi_split_mean"]) == pytest.approx(mean / 4)
    assert float(first["vi_merge_mean"]) == pytest.approx(mean * 3 / 4)
    assert float(first["no_network_vi_sum"]) == 4
    assert float(first["training_minutes"]) == 1.5
    empty = ("m", "n", "input_shape", "multiply_adds", "flops", "vi_sum_sd")
    assert [second[column] for column in empty] == [""] * 6
    assert second["data"] == "real"


def test_accuracies_are_shares_of_1(tmp_path, make_video_record):
    records = [make_video_record(seed=seed, top1=0.5 + seed / 100) for seed in (0, 1)]
    path = tmp_path / "summary.csv"
    write_csv(group_records(records), [Cost(7654321, None)], path)
    with path.open() as file:
        (row,) = csv.DictReader(file)
    assert not [column for column in row if "vi_" in column]
    assert float(row["top1_mean"]) == pytest.approx(0.505)
    assert float(row["top1_sd"]) == pytest.approx(0.01 / 2**0.5)
    assert float(row["top5_mean"]) == pytest.approx(0.63)
    assert float(row["clip_top1_mean"]) == pytest.approx(0.2525)
    assert float(row["chance_top1"]) == pytest.approx(1 / 60)


def test_both_applications_share_a_file(tmp_path, make_record, make_video_record):
    path = tmp_path / "summary.csv"
    write_csv(group_records([make_record(), make_video_record()]), [Cost(1, None)] * 2, path)
    with path.open() as file:
        reader = csv.DictReader(file)
        neurons, actions = reader
    assert ",".join(reader.fieldnames) == f"{NETWORK},{VI},{ACCURACY},{RUNS}"
    chosen = ("backbone", "vi_sum_mean", "no_network_vi_sum", "top1_mean", "seeds")
    assert [neurons[column] for column in chosen] == ["unet", "2.0", "4.0", "", "0"]
    assert [actions[column] for column in chosen] == ["resnet34", "", "", "0.5", "0"]
