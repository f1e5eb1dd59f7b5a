"""The test protocol: what is reported is what was saved, and test data chooses nothing."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from psc.config import compose
from psc.config.schema import EvaluateConfig
from psc.em.data import read_splits
from psc.em.settings import SegmentationChanges
from psc.errors import ConfigError, DataError
from psc.metrics import segmentation_scores
from psc.training.evaluation import evaluate_checkpoint
from psc.volumes import output


def test_the_reported_scores_are_those_of_the_saved_segmentation(finished_run):
    record, folder, overrides = finished_run
    with h5py.File(folder / "evaluation" / "test-0.h5") as file:
        segmentation = file[output.SEGMENTATION][:]
        truth = file[output.TRUTH][:]
        affinities = file[output.AFFINITIES][:]
        assert file[output.RAW].attrs["resolution"].tolist() == [8, 8, 8]
        assert file[output.RAW].attrs["offset_voxels"].tolist() == [36, 0, 0]
        assert file.attrs["agglomeration_threshold"] == record.metrics["threshold"]
        assert file.attrs["run"] == record.run
    scores = segmentation_scores(truth, segmentation)
    assert record.metrics["test"]["total"] == pytest.approx(scores.total, abs=1e-9)
    assert affinities.shape == (3, 12, 40, 40)
    splits = read_splits(compose(overrides).dataset)
    np.testing.assert_array_equal(truth, splits.parts["test"][0].labels)


def test_the_threshold_is_the_best_of_validation_not_of_test(finished_run):
    record = finished_run[0]
    sweep = record.metrics["sweep"]
    best = min(sweep, key=lambda row: (row["total"], row["threshold"]))
    assert record.metrics["threshold"] == best["threshold"]
    assert record.metrics["validation"]["total"] == best["total"]


def test_evaluate_gives_the_numbers_of_the_run(finished_run, tmp_path):
    record, folder, _ = finished_run
    best = folder / "checkpoints" / "best.ckpt"
    config = EvaluateConfig(checkpoint=str(best), accelerator="cpu", output=f"{tmp_path}/out")
    again = evaluate_checkpoint(config)
    assert again.metrics == record.metrics
    assert again.iterations in (2, 4, 6)  # of the best checkpoint, not of the run
    with pytest.raises(ConfigError, match="overwrite=true"):
        evaluate_checkpoint(config)


def test_overwriting_replaces_our_files_and_spares_everybody_elses(finished_run, tmp_path):
    best = finished_run[1] / "checkpoints" / "best.ckpt"
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "test-7.h5").write_text("of an earlier evaluation")
    config = EvaluateConfig(
        checkpoint=str(best), accelerator="cpu", output=str(tmp_path), overwrite=True
    )
    evaluate_checkpoint(config)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "test-0.h5").stat().st_size > 0
    assert not (tmp_path / "test-7.h5").exists()
    with pytest.raises(ConfigError, match="is a file"):
        evaluate_checkpoint(replace(config, output=str(tmp_path / "thesis.txt")))


def test_evaluate_changes_what_it_is_told_and_nothing_else(finished_run, tmp_path):
    record, folder, _ = finished_run
    best = folder / "checkpoints" / "best.ckpt"
    changes = SegmentationChanges(thresholds=[0.3])
    again = evaluate_checkpoint(
        EvaluateConfig(
            checkpoint=str(best), accelerator="cpu", output=f"{tmp_path}/out", segmentation=changes
        )
    )
    assert again.metrics["threshold"] == 0.3
    assert again.config == record.config | {
        "segmentation": record.config["segmentation"] | {"thresholds": [0.3]}
    }


@pytest.mark.parametrize(
    ("parts", "refused"),
    [
        ({"validation": (24, 36), "test": (20, 24)}, "test"),  # trained
        ({"validation": (36, 40), "test": (30, 36)}, "test"),  # chose
        ({"validation": (20, 24), "test": (36, 48)}, "validation"),
        ({"validation": (24, 36), "test": (36, 48)}, None),
    ],
)
def test_sections_that_trained_are_not_tested(finished_run, tiny_volume, tmp_path, parts, refused):
    record, folder, overrides = finished_run
    copy = tmp_path / "renamed.h5"
    copy.write_bytes(tiny_volume.read_bytes())
    trained = compose(overrides).dataset

    def slab(start, stop):
        return replace(trained.test[0], raw=str(copy), z=[start, stop])

    train = [slab(0, 8)]
    other = replace(trained, train=train, **{name: [slab(*z)] for name, z in parts.items()})
    config = EvaluateConfig(
        checkpoint=str(folder / "checkpoints/best.ckpt"),
        dataset=other,
        accelerator="cpu",
        output=f"{tmp_path}/out",
    )
    if refused is not None:
        with pytest.raises(
            DataError, match=rf"renamed\[.* of the {refused} part trained .*sections"
        ):
            evaluate_checkpoint(config)
        return
    again = evaluate_checkpoint(config)
    assert again.metrics["test"] == record.metrics["test"]
    assert again.data["splits"]["train"] == []
    assert again.data["trained_on"]["train"] == record.data["splits"]["train"]


@pytest.mark.parametrize("name", ["ibsr", "ucf101"])
def test_data_of_another_application_is_refused(finished_run, tmp_path, name):
    best = finished_run[1] / "checkpoints" / "best.ckpt"
    backbone = {"ibsr": "densenet", "ucf101": "resnet18"}[name]
    other = compose([f"backbone={backbone}", f"dataset={name}_synthetic"]).dataset
    with pytest.raises(ConfigError, match=f"={name}_synthetic (is no data for|cannot be read)"):
        evaluate_checkpoint(
            EvaluateConfig(checkpoint=str(best), dataset=other, output=f"{tmp_path}/out")
        )
    assert not (tmp_path / "out").exists()
