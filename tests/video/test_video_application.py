"""From films to record: the video application on a tiny synthetic data set, on real files."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from psc.applications import build_application
from psc.config import compose
from psc.config.schema import EvaluateConfig
from psc.errors import ConfigError, DataError
from psc.training.evaluation import evaluate_checkpoint
from psc.training.training import train
from psc.video import application


def overrides(folder, *more):
    return [
        "backbone=resnet18",
        "block=p2sc2",
        "budget=quick",
        "dataset=ucf101_synthetic",
        f"dataset.videos={folder}/films/UCF-101",
        f"dataset.lists={folder}/films/ucfTrainTestlist",
        f"dataset.prepared={folder}/prepared",
        "dataset.synthetic={groups: 4, clips: 1, seed: 0}",
        "dataset.validation_groups=1",
        "dataset.short_side=16",
        "backbone.base_width=4",
        "recipe.iterations=4",
        "recipe.validate_every=2",
        "recipe.batch_size=4",
        "recipe.frames=8",
        "recipe.size=16",
        "recipe.test_clips=3",
        "trainer.accelerator=cpu",
        "trainer.progress_bar=false",
        f"output_directory={folder}/runs",
        *more,
    ]


@pytest.fixture(scope="module", autouse=True)
def written():
    """What writing the stand-in returned; its films are short here."""
    returned, write = [], application.write_synthetic_videos

    def write_short_films(folder, films):
        returned.append(write(folder, films, frames=(12, 16)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(application, "write_synthetic_videos", write_short_films)
        yield returned


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: record and folder of everything."""
    folder = tmp_path_factory.mktemp("video")
    return train(compose(overrides(folder))), folder


def test_a_run_leaves_scores_and_where_they_come_from(finished):
    record, folder = finished
    run = folder / "runs" / record.run
    assert json.loads((run / "result.json").read_text())["metrics"] == record.metrics
    for part in ("validation", "test"):
        scores = record.metrics[part]
        assert 0 <= scores["top1"] <= scores["top5"] <= 1
        assert 0 <= scores["clip_top1"] <= 1
    assert record.data["kind"] == "synthetic"
    assert record.data["splits"]["classes"] == 10
    assert record.data["splits"]["videos"] == {"train": 20, "validation": 10, "test": 10}
    (store,) = record.data["files"]
    assert (store["videos"], len(store["sha256"])) == (40, 64)
    assert record.throughput["gflop_per_iteration"] > 0
    with (run / "evaluation" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    right = sum(row["class"] == row["predicted"] for row in rows)
    assert right / len(rows) == pytest.approx(record.metrics["test"]["top1"])
    assert (run / "evaluation" / "confusion.png").is_file()
    columns = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/error", "validation/loss", "validation/top1"} <= set(columns)


def test_evaluating_its_checkpoint_gives_the_same_scores(finished, tmp_path):
    record, folder = finished
    checkpoint = folder / "runs" / record.run / "checkpoints" / "best.ckpt"
    again = evaluate_checkpoint(
        EvaluateConfig(checkpoint=str(checkpoint), output=str(tmp_path / "out"), accelerator="cpu")
    )
    assert again.metrics == record.metrics


def test_videos_that_trained_are_not_tested(finished, tmp_path):
    """Of another official split."""
    record, folder = finished
    checkpoint = folder / "runs" / record.run / "checkpoints" / "best.ckpt"
    other = compose(overrides(folder, "dataset.split=2")).dataset
    with pytest.raises(DataError, match=r"ucf101_synthetic: .* of the test part trained .*best"):
        evaluate_checkpoint(
            EvaluateConfig(
                checkpoint=str(checkpoint),
                dataset=other,
                output=str(tmp_path / "out"),
                accelerator="cpu",
            )
        )
    assert not (tmp_path / "out").exists()


def test_the_same_run_again_gives_the_same_scores(finished):
    record, folder = finished
    again = train(compose(overrides(folder)))
    assert again.run == f"{record.run}-2"
    assert again.metrics == record.metrics


def test_runs_that_start_together_prepare_the_data_once(tmp_path, written):
    """As in a sweep: both begin without films or store."""
    config = compose(overrides(tmp_path))
    written.clear()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(build_application, config) for _ in range(2)]
        first, second = (future.result().data_record() for future in both)
    assert first == second
    assert written == [True, False]


def test_a_network_of_other_classes_is_refused(finished):
    """A checkpoint that is to be evaluated on another data set."""
    _, folder = finished
    config = compose(overrides(folder))
    config.backbone.classes = 18
    with pytest.raises(ConfigError, match=r"network has 18 classes, split 1 .* has 10; use"):
        build_application(config)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("dataset.classes=7", ConfigError, "set dataset.classes=10"),
        ("dataset.short_side=20", DataError, "short_side is"),
        ("dataset.validation_groups=3", ConfigError, "validation_groups must be"),
    ],
)
def test_what_the_data_cannot_give_is_refused(finished, override, error, message):
    _, folder = finished
    with pytest.raises(error, match=message):
        build_application(compose(overrides(folder, override)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.classes=5", "has 10 classes"),
        ("recipe.size=96", "does not fit into frames"),
        ("recipe.frames=0", "recipe.frames=0: must be at least 1"),
        ("recipe.label_smoothing=1", "label_smoothing"),
        ("recipe.mixup=-1", "mixup"),
        ("dataset.split=4", "dataset.split=4: allowed are 1, 2, 3"),
    ],
)
def test_impossible_configurations_are_refused_before_any_data(tmp_path, override, message):
    plain = ["backbone=resnet18", "budget=paper", "dataset=ucf101_synthetic"]
    with pytest.raises(ConfigError, match=message):
        compose([*plain, override])


def test_volumes_are_no_videos():
    with pytest.raises(ConfigError, match="classifies videos and cannot read dataset=fibsem"):
        compose(
            ["backbone=resnet18", "dataset=fibsem_synthetic", "backbone.classes=2", "budget=paper"]
        )


def test_batch_norm_of_a_single_value_is_refused():
    tiny = ["recipe.batch_size=1", "recipe.frames=8", "recipe.size=16"]
    with pytest.raises(ConfigError, match="batch_size=1 with clips of 8×16×16"):
        compose(["backbone=resnet18", "budget=quick", *tiny])
