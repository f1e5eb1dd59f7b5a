"""The protocol on affinities made from labels: several regions, thresholds, averages."""

import numpy as np
import pytest

from psc.em.affinities import affinities_from_labels
from psc.em.data import Region, Splits, read_volume
from psc.em.settings import SegmentationConfig
from psc.em.testing import run_protocol
from psc.metrics import segmentation_scores


def test_several_regions_count_by_their_voxels(tiny_volume):
    volume = read_volume(tiny_volume)
    regions = [Region(volume, 0, 12), Region(volume, 12, 20), Region(volume, 20, 48)]
    parts = {"train": (), "validation": tuple(regions[:1]), "test": tuple(regions[1:])}
    splits = Splits(parts, "real", ())
    options = SegmentationConfig(
        fragments="waterz", high=0.999, scoring="mean", thresholds=(0.3, 0.6)
    )
    rng = np.random.default_rng(0)

    def noisy(region):
        affinities, _ = affinities_from_labels(region.labels)
        return np.where(rng.random(affinities.shape) < 0.02, 0, affinities).astype(np.float32)

    outcome = run_protocol(noisy, splits, options)
    totals = [
        segmentation_scores(region.labels, segmentation).total
        for region, segmentation in zip(splits.parts["test"], outcome.segmentations, strict=True)
    ]
    assert totals[0] != totals[1]
    assert outcome.test["total"] == pytest.approx((8 * totals[0] + 28 * totals[1]) / 36)
    assert outcome.threshold in (0.3, 0.6)
    assert [row["threshold"] for row in outcome.sweep] == [0.3, 0.6]
