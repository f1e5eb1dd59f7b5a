"""What is averaged, what is compared, and what networks are called."""

from dataclasses import replace
from pathlib import Path

import pytest

from psc.errors import DataError
from psc.paper.groups import (
    by_application,
    comparable,
    group_names,
    group_records,
    of_one_version,
    step_samples,
)


def test_seeds_are_one_group(make_record):
    groups = group_records([make_record(seed=0), make_record("p2sc2"), make_record(seed=1)])
    assert [[record.seed for record in group.records] for group in groups] == [[0, 1], [0]]
    assert groups[0].scores("split") == [0.5, 0.5]
    assert groups[0].floor("total") == [4.0]


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({"trainer": {"progress_bar": False, "workers": 3}}, True),
        ({"dataset": {"name": "d", "test": [{"raw": "there.h5"}]}}, True),  # same bytes elsewhere
        ({"trainer": {"devices": 2}}, False),
        ({"trainer": {"precision": "16-mixed"}}, False),
        ({"recipe": {"iterations": 6, "batch_size": 2}}, False),
        ({"backbone": {"name": "unet", "base_width": 8}}, False),
        ({"dataset": {"name": "d", "zero_label": "boundary"}}, False),
        ({"splits": {"train": ["other[0:9]"], "test": ["here[0:9]"]}}, False),
        ({"commit": "b" * 40}, False),
        ({"dirty": True}, False),
    ],
)
def test_what_decides_a_result_separates(make_record, changes, together):
    groups = group_records([make_record(seed=0), make_record(seed=1, **changes)])
    assert len(groups) == (1 if together else 2)
    assert len(comparable(groups)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {"name": "other"}},
        {"segmentation": {"scoring": "mean"}},
        {"splits": {"test": ["here[9:18]"]}},
    ],
)
def test_other_tests_are_not_compared(make_record, changes):
    groups = group_records([make_record(), make_record("p2sc2"), make_record(**changes)])
    assert [len(together) for together in comparable(groups)] == [2, 1]


def test_a_name_says_what_it_takes(make_record):
    def names(*records):
        return group_names(group_records(records))

    assert names(make_record(), make_record("p2sc2")) == ["3d", "p2sc2"]
    longer = make_record(recipe={"iterations": 1200, "batch_size": 2})
    assert names(make_record(), longer) == ["3d (5 it.)", "3d (1,200 it.)"]
    other = make_record("p2sc2", commit="b" * 40)
    assert names(make_record(), other) == ["3d (aaaaaaaa)", "p2sc2 (bbbbbbbb)"]
    half = make_record(trainer={"precision": "bf16-mixed"})
    assert names(make_record(), half) == ["3d (32-true)", "3d (bf16-mixed)"]
    both = {"train": ["here[0:9]", "there[0:9]"], "test": ["here[0:9]"]}
    few, more = make_record(splits=both | {"train": both["train"][:1]}), make_record(splits=both)
    assert names(few, more) == ["3d (1 slab)", "3d (2 slabs)"]
    wide = make_record(backbone={"name": "unet", "base_width": 8})
    assert names(make_record(), wide, make_record("p2sc2")) == ["3d", "3d #2", "p2sc2"]


def test_summed_streams_are_named(make_record):
    earlier = make_record("p2sc2")  # by code that could only concatenate
    records = [earlier]
    for merge in ("concatenate", "sum"):
        block = earlier.config["block"] | {"merge": merge}
        records.append(replace(earlier, config=earlier.config | {"block": block}))
    groups = group_records(records)
    assert [group.block for group in groups] == ["p2sc2", "p2sc2", "p2sc2 summed"]
    assert group_names(groups[1:]) == ["p2sc2", "p2sc2 summed"]


RECIPE = {"iterations": 5, "batch_size": 32, "test_clips": 20}


@pytest.mark.parametrize(
    ("changes", "together"),
    [
        ({"segmentation": {"scoring": "another"}}, True),
        ({"dataset": {"name": "v", "videos": "x", "lists": "y", "prepared": "z"}}, True),
        ({"dataset": {"name": "v", "prepare": True}}, True),  # who wrote the store decides nothing
        ({"trainer": {"devices": 1, "num_nodes": 1, "workers": 4}}, True),
        ({"trainer": {"devices": 2, "num_nodes": 1}}, False),
        ({"recipe": RECIPE | {"frames": 8}}, False),
        ({"recipe": RECIPE | {"shuffle_frames": True}}, False),
        ({"splits": {"validation_groups": [7]}}, False),
        ({"backbone": {"name": "resnet34", "weights": "w.pt"}}, False),
        ({"commit": "b" * 40}, False),
    ],
)
def test_what_decides_a_result_of_videos_separates(make_video_record, changes, together):
    groups = group_records([make_video_record(seed=0), make_video_record(seed=1, **changes)])
    assert len(groups) == (1 if together else 2)
    assert len(comparable(groups)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {"name": "other"}},
        {"files": "f01"},
        {"splits": {"split": "split 2"}},
        {"splits": {"videos": {"train": 3200, "validation": 10, "test": 39}}},
        {"splits": {"classes": 59}},
        {"recipe": RECIPE | {"test_clips": 1}},
    ],
)
def test_other_tests_of_videos_are_not_compared(make_video_record, changes):
    records = [make_video_record(), make_video_record("p2sc2"), make_video_record(**changes)]
    groups = group_records(records)
    assert [len(together) for together in comparable(groups)] == [2, 1]


def test_scores_of_videos_are_shares_and_chance_their_floor(make_video_record):
    (group,) = group_records([make_video_record(top1=0.5), make_video_record(seed=1, top1=0.75)])
    assert group.scores("top1") == [0.5, 0.75]
    assert group.floor("top1") == [1 / 60]


def test_applications_are_apart(make_record, make_video_record):
    records = [make_record(), make_video_record(), make_record("p2sc2")]
    groups = group_records(records)
    applications = by_application(groups)
    assert {m.name: len(some) for m, some in applications.items()} == {"affinity": 2, "video": 1}
    assert [len(together) for together in comparable(groups)] == [2, 1]


def test_a_control_is_named(make_video_record):
    control = make_video_record(recipe=RECIPE | {"shuffle_frames": True})
    names = group_names(group_records([make_video_record(), control]))
    assert names == ["3d", "3d (shuffled frames)"]


@pytest.fixture
def records(make_record):
    return {
        Path("runs/a"): make_record(commit="abc1" + "0" * 36),
        Path("runs/b"): make_record(commit="abc1" + "0" * 36, dirty=True),
        Path("runs/c"): make_record(commit="abc2" + "0" * 36),
        Path("runs/d"): make_record(commit="abc2" + "0" * 36),
    }


def test_several_versions_are_refused_with_who_is_what_and_the_way_out(records):
    with pytest.raises(DataError) as refusal:
        of_one_version(records)
    message = str(refusal.value)
    assert "3 versions" in message
    assert "abc10000: 1 run (a)" in message
    assert "abc10000-dirty: 1 run (b)" in message
    assert "abc20000: 2 runs (c, d)" in message
    for remedy in ("--commit abc20000", "--all-commits", "folder"):
        assert remedy in message


def test_one_version_is_taken_as_it_is(records):
    one = dict(list(records.items())[2:])
    assert of_one_version(one) == one


@pytest.mark.parametrize(
    ("commit", "names"), [("abc1", "a"), ("abc1-dirty", "b"), ("abc20000", "cd")]
)
def test_a_version_is_chosen(records, commit, names):
    assert [path.name for path in of_one_version(records, commit=commit)] == list(names)


@pytest.mark.parametrize(("commit", "message"), [("abd", "no run here"), ("abc", "more than one")])
def test_a_choice_that_is_none(records, commit, message):
    with pytest.raises(DataError, match=message):
        of_one_version(records, commit=commit)


def test_all_versions_on_request(records):
    assert of_one_version(records, all_commits=True) == records


@pytest.mark.parametrize(
    ("trainer", "accelerator", "samples"),
    [
        ({}, "cpu", 2),
        ({"devices": 4, "num_nodes": 2}, "cuda", 16),
        ({"devices": "auto", "num_nodes": 1}, "cpu", 2),
        ({"devices": "auto", "num_nodes": 1}, "cuda", None),  # of how many is not recorded
        ({"devices": -1}, "cuda", None),
    ],
)
def test_samples_of_a_step_are_those_of_all_devices(make_record, trainer, accelerator, samples):
    record = replace(make_record(trainer=trainer), hardware={"accelerator": accelerator})
    assert step_samples(record) == samples
    counted = replace(record, hardware=record.hardware | {"processes": 8})
    assert step_samples(counted) == 16  # whatever its configuration left to Lightning
