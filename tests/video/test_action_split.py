import pytest

from psc.errors import DataError
from psc.video.manifest import ActionSplit, ListedVideo, check_groups_apart, video_key

CLASSES = ("Archery", "Biking", "HandstandPushups")


def video(label, group, clip=1):
    return ListedVideo(f"v_{CLASSES[label]}_g{group:02d}_c{clip:02d}", label, group)


def split(train=(), validation=(), test=()):
    return ActionSplit(CLASSES, tuple(train), tuple(validation), tuple(test), description="split 1")


def keys(videos):
    return {video.key for video in videos}


WHOLE = split(
    train=[video(0, 8, 1), video(0, 8, 2), video(1, 9)],
    validation=[video(0, 10)],
    test=[video(0, 1), video(2, 1)],
)
EVERYTHING = keys([*WHOLE.train, *WHOLE.validation, *WHOLE.test])


def test_a_video_is_known_by_its_file_name_without_case():
    key = "v_handstandpushups_g01_c02"
    for name in (
        "v_HandstandPushups_g01_c02",
        "v_HandStandPushups_g01_c02.avi",
        "HandstandPushups/v_HandStandPushups_g01_c02.avi",
        "HandstandPushups\\v_HandstandPushups_g01_c02.AVI",
    ):
        assert video_key(name) == key
    assert video_key("v_HandstandPushups_g01_c03.avi") != key


def test_a_proper_split_passes():
    assert check_groups_apart(WHOLE) is None  # it would raise


@pytest.mark.parametrize(
    ("parts", "sides"),
    [
        ({"train": [video(1, 3, 1)], "test": [video(1, 3, 2)]}, "train, test"),
        ({"train": [video(1, 3, 1)], "validation": [video(1, 3, 2)]}, "train, validation"),
        ({"validation": [video(1, 3, 1)], "test": [video(1, 3, 2)]}, "validation, test"),
    ],
)
def test_a_group_on_both_sides_is_refused(parts, sides):
    with pytest.raises(DataError, match=rf"1 groups stand on both sides: Biking group 3 \({sides}"):
        check_groups_apart(split(**parts))


def test_groups_of_different_classes_have_nothing_to_do_with_each_other():
    assert check_groups_apart(split(train=[video(0, 3)], test=[video(1, 3)])) is None


def test_many_shared_groups_are_counted():
    shared = [video(0, group) for group in range(1, 15)]
    with pytest.raises(DataError, match=r"14 groups .* and 4 more\.") as caught:
        check_groups_apart(split(train=shared, test=shared))
    assert "group 10 " in str(caught.value)
    assert "group 11 " not in str(caught.value)


def test_nothing_is_missing():
    assert WHOLE.only_present(EVERYTHING, allow_missing=False) == WHOLE


def test_missing_videos_are_counted_and_the_first_ten_listed():
    many = split(train=[video(0, group) for group in range(1, 31)], test=[video(1, 1)])
    present = keys([*many.train[:5], *many.test])
    with pytest.raises(DataError) as caught:
        many.only_present(present, allow_missing=False)
    message = str(caught.value)
    assert "25 of 31 videos are missing: v_Archery_g06_c01, " in message
    assert "v_Archery_g15_c01 and 15 more" in message
    assert "v_Archery_g16" not in message
    assert "allow_missing=true" in message
    left = many.only_present(present, allow_missing=True)
    assert left.train == many.train[:5]
    assert left.test == many.test
    assert len(left.missing) == left.record()["missing_videos"] == 25


def test_a_missing_video_says_why_where_that_is_known():
    gone = WHOLE.validation[0]
    with pytest.raises(DataError, match=r"1 of 6 .* v_Archery_g10_c01 \(it is truncated\)\."):
        WHOLE.only_present(
            EVERYTHING - {gone.key}, allow_missing=False, unreadable={gone.key: "it is truncated"}
        )


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_split_with_nothing_left_is_no_split(part):
    rest = EVERYTHING - keys(getattr(WHOLE, part))
    with pytest.raises(DataError, match=f"none of the {part} videos is at hand"):
        WHOLE.only_present(rest, allow_missing=True)


def test_shared_classes_keep_their_names_under_new_labels():
    parts = {
        "train": [video(0, 8), video(2, 8)],
        "validation": [video(1, 9), video(2, 9)],
        "test": [video(1, 1), video(2, 1)],
    }
    shared = split(**parts).only_shared_classes()
    assert shared.classes == ("HandstandPushups",)
    for part in (shared.train, shared.validation, shared.test):
        assert [(v.label, v.name.split("_")[1]) for v in part] == [(0, "HandstandPushups")]
    assert WHOLE.only_shared_classes().classes == ("Archery",)


def test_no_shared_class_is_an_error():
    with pytest.raises(DataError, match="no class has both"):
        split(train=[video(0, 8)], test=[video(1, 1)]).only_shared_classes()


def test_record():
    assert WHOLE.record() == {
        "split": "split 1",
        "classes": 3,
        "videos": {"train": 3, "validation": 1, "test": 2},
        "validation_groups": [10],
        "missing_videos": 0,
    }
