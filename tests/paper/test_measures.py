"""How results are written, and which description fits which record."""

from dataclasses import replace

import pytest

from psc.errors import DataError
from psc.paper.measures import AFFINITY, TISSUE, VIDEO, measures_of


def test_the_scores_tell_the_application(make_record, make_video_record, make_tissue_record):
    assert measures_of(make_record()) is AFFINITY
    assert measures_of(make_tissue_record()) is TISSUE
    assert measures_of(make_video_record()) is VIDEO


@pytest.mark.parametrize("metrics", [{}, {"test": {"top1": 0.5}}])
def test_scores_of_no_application_are_refused_by_name(make_record, metrics):
    with pytest.raises(DataError, match=r"run 3d-0 .*split, merge.*top1, top5, clip_top1"):
        measures_of(replace(make_record(), metrics=metrics))


@pytest.mark.parametrize(
    ("measures", "values", "text"),
    [
        (AFFINITY, [1.23456], "1.235"),
        (AFFINITY, [1.0, 1.0], "1.000 ± 0.000"),
        (AFFINITY, [1.0, 2.0], "1.500 ± 0.707"),
        (VIDEO, [0.92345], "92.3"),
        (VIDEO, [0.920, 0.926], "92.3 ± 0.4"),
        (VIDEO, [1.0], "100.0"),
        (TISSUE, [0.87654, 0.87654], "87.7 ± 0.0"),
    ],
)
def test_vi_has_three_decimals_and_percent_one(measures, values, text):
    assert measures.text(values) == text


@pytest.mark.parametrize(("classes", "top1", "top5"), [(10, 0.1, 0.5), (4, 0.25, 1.0)])
def test_chance_is_one_class_of_all(make_video_record, classes, top1, top5):
    floor = VIDEO.floor(make_video_record(splits={"classes": classes}))
    assert floor == {"top1": top1, "top5": top5, "clip_top1": top1}


def test_dice_is_compared_on_the_same_subjects_labels_and_windows(make_tissue_record):
    test = TISSUE.test(make_tissue_record())
    assert TISSUE.test(make_tissue_record(dice=0.1, seed=3)) == test
    for other in (
        make_tissue_record(test=("IBSR_04", "IBSR_06")),
        make_tissue_record(labels="unfilled"),
        make_tissue_record(recipe={"overlap": 0.25}),
        make_tissue_record(recipe={"blending": "constant"}),
    ):
        assert TISSUE.test(other) != test


@pytest.mark.parametrize("measures", [AFFINITY, VIDEO, TISSUE])
def test_a_description_is_complete(measures, make_record, make_video_record, make_tissue_record):
    assert measures.headline in measures.scores
    record = {AFFINITY: make_record, VIDEO: make_video_record, TISSUE: make_tissue_record}[
        measures
    ]()
    assert {score.key for score in measures.scores} <= measures.floor(record).keys()
