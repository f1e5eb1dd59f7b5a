"""Every benchmark at a tiny size: it runs, and its JSON says what was measured, where and how."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))  # where Python itself looks when the script is started

import benchmark  # noqa: E402
from benchmarks import metrics, timing, tissue_patches  # noqa: E402


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(tmp_path, *arguments):
    path = tmp_path / "results" / "result.json"
    assert benchmark.main([*arguments, "--repeats", "1", "--threads", "1", "--out", str(path)]) == 0
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no partial file is left
    return json.loads(path.read_text())


def check_environment(result):
    environment = result["environment"]
    assert environment["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment["versions"]["numpy"] == np.__version__
    assert environment["threads"] == 1
    assert environment["cpu"]
    assert environment["date"][:2] == "20"
    assert environment["date"].endswith("+00:00")


def test_metrics(tmp_path, capsys):
    result = run(tmp_path, "metrics", "--size", "40")

    check_environment(result)
    (rows,) = result["tables"].values()
    by_name = {(row["ids"] == "dense", row["contestant"]): row for row in rows}
    ours, peer = by_name[True, "psc"], by_name[True, "scikit-image"]
    for key in ("split", "merge", "adapted_rand_error"):
        assert ours[key] == pytest.approx(peer[key], abs=1e-9)
        assert ours[key] > 0
    assert by_name[False, "psc"]["split"] == pytest.approx(ours["split"])
    assert by_name[False, "scikit-image, relabelled first"]["merge"] == pytest.approx(ours["merge"])
    assert "Error" in by_name[False, "scikit-image"]["fails"]  # it allocates the largest id + 1
    assert by_name[False, "scikit-image"]["cpu_seconds"] is None
    assert peer["cpu_seconds_relative_to_psc"] == peer["cpu_seconds"] / ours["cpu_seconds"]
    assert peer["peak_extra_mb"] > ours["peak_extra_mb"] > 0
    assert result["settings"]["size"] == 40
    assert "| dense | scikit-image |" in capsys.readouterr().out


def test_crops(tmp_path):
    result = run(tmp_path, "crops", "--size", "32", "--input-size", "14")

    check_environment(result)
    (rows,) = result["tables"].values()
    names = [row["contestant"] for row in rows]
    assert names[:2] == ["NumPy copy", "psc bare crop"]
    assert names[-1] == "psc whole sample, augmented"
    assert rows[0]["rate_relative_to_numpy"] == 1
    for row in rows:
        assert row["fails"] is None
        assert row["per_cpu_second"] > 0
        assert row["per_wall_second"] > 0
    assert (result["settings"]["input_size"], result["settings"]["output_size"]) == (14, 4)


def test_patches(tmp_path):
    result = run(tmp_path, "patches", "--size", "24", "--input-size", "8")

    check_environment(result)
    ((title, rows),) = result["tables"].items()
    assert title == "8^3 of 24 x 12 x 24 float32 and uint8 labels"
    assert result["settings"]["volumes"] == 4
    assert len(rows) == 3 * 3
    for first in (0, 3, 6):
        ours, monai, tuned = rows[first : first + 3]
        names = [row["contestant"] for row in (ours, monai, tuned)]
        assert names == ["psc", "MONAI", "MONAI, tuned"]
        assert len({row["augmentation"] for row in (ours, monai, tuned)}) == 1
        for row in (ours, monai, tuned):
            assert row["fails"] is None
            assert row["per_wall_second"] > 0
            rate = row["per_cpu_second"]
            relative = row["rate_relative_to_monai"], row["rate_relative_to_tuned_monai"]
            expected = rate / monai["per_cpu_second"], rate / tuned["per_cpu_second"]
            assert relative == pytest.approx(expected)
    assert rows[0]["augmentation"] == "none"
    assert "rotation" in rows[6]["augmentation"]


def test_patches_need_the_peer(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai", None)

    assert benchmark.main(["patches", "--size", "24", "--input-size", "8"]) == 1

    assert "monai is not installed: pip install" in capsys.readouterr().err


@pytest.mark.parametrize("contestant", ["_ours", "_monai", "_tuned_monai"])
@pytest.mark.parametrize("augmentation", tissue_patches._AUGMENTATIONS, ids=lambda a: a.name)
def test_contestants_draw_patches_of_the_same_kind(contestant, augmentation):
    subjects = [tissue_patches._subject((24, 12, 24), seed) for seed in range(2)]
    draw = getattr(tissue_patches, contestant)(subjects, augmentation, 8, seed=0)
    patches = [patch for _ in range(4) for patch in draw()]
    assert len(patches) == 16
    for patch in patches:
        assert tuple(patch["image"].shape) == (1, 8, 8, 8)
        assert patch["labels"].numel() == 8**3
        assert set(patch["labels"].unique().tolist()) <= {0, 1, 2, 3}
    assert len({np.asarray(patch["image"]).tobytes() for patch in patches}) == 16


def test_brains_of_the_benchmark():
    subject = tissue_patches._subject((64, 32, 64), seed=3)
    assert subject.brain.mean() == pytest.approx(1 / 7, abs=0.01)
    assert np.bincount(subject.labels.ravel()).min() > 500
    np.testing.assert_array_equal(subject.image[~subject.brain], subject.background)
    assert subject.image[subject.brain].std() == pytest.approx(1, abs=0.05)


def times_of(result):
    return result["tables"]["time against the fastest 3d"]


def test_block(tmp_path):
    arguments = ("--size", "6", "--segments", "1-24", "--device", "cpu", "--precisions", "fp32")

    result = run(tmp_path, "block", *arguments)

    check_environment(result)
    segments = ["3d", "p1sc1", "p2sc1", "p2sc2", "p2sc3", "p3sc2"]
    errors = result["tables"]["bf16 against fp32"]
    assert [row["segment"] for row in errors] == segments
    for row in errors:  # bf16 has 8 bits: wrong kernels are off by 1, right ones by 0.01 to 0.1
        assert 0 < row["output_error"] < 0.05
        assert 0 < row["gradient_error"] < 0.3
    times = times_of(result)
    layouts = ["contiguous", "channels_last_3d"]
    forms = [("3d", "plain", layout) for layout in layouts]
    forms += [(s, f, layout) for s in segments[1:] for f in ("auto", "plain") for layout in layouts]
    assert [(row["segment"], row["formulation"], row["layout"]) for row in times] == forms
    for row in times:
        assert row["fails"] is None
        assert (row["channels"], row["input"], row["precision"]) == ("1-24", "1x6x6x6", "fp32")
        assert row["clock"] == "CPU seconds"
    check_ratios(times)
    p1sc1 = times[2]
    # 1 to 24 to 24 channels with 27 taps each, against 9 taps to M = 8 (Eq. 5) and 3 to 24, twice.
    expected = (9 * 8 + 3 * 8 * 24 + 9 * 24 * 8 + 3 * 8 * 24) / (27 * 24 + 27 * 24 * 24)
    assert p1sc1["forward_flop_ratio"] == pytest.approx(expected)


def check_ratios(times):
    """Every ratio follows from the seconds of the table."""
    for what in ("forward", "training"):
        seconds = f"{what}_seconds"
        assert all(row[seconds] > 0 for row in times)
        peer = min(row[seconds] for row in times if row["segment"] == "3d")
        for row in times:
            of_segment = [r for r in times if r["segment"] == row["segment"]]
            plain = min(r[seconds] for r in of_segment if r["formulation"] == "plain")
            ratio = row[f"{what}_time_ratio"]
            assert ratio == pytest.approx(row[seconds] / peer)
            over_flops = ratio / row[f"{what}_flop_ratio"]
            assert row[f"{what}_time_over_flops"] == pytest.approx(over_flops)
            assert row[f"{what}_relative_to_plain"] == pytest.approx(row[seconds] / plain)


def test_block_of_the_resnet(tmp_path):
    arguments = ("--size", "8", "--segments", "64-64", "--blocks", "p2sc2", "--device", "cpu")

    result = run(tmp_path, "block", *arguments, "--precisions", "fp32", "--batch-size", "2")

    times = times_of(result)
    check_ratios(times)
    assert {row["input"] for row in times} == {"2x8x8x8"}
    # Eq. 5 gives 144 for 64 to 64, 72 for each of two streams, with no cap of the backbone's.
    stream = 9 * 64 * 72 + 9 * 72 * 72 + 5 * 72 * 32
    for row in times[2:]:
        assert row["segment"] == "p2sc2"
        assert row["forward_flop_ratio"] == pytest.approx(2 * stream / (2 * 27 * 64 * 64))
    (auto, plain) = result["tables"]["fastest layout of each"]
    assert (auto["formulation"], plain["formulation"]) == ("auto", "plain")
    for best, rows in ((auto, times[2:4]), (plain, times[4:])):
        for what in ("forward", "training"):
            expected = min(row[f"{what}_time_over_flops"] for row in rows)
            assert best[f"{what}_time_over_flops"] == expected
        over = max(best["forward_time_over_flops"], best["training_time_over_flops"])
        assert best["at_most_1.2"] == (over <= 1.2)
    assert plain["forward_relative_to_plain"] == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_block_on_a_gpu(tmp_path):
    result = run(tmp_path, "block", "--size", "8", "--device", "cuda")

    times = times_of(result)
    assert {row["precision"] for row in times} == {"fp32", "tf32", "bf16"}
    assert len(times) == 9 * 3 * 2 * (1 + 5 * 2)  # levels, precisions, layouts, forms
    assert all(row["fails"] is None and row["training_peak_extra_mb"] > 0 for row in times)
    assert all(row["output_error"] < 0.05 for row in result["tables"]["bf16 against fp32"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["block", "--segments", "24-71"], "segments ['24-71']: there are unet, resnet, 1-24"),
        (["block", "--blocks", "p4sc1"], "block p4sc1: there are 3d, p1sc1"),
        (["block", "--size", "6", "--padding", "valid"], "size = 6: p2sc3 looks at 7 voxels"),
        (["networks", "--backbones", "vgg"], "backbone vgg: there are densenet"),
        (["networks", "--backbones", "unet", "--size", "20"], "nearest valid sizes: 16"),
        (["block", "--device", "cpu", "--precisions", "tf32"], "on cpu there are fp32, bf16"),
        (
            ["crops", "--size", "20", "--input-size", "21"],
            "crop of 21 voxels does not fit into a volume of 20",
        ),
        (
            ["patches", "--size", "40", "--input-size", "21"],
            "patch of 21 voxels does not fit into a volume of (40, 20, 40)",
        ),
    ],
)
def test_refusals_leave_no_file(tmp_path, capsys, arguments, message):
    path = tmp_path / "result.json"

    assert benchmark.main([*arguments, "--out", str(path)]) == 1

    assert message in capsys.readouterr().err
    assert not path.exists()


def test_contestants_take_turns_after_a_warm_up():
    order = []

    def fails():
        order.append("c")
        raise ValueError("first line\nsecond line")

    contestants = {"a": lambda: order.append("a"), "c": fails, "b": lambda: order.append("b")}
    timings = timing.interleave(contestants, repeats=3)

    assert "".join(order) == "aa" + "c" + "bb" + 3 * "ab"
    assert list(timings) == ["a", "c", "b"]
    assert len(timings["a"].cpu) == len(timings["b"].wall) == 3
    assert timings["c"].failure == "ValueError: first line"
    assert timings["c"].cpu_median is timings["c"].wall_median is None


def test_who_fails_late_is_out_of_the_race():
    left = [None, None, None]  # two calls that warm up, one round

    def fails_in_the_second_round():
        left.pop()

    contestants = {"a": fails_in_the_second_round, "b": lambda: None}
    timings = timing.interleave(contestants, repeats=3)

    assert timings["a"].failure == "IndexError: pop from empty list"
    assert timings["a"].median("cpu") is None
    assert len(timings["b"].wall) == 3


def test_short_calls_are_repeated_and_waited_for():
    calls, waits = [], []

    timing.interleave(
        {"a": lambda: calls.append(1)},
        repeats=1,
        finish=lambda: waits.append(len(calls)),
        shortest=0.001,
    )

    assert len(calls) > 10
    assert waits == [0, 1, 1, 2, 2, len(calls)]  # before and after each measurement


def test_peak_memory_counts_what_is_freed_again():
    def hold():
        np.zeros(4_000_000, dtype=np.uint8)
        np.zeros(1_000_000, dtype=np.uint8)

    assert 4_000_000 <= timing.peak_python_memory(hold) < 4_100_000


def test_label_volumes():
    truth, predicted = metrics.label_volumes(30, seed=3)

    changes = np.zeros(truth.shape, dtype=bool)
    for axis in range(3):
        changes |= (truth != np.roll(truth, 1, axis)) | (truth != np.roll(truth, -1, axis))
    inside = (slice(1, -1),) * 3
    touching = (truth != 0) & changes
    for axis in range(3):  # a segment's neighbours are itself and unknown, never another segment
        here, before = np.moveaxis(truth, axis, 0)[1:], np.moveaxis(truth, axis, 0)[:-1]
        assert not np.any((here != before) & (here != 0) & (before != 0))
    assert touching[inside].any()
    assert predicted.min() > 0
    assert len(np.unique(truth)) - 1 > len(np.unique(predicted)) > 1
    assert np.array_equal(truth, metrics.label_volumes(30, seed=3)[0])
    assert not np.array_equal(truth, metrics.label_volumes(30, seed=4)[0])
