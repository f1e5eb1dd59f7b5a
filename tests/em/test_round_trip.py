"""Labels → true affinities → segmentation must give the labels back, voxel by voxel.

This is what fails if two modules disagree about which voxel holds an edge.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from psc.em.affinities import affinities_from_labels
from psc.em.labels import split_disconnected
from psc.em.settings import SegmentationOptions
from psc.em.watershed import segment
from psc.metrics import segmentation_scores


def assert_recovered(labels: np.ndarray, scoring: str) -> None:
    affinities, _ = affinities_from_labels(labels, zero_label="boundary")
    options = SegmentationOptions(fragments="waterz", scoring=scoring, thresholds=(0.1, 0.5, 0.9))
    for threshold, segmentation in segment(affinities, options):
        scores = segmentation_scores(labels, segmentation)
        assert scores.split == scores.merge == 0, threshold
        assert scores.predicted_segments == scores.truth_segments > 1


@pytest.mark.parametrize("scoring", ["mean", "aff50_his256", "hist_quant_50"])
@pytest.mark.parametrize(
    ("shape", "cells"), [((24, 20, 28), 15), ((1, 30, 31), 9), ((17, 5, 40), 60)]
)
def test_blobs(blobs, shape, cells, scoring):
    assert_recovered(blobs(shape, cells, seed=cells), scoring)


def test_blobs_with_background(blobs):
    labels = blobs((24, 24, 24), 20)
    labels[np.random.default_rng(0).random(labels.shape) < 0.1] = 0
    assert_recovered(split_disconnected(labels), "mean")


def test_perfect_affinities_and_seeds(blobs):
    # A flat boundary leaves a mean affinity of 5/6 at either side: the threshold must exceed it.
    labels = blobs((32, 32, 32), 8)
    affinities, _ = affinities_from_labels(labels, zero_label="boundary")
    options = SegmentationOptions(boundary_threshold=0.9, scoring="hist_quant_50")
    ((_, segmentation),) = segment(affinities, options, [0.5])
    scores = segmentation_scores(labels, segmentation)
    assert scores.total < 0.35
    assert scores.adapted_rand_error < 0.1


@pytest.mark.sample
@pytest.mark.skipif("PSC_SAMPLE_DATA" not in os.environ, reason="PSC_SAMPLE_DATA is not set")
def test_real_neurons():
    import h5py

    path = Path(os.environ["PSC_SAMPLE_DATA"]) / "em/fib25/training_sample2_z000-207.h5"
    with h5py.File(path) as file:
        labels = split_disconnected(file["volumes/labels/neuron_ids"][:64])
    assert_recovered(labels, "aff50_his256")
