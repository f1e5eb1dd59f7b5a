"""Scores of subjects: counted by hand, and their mean against NumPy's."""

import json
import math

import numpy as np
import pytest

from psc.errors import DataError
from psc.metrics.tissues import (
    MEASURES,
    TissueScore,
    TissueScores,
    hausdorff95,
    summarise,
    tissue_scores,
)

TISSUES = {"csf": 1, "gm": 2, "wm": 3}
VOXEL = (2.0, 5.0, 10.0)  # 0.1 ml


@pytest.fixture
def volumes():
    """Fluid found but for one voxel of four, grey matter doubled, white matter missed."""
    truth = np.zeros((5, 6, 7), dtype=np.uint8)
    prediction = truth.copy()
    truth[0, 0, :4], prediction[0, 0, 1:4] = 1, 1
    truth[2, 1], prediction[2, 1:3] = 2, 2
    truth[4, 5, :2] = 3
    return truth, prediction


def test_counted_by_hand(volumes):
    scores = tissue_scores(*volumes, VOXEL, TISSUES)

    csf, gm, wm = scores.tissues.values()
    assert list(scores.tissues) == ["csf", "gm", "wm"]
    assert (csf.dice, gm.dice, wm.dice) == (6 / 7, 2 / 3, 0)
    assert (csf.volume_truth, gm.volume_truth, wm.volume_truth) == pytest.approx((0.4, 0.7, 0.2))
    assert (csf.volume_predicted, gm.volume_predicted) == pytest.approx((0.3, 1.4))
    assert (csf.volume_difference, gm.volume_difference) == (-25, 100)
    assert wm.volume_difference == -100
    assert csf.hd95 == hausdorff95(*volumes, 1, VOXEL) == pytest.approx(8.5)  # 85 % of a voxel
    assert wm.hd95 == pytest.approx(math.hypot(10, 30, 70))
    assert (csf.missed, gm.missed, wm.missed) == (False, False, True)
    assert (scores.missed, scores.invented) == (1, 0)
    assert scores.dice_mean == pytest.approx((6 / 7 + 2 / 3 + 0) / 3)


def test_invented_and_absent_tissues(volumes):
    truth, prediction = volumes
    truth[truth == 1] = 0  # nobody has fluid but the prediction
    truth[truth == 3] = 0  # nobody has white matter at all

    scores = tissue_scores(truth, prediction, VOXEL, TISSUES)

    csf, _, wm = scores.tissues.values()
    assert csf.dice == 0
    assert csf.hd95 == pytest.approx(math.hypot(10, 30, 70))
    assert math.isnan(csf.volume_difference)
    assert (csf.invented, csf.missed) == (True, False)
    assert math.isnan(wm.dice)
    assert math.isnan(wm.hd95)
    assert (wm.invented, wm.missed) == (False, False)
    assert scores.dice_mean == pytest.approx((0 + 2 / 3) / 2)
    assert (scores.missed, scores.invented) == (0, 1)


def test_a_row_has_a_column_for_every_measure_of_every_tissue(volumes):
    truth, prediction = volumes
    truth[truth == 3] = 0
    row = tissue_scores(truth, prediction, VOXEL, TISSUES).as_row()
    names = [f"{measure}_{tissue}" for measure in MEASURES for tissue in TISSUES]
    assert list(row) == [*names[:3], "dice_mean", *names[3:], "missed", "invented"]
    assert row["volume_difference_gm"] == 100
    assert row["dice_wm"] is None
    assert row["volume_truth_wm"] == 0
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def subject(dice, missed=False, tissue="gm"):
    score = TissueScore(dice, 100 * dice, 5.0, 4.0, -20.0, missed, False)
    return TissueScores({tissue: score})


def test_the_summary_keeps_missed_structures_and_leaves_out_undefined_ones():
    dice = [0.9, 0.8, 0.0, math.nan]
    row = summarise([subject(value, missed=value == 0) for value in dice])
    assert row["dice_gm"] == row["dice_mean"] == pytest.approx(np.mean(dice[:3]))
    assert row["dice_gm_sd"] == row["dice_mean_sd"] == pytest.approx(np.std(dice[:3], ddof=1))
    assert row["hd95_gm"] == pytest.approx(100 * row["dice_gm"])
    assert (row["volume_truth_gm"], row["volume_truth_gm_sd"]) == (5, 0)  # of all four
    assert (row["missed"], row["missed_gm"], row["subjects"]) == (1, 1, 4)
    assert (row["invented"], row["invented_gm"]) == (0, 0)
    json.dumps(row, allow_nan=False)


def test_one_subject_has_a_mean_and_no_deviation():
    row = summarise([subject(0.5)])
    assert (row["dice_gm"], row["dice_gm_sd"]) == (0.5, None)
    assert summarise([subject(math.nan)])["dice_gm"] is None


def test_what_cannot_be_scored_is_refused(volumes):
    truth, prediction = volumes
    with pytest.raises(DataError, match="no tissue to score"):
        tissue_scores(truth, prediction, VOXEL, {})
    with pytest.raises(DataError, match="prediction holds the value 4"):
        tissue_scores(truth, np.full_like(truth, 4), VOXEL, TISSUES)
    with pytest.raises(DataError, match="shape"):
        tissue_scores(truth, prediction[1:], VOXEL, TISSUES)
    with pytest.raises(DataError, match="voxel_size"):
        tissue_scores(truth, prediction, (1.0, 1.0), TISSUES)
    with pytest.raises(DataError, match="no subject"):
        summarise([])
    with pytest.raises(DataError, match="different tissues: gm and wm"):
        summarise([subject(0.5), subject(0.5, tissue="wm")])
