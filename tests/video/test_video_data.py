"""UCF101's names and official lists, and splits that keep groups apart."""

import pytest

from psc.errors import ConfigError, DataError
from psc.video.data import (
    SPLITS,
    ActionSplit,
    ListedVideo,
    VideoName,
    check_groups_apart,
    parse_name,
    read_classes,
    read_split,
    video_key,
)

CLASSES = ["Archery", "HandstandPushups"]


def write_lists(folder, *, classes=None, train=None, test=None, newline="\r\n"):
    """Lists as the official ones are, groups 1 to 5, tested on 1."""
    lines = {
        "classInd.txt": [f"{i} {name}" for i, name in enumerate(CLASSES, 1)],
        "trainlist01.txt": [
            f"{name}/v_{name.replace('stand', 'Stand')}_g{group:02d}_c{clip:02d}.avi {label}"
            for label, name in enumerate(CLASSES, 1)
            for group in range(2, 6)
            for clip in (1, 2)
        ],
        "testlist01.txt": [f"{n}/v_{n.replace('stand', 'Stand')}_g01_c01.avi" for n in CLASSES],
    }
    given = {"classInd.txt": classes, "trainlist01.txt": train, "testlist01.txt": test}
    folder.mkdir(exist_ok=True)
    for name, text in lines.items():
        content = text if given[name] is None else given[name]
        (folder / name).write_bytes("".join(line + newline for line in content).encode())
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v_Archery_g01_c07.avi", VideoName("Archery", 1, 7)),
        ("Biking/v_Biking_g25_c10.AVI", VideoName("Biking", 25, 10)),
        ("v_HandStandPushups_g08_c02", VideoName("HandStandPushups", 8, 2)),
    ],
)
def test_names(name, expected):
    assert parse_name(name) == expected


@pytest.mark.parametrize("name", ["Archery.avi", "v_Archery_c01.avi", "v_Archery_g01_c01_2.avi"])
def test_a_name_without_a_group_is_refused(name):
    with pytest.raises(DataError, match="v_<class>_g<group>_c<clip>"):
        parse_name(name)


@pytest.mark.sample
@pytest.mark.parametrize(
    ("number", "train", "test"), [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)]
)
def test_the_official_lists_resolve(sample_data, number, train, test):
    split = read_split(sample_data / "ucf101" / "ucfTrainTestlist", number)
    assert len(split.classes) == 101
    assert len(split.parts["train"]) + len(split.parts["validation"]) == train
    assert len(split.parts["test"]) == test
    everything = [v for part in split.parts.values() for v in part]
    assert len({video.key for video in everything}) == len(everything) == 13320
    assert {video.label for video in everything} == set(range(101))
    assert {v.group for v in everything} == set(range(1, 26))
    assert {v.group for v in split.parts["test"]} == set(range(7 * number - 6, 7 * number + 1))


@pytest.mark.sample
def test_every_sample_clip_is_in_the_lists(sample_data):
    folder = sample_data / "ucf101"
    split = read_split(folder / "ucfTrainTestlist", 1, validation_groups=0)
    labels = {video.key: video.label for video in (*split.parts["train"], *split.parts["test"])}
    clips = list((folder / "UCF-101").rglob("*.avi"))
    assert len(clips) == 114
    for clip in clips:
        assert split.classes[labels[clip.stem.casefold()]] == clip.parent.name


def test_both_spellings_are_one_class(tmp_path):
    split = read_split(write_lists(tmp_path / "lists"), 1, validation_groups=0)
    pushups = [video for video in split.parts["train"] if video.label == 1]
    assert len(pushups) == 8
    assert split.classes[1] == "HandstandPushups"
    assert pushups[0].name == "v_HandStandPushups_g02_c01"
    assert pushups[0].key == "v_handstandpushups_g02_c01"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_endings_do_not_matter(tmp_path, newline):
    assert read_classes(write_lists(tmp_path, newline=newline) / "classInd.txt") == tuple(CLASSES)


def test_validation_takes_whole_groups(tmp_path):
    folder = write_lists(tmp_path)
    choices = set()
    for seed in range(12):
        split = read_split(folder, 1, validation_groups=2, seed=seed)
        held_out = {video.group for video in split.parts["validation"]}
        assert len(held_out) == 2
        assert not held_out & {video.group for video in split.parts["train"]}
        assert held_out <= {2, 3, 4, 5}
        assert len(split.parts["train"]) == len(split.parts["validation"]) == 8
        assert split == read_split(folder, 1, validation_groups=2, seed=seed)
        choices.add(frozenset(held_out))
    assert len(choices) > 1
    assert not read_split(folder, 1, validation_groups=0).parts["validation"]


@pytest.mark.parametrize("number", [-1, 4])
def test_impossible_numbers_of_validation_groups(tmp_path, number):
    with pytest.raises(ConfigError, match=rf"from 0 to 3, .* trains on 4 groups; found {number}"):
        read_split(write_lists(tmp_path), 1, validation_groups=number)


def test_there_are_three_splits(tmp_path):
    assert SPLITS == (1, 2, 3)
    with pytest.raises(ConfigError, match="split must be one of"):
        read_split(tmp_path, 4)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["Biking/v_Biking_g02_c01.avi 1"]}, r"trainlist01\.txt, line 1: class 'Biking'"),
        ({"test": ["x", "Archery/v_Archery_g01_c01.avi"]}, r"testlist01\.txt, line 1: x: the name"),
        ({"train": ["Archery/v_Archery_g02_c01.avi 2"]}, "given class '2', but .* Archery 1"),
        ({"train": ["Archery/v_Archery_g02_c01.avi 1"] * 2}, "line 2: .* listed twice"),
        ({"train": []}, "lists no video"),
        ({"classes": ["1 Archery", "3 HandstandPushups"]}, "line 2: expected '2 <class>', found"),
        ({"classes": ["1 Archery", "2"]}, "line 2: expected"),
        ({"classes": ["1 Archery", "2 archery"]}, "lists archery twice"),
        ({"classes": []}, "lists no class"),
    ],
)
def test_lists_that_are_wrong(tmp_path, lists, message):
    with pytest.raises(DataError, match=message):
        read_split(write_lists(tmp_path, **lists), 1)


def test_lists_with_a_group_on_both_sides_are_refused(tmp_path):
    folder = write_lists(tmp_path, test=["Archery/v_Archery_g03_c07.avi"])
    with pytest.raises(DataError, match=r"Archery group 3 \(train, test\)"):
        read_split(folder, 1, validation_groups=0)


def test_a_missing_list_says_where_it_comes_from(tmp_path):
    (write_lists(tmp_path) / "testlist01.txt").unlink()
    with pytest.raises(DataError, match=r"testlist01\.txt cannot be read .*RecognitionTask\.zip"):
        read_split(tmp_path, 1)


ACTIONS = ("Archery", "Biking", "HandstandPushups")


def video(label, group, clip=1):
    return ListedVideo(f"v_{ACTIONS[label]}_g{group:02d}_c{clip:02d}", label, group)


def split(train=(), validation=(), test=()):
    parts = {"train": tuple(train), "validation": tuple(validation), "test": tuple(test)}
    return ActionSplit(ACTIONS, parts, description="split 1")


def keys(videos):
    return {video.key for video in videos}


WHOLE = split(
    train=[video(0, 8, 1), video(0, 8, 2), video(1, 9)],
    validation=[video(0, 10)],
    test=[video(0, 1), video(2, 1)],
)
EVERYTHING = keys([v for part in WHOLE.parts.values() for v in part])


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
    present = keys([*many.parts["train"][:5], *many.parts["test"]])
    with pytest.raises(DataError) as caught:
        many.only_present(present, allow_missing=False)
    message = str(caught.value)
    assert "25 of 31 videos are missing: v_Archery_g06_c01, " in message
    assert "v_Archery_g15_c01 and 15 more" in message
    assert "v_Archery_g16" not in message
    assert "allow_missing=true" in message
    left = many.only_present(present, allow_missing=True)
    assert left.parts["train"] == many.parts["train"][:5]
    assert left.parts["test"] == many.parts["test"]
    assert len(left.missing) == left.record()["missing_videos"] == 25


def test_a_missing_video_says_why_where_that_is_known():
    gone = WHOLE.parts["validation"][0]
    with pytest.raises(DataError, match=r"1 of 6 .* v_Archery_g10_c01 \(it is truncated\)\."):
        WHOLE.only_present(
            EVERYTHING - {gone.key}, allow_missing=False, unreadable={gone.key: "it is truncated"}
        )


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_split_with_nothing_left_is_no_split(part):
    rest = EVERYTHING - keys(WHOLE.parts[part])
    with pytest.raises(DataError, match=f"none of the {part} videos is at hand and"):
        WHOLE.only_present(rest, allow_missing=True)


def test_shared_classes_keep_their_names_under_new_labels():
    parts = {
        "train": [video(0, 8), video(2, 8)],
        "validation": [video(1, 9), video(2, 9)],
        "test": [video(1, 1), video(2, 1)],
    }
    shared = split(**parts).only_shared_classes()
    assert shared.classes == ("HandstandPushups",)
    for part in shared.parts.values():
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
