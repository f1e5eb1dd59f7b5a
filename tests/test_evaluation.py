"""The test protocol: what is reported is what was saved, and test data chooses nothing."""

import h5py
import numpy as np
import pytest

from psc.config import compose
from psc.config.schema import EvaluateConfig, SegmentationChanges
from psc.datasets import output
from psc.datasets.regions import Region
from psc.datasets.splits import Splits, read_splits
from psc.datasets.volumes import read_volume
from psc.errors import ConfigError
from psc.evaluation import evaluate_checkpoint, run_protocol, truth_of
from psc.metrics import segmentation_scores
from psc.segmentation.affinities import affinities_from_labels
from psc.segmentation.pipeline import SegmentationOptions


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
    np.testing.assert_array_equal(truth, truth_of(splits.test[0]))


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


def test_several_regions_count_by_their_voxels(tiny_volume):
    volume = read_volume(tiny_volume)
    regions = [Region(volume, 0, 12), Region(volume, 12, 20), Region(volume, 20, 48)]
    splits = Splits((), tuple(regions[:1]), tuple(regions[1:]), "real", ())
    options = SegmentationOptions(
        fragments="waterz", high=0.999, scoring="mean", thresholds=(0.3, 0.6)
    )
    rng = np.random.default_rng(0)

    def noisy(region):
        affinities, _ = affinities_from_labels(truth_of(region))
        return np.where(rng.random(affinities.shape) < 0.02, 0, affinities).astype(np.float32)

    outcome = run_protocol(noisy, splits, options)
    totals = [
        segmentation_scores(truth_of(region), segmentation).total
        for region, segmentation in zip(splits.test, outcome.segmentations, strict=True)
    ]
    assert totals[0] != totals[1]
    assert outcome.test["total"] == pytest.approx((8 * totals[0] + 28 * totals[1]) / 36)
    assert outcome.threshold in (0.3, 0.6)
    assert [row["threshold"] for row in outcome.sweep] == [0.3, 0.6]
