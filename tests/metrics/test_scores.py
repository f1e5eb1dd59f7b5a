"""All scores at once, and the figures of a published segmentation on real data."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from psc.metrics import adapted_rand, segmentation_scores, variation_of_information


def test_equal_the_single_metrics():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 9, (5, 6, 7))
    predicted = rng.integers(0, 5, (5, 6, 7))

    scores = segmentation_scores(truth, predicted, ignore_predicted=(3,))

    information = variation_of_information(truth, predicted, ignore_predicted=(3,))
    rand = adapted_rand(truth, predicted, ignore_predicted=(3,))
    assert (scores.split, scores.merge) == information
    assert scores.total == information.total
    assert (scores.adapted_rand_error, scores.rand_precision, scores.rand_recall) == rand
    assert scores.voxels == np.count_nonzero((truth != 0) & (predicted != 3))
    assert (scores.truth_segments, scores.predicted_segments) == (8, 4)


def test_can_be_written_into_a_record():
    scores = segmentation_scores(np.array([1, 1, 2]), np.array([1, 2, 2]))

    assert json.loads(json.dumps(scores._asdict())) == scores._asdict()


@pytest.fixture(scope="module")
def fib25():
    """FIB-25 training_sample2: labels, and the published flood-filling network's segmentation."""
    folder = os.environ.get("PSC_SAMPLE_DATA")
    if not folder:
        pytest.skip("PSC_SAMPLE_DATA is not set")
    em = Path(folder) / "em"
    with h5py.File(em / "fib25" / "training_sample2_z000-207.h5") as file:
        truth = file["volumes/labels/neuron_ids"][:]
    with np.load(em / "ffn_result" / "sample-training2.npz", allow_pickle=False) as file:
        predicted = file["segmentation"][: len(truth)]  # its slices go on to 249
    return truth, predicted


# scikit-image 0.26's figures, on label volumes converted to int64; the sample data's own notes give
# the same ones to five decimals (0.53153517 as 0.53153).
@pytest.mark.sample
@pytest.mark.parametrize(
    ("slices", "ignore_predicted", "split", "merge"),
    [
        (slice(0, 208), (0,), 0.54299861, 0.23940168),
        (slice(0, 208), (), 0.81059097, 0.76589142),
        (slice(166, 208), (0,), 0.41376063, 0.20545707),
        (slice(166, 208), (), 0.62146819, 0.53153517),
    ],
)
def test_flood_filling_network_on_fib25(fib25, slices, ignore_predicted, split, merge):
    truth, predicted = fib25

    scores = segmentation_scores(
        truth[slices], predicted[slices], ignore_predicted=ignore_predicted
    )

    assert scores.split == pytest.approx(split, abs=1e-8)
    assert scores.merge == pytest.approx(merge, abs=1e-8)
