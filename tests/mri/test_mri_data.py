"""From files to subjects: names, splits, labels, normalisation; what is refused."""

import hashlib
import itertools
import logging
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from psc.errors import ConfigError, DataError
from psc.mri.data import SubjectSplit, k_fold, read_split, read_subject, require_present
from psc.mri.finding import SubjectFiles, find_subjects
from psc.mri.nifti import NEAREST, SYNTHETIC_STAMP, read_nifti, resampled, size_factors


@pytest.fixture
def touch(tmp_path):
    """Function: make empty files below tmp_path/data; returns that folder."""

    def make(*names, folder="data"):
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / folder

    return make


NITRC = (
    "IBSR_01_ana.nii.gz",
    "IBSR_01_ana_brainmask.nii.gz",
    "IBSR_01_ana_strip.nii.gz",
    "IBSR_01_seg_ana.nii.gz",
    "IBSR_01_segTRI_ana.nii.gz",
    "IBSR_01_segTRI_fill_ana.nii.gz",
)


def test_nitrc_s_archive(touch):
    folder = touch(*(f"IBSR_nifti_stripped/IBSR_01/{name}" for name in NITRC))
    place = folder / "IBSR_nifti_stripped" / "IBSR_01"
    assert find_subjects(folder) == {
        "IBSR_01": SubjectFiles(
            "IBSR_01",
            image=place / "IBSR_01_ana_strip.nii.gz",
            filled=place / "IBSR_01_segTRI_fill_ana.nii.gz",
            unfilled=place / "IBSR_01_segTRI_ana.nii.gz",
        )
    }


def test_course_copies(touch):
    folder = touch("IBSR_03/IBSR_03.nii.gz", "IBSR_03/IBSR_03_seg.nii.gz", "IBSR_02/IBSR_02.nii.gz")
    found = find_subjects(folder)
    assert list(found) == ["IBSR_02", "IBSR_03"]
    assert found["IBSR_02"] == SubjectFiles(
        "IBSR_02", folder / "IBSR_02/IBSR_02.nii.gz", None, None
    )
    assert found["IBSR_03"].unfilled == folder / "IBSR_03/IBSR_03_seg.nii.gz"
    assert found["IBSR_03"].filled is None


@pytest.mark.parametrize(
    ("file", "subject"),
    [
        ("IBSR_07.nii", "IBSR_07"),
        ("ibsr_07_ANA_Strip.NII.GZ", "IBSR_07"),
        ("IBSR_007.nii.gz", "IBSR_07"),
        ("PHANTOM_01_ana_strip.nii.gz", "PHANTOM_01"),
        ("Phantom_12.nii.gz", "PHANTOM_12"),
        ("X_123_ana_strip.nii", "X_123"),
    ],
)
def test_prefixes_numbers_and_endings(touch, file, subject):
    folder = touch(f"deep/down/{file}")
    expected = SubjectFiles(subject, folder / "deep" / "down" / file, None, None)
    assert find_subjects(folder) == {subject: expected}


@pytest.mark.parametrize(
    "file",
    [
        "IBSR_1.nii.gz",
        "IBSR01.nii.gz",
        "_01.nii.gz",
        "IBSR_01.nii.gz.part",
        "IBSR_01.nii.bz2",
        "IBSR_01.img",
        "IBSR_01_ana_brainmask.nii.gz",
        "IBSR_01_seg_ana.nii.gz",
        "IBSR_01_ana_strip_norm.nii.gz",
        "my_IBSR_01.nii.gz",
        "IBSR_0١.nii.gz",  # a digit, but not one of ours
        "._IBSR_01.nii.gz",
        ".hidden/IBSR_01.nii.gz",
        "IBSR_01.nii.gz/file",  # a folder of that name
        "IBSR_01/._IBSR_01_ana_strip.nii.gz",  # what Finder leaves on other disks
        "@eaDir/IBSR_01.nii.gz",  # a NAS's thumbnails: folders, in folders, of the files' names
        "IBSR_01/@eaDir/IBSR_01_ana_strip.nii.gz/SYNOFILE_THUMB_M.png",
        "@eaDir/IBSR_01_ana_strip.nii.gz/IBSR_01.nii.gz",
        "#recycle/IBSR_01.nii.gz",
        "__MACOSX/IBSR_01/IBSR_01.nii.gz",
        ".Trashes/IBSR_01.nii.gz",
        ".AppleDouble/IBSR_01_ana_strip.nii.gz",
        "lost+found/IBSR_01.nii.gz",
    ],
)
def test_what_is_ignored(touch, file):
    folder = touch(file, "PHANTOM_02.nii.gz")
    assert list(find_subjects(folder)) == ["PHANTOM_02"]


def test_subjects_are_sorted_and_found_in_any_folder(touch):
    names = ("IBSR_10", "PHANTOM_01", "IBSR_09", "IBSR_02")
    folder = touch(*(f"{i}/{name}.nii.gz" for i, name in enumerate(names)))
    assert list(find_subjects(folder)) == ["IBSR_02", "IBSR_09", "IBSR_10", "PHANTOM_01"]


def test_the_folder_itself_may_be_hidden(touch):
    folder = touch("IBSR_01.nii", folder=".data")
    assert list(find_subjects(folder)) == ["IBSR_01"]


def test_several_folders_complete_each_other(touch):
    images = touch("IBSR_01_ana_strip.nii.gz", folder="images")
    labels = touch("IBSR_01_segTRI_fill_ana.nii.gz", folder="labels")
    found = find_subjects(labels, images)
    assert found["IBSR_01"].image.parent == images
    assert found["IBSR_01"].filled.parent == labels


def test_links_are_followed_but_not_in_circles(touch, tmp_path):
    elsewhere = touch("IBSR_01.nii.gz", folder="elsewhere")
    folder = touch("IBSR_02.nii.gz")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "circle").symlink_to(folder)
    (folder / "IBSR_03.nii.gz").symlink_to(tmp_path / "gone")
    found = find_subjects(folder)
    assert found["IBSR_01"].image == folder / "linked" / "IBSR_01.nii.gz"
    # Reading says that it is missing; ignoring it would make another data set in silence.
    assert list(found) == ["IBSR_01", "IBSR_02", "IBSR_03"]


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("a/IBSR_01.nii.gz", "b/IBSR_01.nii.gz", "image"),
        ("IBSR_01.nii.gz", "IBSR_01_ana_strip.nii.gz", "image"),
        ("IBSR_01.nii", "IBSR_01.nii.gz", "image"),
        ("a/IBSR_01.nii.gz", "b/ibsr_01.nii.gz", "image"),
        ("IBSR_01.nii.gz", "IBSR_001.nii.gz", "image"),
        ("IBSR_01_seg.nii.gz", "IBSR_01_segTRI_ana.nii.gz", "unfilled labels"),
        ("a/IBSR_01_segTRI_fill_ana.nii", "b/IBSR_01_segTRI_fill_ana.nii", "filled labels"),
    ],
)
def test_what_is_there_twice_is_refused_with_both_names(touch, one, other, kind):
    folder = touch(one, other)
    with pytest.raises(DataError) as caught:
        find_subjects(folder)
    message = str(caught.value)
    assert f"IBSR_01 has two files of one kind ({kind})" in message
    assert str(folder / one) in message
    assert str(folder / other) in message


def test_volumes_with_the_skull_twice_are_nobody_s_concern(touch):
    folder = touch("a/IBSR_01_ana.nii.gz", "b/IBSR_01_ana.nii.gz", "IBSR_01_ana_strip.nii.gz")
    assert list(find_subjects(folder)) == ["IBSR_01"]


GETTING = r"registration at https://www\.nitrc\.org/projects/ibsr.*make data-ibsr"


def test_a_folder_without_subjects_says_how_to_get_them(touch):
    with pytest.raises(DataError, match=rf"holds no subject.*IBSR_01_ana_strip.*{GETTING}"):
        find_subjects(touch("readme.txt"))


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_no_folder_says_how_to_get_them(tmp_path, kind):
    place = tmp_path / "ibsr"
    if kind == "file":
        place.touch()
    with pytest.raises(
        DataError, match=rf"{place} cannot be searched.*IBSR_01_ana_strip.*{GETTING}"
    ):
        find_subjects(place)


def test_one_missing_folder_of_several_is_named(touch, tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path / 'no'} cannot be searched"):
        find_subjects(touch("IBSR_01.nii.gz"), tmp_path / "no")


def test_only_volumes_with_the_skull(touch):
    folder = touch("IBSR_01_ana.nii.gz", "IBSR_01_segTRI_ana.nii.gz", "IBSR_02_ana.nii.gz")
    with pytest.raises(DataError, match=rf"with the skull only.*stripped ones are.*{GETTING}"):
        find_subjects(folder)


def test_only_labels(touch):
    with pytest.raises(DataError, match=r"labels only \(IBSR_01_seg\.nii\.gz, …\), no image"):
        find_subjects(touch("IBSR_01_seg.nii.gz"))


def test_a_subject_without_an_image_is_left_out_but_not_in_silence(touch, caplog):
    names = ("IBSR_01.nii.gz", "IBSR_02_seg.nii.gz", "IBSR_03_ana.nii.gz")
    assert list(find_subjects(touch(*names))) == ["IBSR_01"]
    assert "IBSR_02 is left out: it has IBSR_02_seg.nii.gz, but no stripped" in caplog.text
    assert "IBSR_03 is left out" in caplog.text


@pytest.mark.sample
def test_the_real_sample(sample_data):
    found = find_subjects(sample_data / "mri" / "ibsr18")
    numbers = [number for number in range(1, 19) if number not in (12, 17)]
    assert list(found) == [f"IBSR_{number:02d}" for number in numbers]
    unlabelled = [name for name, files in found.items() if files.unfilled is None]
    assert unlabelled == ["IBSR_02", "IBSR_10", "IBSR_15"]
    assert all(files.filled is None and files.image.is_file() for files in found.values())


SPLITS = Path(__file__).parents[2] / "data" / "splits"

NAMES = [f"IBSR_{number:02d}" for number in range(1, 19)]
BY_VOXEL_SIZE = {
    0.9375: {"01", "03", "04", "05", "06", "13", "14"},
    1.0: {"07", "08", "09", "11"},
    0.837: {"16", "18"},
}
VOXEL_SIZE = {f"IBSR_{n}": size for size, numbers in BY_VOXEL_SIZE.items() for n in numbers}


def parts_of(*names):
    return dict(zip(("train", "validation", "test"), names, strict=True))


def drawn(names, seed, *sizes):
    """The recipe that the files' descriptions state: names of each part, sorted."""
    order = np.random.default_rng(seed).permutation(sorted(names)).tolist()
    ends = list(itertools.accumulate(sizes))
    return [tuple(sorted(order[end - size : end])) for size, end in zip(sizes, ends, strict=True)]


def test_the_paper_s_numbers_drawn_as_the_file_says():
    split = read_split(SPLITS / "ibsr.yaml")
    assert [len(part) for part in split.parts.values()] == [11, 2, 5]
    assert list(split.parts.values()) == drawn(NAMES, 0, 11, 2, 5)
    assert sorted(itertools.chain(*split.parts.values())) == NAMES
    assert "default_rng(0)" in split.description
    assert "does not name its subjects" in split.description


def covers_all_sizes(part):
    return {VOXEL_SIZE[name] for name in part} == set(BY_VOXEL_SIZE)


def test_the_sample_s_split_is_the_first_draw_that_covers_all_voxel_sizes():
    split = read_split(SPLITS / "ibsr_sample.yaml")
    assert [len(part) for part in split.parts.values()] == [8, 2, 3]
    draws = ((seed, drawn(VOXEL_SIZE, seed, 8, 2, 3)) for seed in itertools.count())
    seed, parts = next(
        (seed, parts)
        for seed, parts in draws
        if covers_all_sizes(parts[0]) and covers_all_sizes(parts[2])
    )
    assert list(split.parts.values()) == parts
    assert f"default_rng({seed})" in split.description
    assert f"{seed} is the first seed" in split.description


@pytest.mark.sample
def test_the_voxel_sizes_are_those_of_the_sample(sample_data):
    found = find_subjects(sample_data / "mri" / "ibsr18")
    split = read_split(SPLITS / "ibsr_sample.yaml")
    require_present(split, found)
    assert all(found[name].unfilled for part in split.parts.values() for name in part)
    for name in split.parts["test"]:  # one of each size, and 16 volumes take their time
        size = read_nifti(found[name].image).voxel_size
        assert size == pytest.approx((VOXEL_SIZE[name], 1.5, VOXEL_SIZE[name]), abs=1e-3)


GOOD = {"description": "mine", "train": ["A_01", "A_02"], "validation": ["A_03"], "test": ["A_04"]}


@pytest.fixture
def split_file(tmp_path):
    def write(content):
        path = tmp_path / "split.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_split_of_one_s_own(split_file):
    split = read_split(split_file(GOOD))
    assert split == SubjectSplit(parts_of(("A_01", "A_02"), ("A_03",), ("A_04",)), "mine")
    assert split.record() == GOOD  # lists, as JSON has them


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({**GOOD, "tests": ["A_05"]}, "has the keys description, test, tests,"),
        ({key: value for key, value in GOOD.items() if key != "validation"}, "it needs desc"),
        (yaml.safe_dump(GOOD) + "test: [A_05]", "each once"),
        ({**GOOD, "train": "A_01"}, "train is 'A_01'; give a list"),
        ({**GOOD, "train": {"A_01": 1}}, "give a list of"),
        ({**GOOD, "test": ["A_04", 5]}, r"test is \['A_04', 5\]; give a list of"),
        ({**GOOD, "test": [None]}, "give a list of"),
        ({**GOOD, "test": [""]}, "give a list of"),
        ({**GOOD, "test": None}, "test is None; give a list of"),
        ({**GOOD, "description": 5}, "description is 5"),
        ({**GOOD, "description": " "}, "say in words"),
        (["A_01"], r"expected the keys .*found \['A_01'\]"),
        ("", "expected the keys .*found None"),
        ("train: [A_01", "cannot be read as a split"),
        ("a: 1\n---\nb: 2", "cannot be read as a split"),
        ("a: !!python/object:os.system 1", "cannot be read as a split"),
        ({**GOOD, "test": []}, "mine: no subject in test"),
        ({**GOOD, "test": ["A_04", "A_01"]}, r"stand twice: A_01 \(train, test\)"),
        ({**GOOD, "test": ["A_04", "A_04"]}, r"stand twice: A_04 \(test, test\)"),
    ],
)
def test_a_file_that_is_no_split(split_file, content, what):
    path = split_file(content)
    with pytest.raises(DataError, match=rf"(?s){path}.*{what}"):
        read_split(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "split.yaml"
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path} cannot be read as a split.*data/splits/ibsr"):
        read_split(path)


@pytest.mark.parametrize(
    ("train", "validation", "test", "what"),
    [
        ("ab", "b", "c", r"b \(train, validation\)"),
        ("ab", "c", "bc", r"c \(validation, test\); b \(train, test\)|b .*; c "),
        ("aa", "b", "c", r"a \(train, train\)"),
        ("a", "", "c", "no subject in validation"),
        ("", "b", "c", "no subject in train"),
    ],
)
def test_no_split_is_made_with_a_subject_twice_or_an_empty_part(train, validation, test, what):
    with pytest.raises(DataError, match=rf"mine: .*{what}"):
        SubjectSplit(parts_of(tuple(train), tuple(validation), tuple(test)), "mine")


@st.composite
def cross_validations(draw):
    names = [f"IBSR_{i:02d}" for i in range(draw(st.integers(3, 20)))]
    folds = draw(st.integers(2, len(names)))
    room = len(names) - -(-len(names) // folds) - 1
    if room < 1:
        folds, room = len(names), len(names) - 2
    return names, folds, draw(st.integers(1, room)), draw(st.integers(0, 2**32))


@settings(max_examples=20)
@given(cross_validations(), st.randoms(use_true_random=False))
def test_over_all_folds_every_subject_is_tested_once(values, random):
    names, folds, validation, seed = values
    splits = [
        k_fold(names, folds=folds, fold=i, validation=validation, seed=seed) for i in range(folds)
    ]
    tested = Counter(name for split in splits for name in split.parts["test"])
    assert tested == Counter(names)
    sizes = {len(split.parts["test"]) for split in splits}
    assert max(sizes) - min(sizes) <= 1
    for fold, split in enumerate(splits):
        assert sorted(itertools.chain(*split.parts.values())) == names
        assert len(split.parts["validation"]) == validation
        # The files' order on disk does not matter.
        shuffled = random.sample(names, len(names))
        again = k_fold(shuffled, folds=folds, fold=fold, validation=validation, seed=seed)
        assert again == split


@settings(max_examples=20)
@given(cross_validations())
def test_those_that_choose_follow_those_that_are_tested(values):
    names, folds, validation, seed = values
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    start = 0
    for fold in range(folds):
        split = k_fold(names, folds=folds, fold=fold, validation=validation, seed=seed)
        end = start + len(split.parts["test"])
        assert set(order[start:end]) == set(split.parts["test"])
        assert {order[i % len(order)] for i in range(end, end + validation)} == set(
            split.parts["validation"]
        )
        start = end


def test_another_seed_is_another_order():
    tests = {
        k_fold(NAMES, folds=6, fold=0, validation=2, seed=seed).parts["test"] for seed in range(5)
    }
    assert len(tests) > 1


def test_a_fold_says_what_it_is():
    split = k_fold(NAMES, folds=6, fold=2, validation=2, seed=7)
    assert [len(part) for part in split.parts.values()] == [13, 2, 3]
    assert split.description == (
        "fold 2 (from 0) of 6 over 18 subjects in the order of seed 7, 2 for validation"
    )


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"folds": 1}, r"dataset\.folds=1: must be at least 2, and at most .*, 18"),
        ({"folds": 0}, r"dataset\.folds=0: must be at least 2"),
        ({"folds": 19}, r"dataset\.folds=19: .* at most the number of subjects, 18"),
        ({"validation": 0}, r"dataset\.validation_subjects=0: .* it must be 1 to 14"),
        ({"validation": 15}, "1 to 14"),
        ({"validation": -1}, "1 to 14"),
        ({"subjects": ["A", "B"], "folds": 2, "fold": 0, "validation": 1}, "leaves too few"),
        ({"subjects": ["A", "B", "C"], "folds": 2, "fold": 1, "validation": 1}, "leaves too few"),
        ({"subjects": ["A"]}, "the number of subjects, 1"),
        ({"subjects": []}, "the number of subjects, 0"),
    ],
)
def test_impossible_cross_validations(changed, what):
    values = {"subjects": NAMES, "folds": 6, "fold": 2, "validation": 2, "seed": 0, **changed}
    with pytest.raises(ConfigError, match=what):
        k_fold(values.pop("subjects"), **values)


def test_the_largest_validation_part_leaves_one_to_train():
    splits = [k_fold(NAMES, folds=5, fold=i, validation=13, seed=0) for i in range(5)]
    assert min(len(split.parts["train"]) for split in splits) == 1


def test_missing_subjects_are_named_with_their_parts():
    split = SubjectSplit(parts_of(("A_01", "A_02"), ("A_03",), ("A_04",)), "mine")
    assert require_present(split, {"A_01", "A_02", "A_03", "A_04", "A_05"}) is None
    with pytest.raises(DataError) as caught:
        require_present(split, {"A_05": "files", "A_02": "files", "A_03": "files"})
    message = str(caught.value)
    assert "mine: subjects that are missing: train: A_01; test: A_04." in message
    assert "(A_02, A_03, A_05)" in message
    assert "make data-ibsr" in message


SHAPE = (12, 10, 9)
AFFINE = np.diag([1.0, 1.5, 1.0, 1.0])
RNG = np.random.default_rng(0)

# A ball of brain, with a hole (as ventricles of intensity zero) and zeros around it.
DISTANCE = np.linalg.norm(np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2, axis=-1).T
INTENSITIES = np.where(DISTANCE < 4, RNG.integers(20, 200, SHAPE), 0).astype(np.int16)
INTENSITIES[6, 5, 4] = 0
BRAIN = INTENSITIES != 0
# Labels reach a voxel beyond the brain, as some do, and leave its outer shell unlabelled.
UNFILLED = np.where(DISTANCE < 3, 1 + INTENSITIES % 3, 0).astype(np.uint8)
UNFILLED[6, 5, 4] = 1
UNFILLED[0, 0, 0] = 2
FILLED = np.where(DISTANCE < 3, UNFILLED, np.where(DISTANCE < 4.2, 1, 0)).astype(np.uint8)


def save(path, values, affine=AFFINE, description=""):
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"] = description
    nibabel.save(image, path)
    return path


def files(folder, image=INTENSITIES, filled=None, unfilled=None, **image_options):
    def labels(name, values):
        return None if values is None else save(folder / f"IBSR_01_{name}.nii.gz", values)

    return SubjectFiles(
        name="IBSR_01",
        image=save(folder / "IBSR_01_ana_strip.nii.gz", image, **image_options),
        filled=labels("segTRI_fill_ana", filled),
        unfilled=labels("segTRI_ana", unfilled),
    )


class TestImage:
    def test_mean_and_deviation_inside_the_brain(self, tmp_path):
        subject = read_subject(files(tmp_path, unfilled=UNFILLED), labels="unfilled")
        inside = INTENSITIES[INTENSITIES != 0].tolist()
        mean = sum(inside) / len(inside)
        deviation = (sum((value - mean) ** 2 for value in inside) / len(inside)) ** 0.5
        np.testing.assert_allclose(subject.image, (INTENSITIES - mean) / deviation, rtol=1e-5)
        assert subject.image.dtype == np.float32
        assert subject.background == pytest.approx(-mean / deviation)
        np.testing.assert_allclose(subject.image[~BRAIN], subject.background, rtol=1e-6)
        np.testing.assert_array_equal(subject.brain, BRAIN)

    def test_the_scale_of_intensities_does_not_matter(self, tmp_path):
        (tmp_path / "other").mkdir()
        one = read_subject(files(tmp_path, unfilled=UNFILLED), labels="unfilled")
        scaled = (INTENSITIES * 6.5).astype(np.float32)
        other = read_subject(
            files(tmp_path / "other", scaled, unfilled=UNFILLED), labels="unfilled"
        )
        np.testing.assert_allclose(other.image, one.image, rtol=1e-4, atol=1e-5)

    def test_what_is_known_of_it(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        subject = read_subject(found, labels="unfilled")
        assert subject.name == "IBSR_01"
        assert subject.voxel_size == (1, 1.5, 1)
        np.testing.assert_array_equal(subject.native.data, INTENSITIES)
        digests = [
            hashlib.sha256(p.read_bytes()).hexdigest() for p in (found.image, found.unfilled)
        ]
        assert [file["sha256"] for file in subject.files] == digests
        assert not subject.synthetic

    @pytest.mark.parametrize(
        ("description", "synthetic"), [(f"{SYNTHETIC_STAMP}, seed 3", True), ("a scan", False)]
    )
    def test_phantoms_say_so(self, tmp_path, description, synthetic):
        found = files(tmp_path, unfilled=UNFILLED, description=description)
        assert read_subject(found, labels="unfilled").synthetic is synthetic

    def test_negative_intensities_are_brain(self, tmp_path, caplog):
        image = np.where(BRAIN, INTENSITIES - 100, 0).astype(np.int16)
        image[BRAIN & (image == 0)] = 1
        with caplog.at_level(logging.WARNING):
            subject = read_subject(files(tmp_path, image, unfilled=UNFILLED), labels="unfilled")
        np.testing.assert_array_equal(subject.brain, BRAIN)
        assert not caplog.records

    def test_nothing_but_zeros(self, tmp_path):
        with pytest.raises(DataError, match=r"ana_strip\.nii\.gz: every voxel is 0"):
            read_subject(files(tmp_path, 0 * INTENSITIES, unfilled=UNFILLED), labels="unfilled")

    @pytest.mark.parametrize("value", [1, 1e-3])
    def test_a_mask_is_no_image(self, tmp_path, value):
        mask = (value * BRAIN).astype(np.float32)
        with pytest.raises(DataError, match=r"brain voxels have the same intensity.*mask"):
            read_subject(files(tmp_path, mask, unfilled=UNFILLED), labels="unfilled")


class TestLabels:
    def test_unfilled_as_they_are(self, tmp_path):
        found = files(tmp_path, filled=FILLED, unfilled=UNFILLED)
        subject = read_subject(found, labels="unfilled")
        np.testing.assert_array_equal(subject.labels, UNFILLED)
        np.testing.assert_array_equal(subject.native_labels, UNFILLED)
        assert subject.labels.dtype == np.uint8
        assert subject.label_kind == "unfilled (IBSR_01_segTRI_ana.nii.gz)"

    def test_filled_as_they_are(self, tmp_path):
        found = files(tmp_path, filled=FILLED, unfilled=UNFILLED)
        subject = read_subject(found, labels="filled")
        np.testing.assert_array_equal(subject.labels, FILLED)
        assert subject.label_kind == "filled (IBSR_01_segTRI_fill_ana.nii.gz)"
        assert [file["name"] for file in subject.files] == [found.image.name, found.filled.name]

    def test_filled_from_unfilled(self, tmp_path):
        subject = read_subject(files(tmp_path, unfilled=UNFILLED), labels="filled")
        expected, became_fluid = UNFILLED.copy(), 0
        for index in np.ndindex(SHAPE):
            if INTENSITIES[index] != 0 and UNFILLED[index] == 0:
                expected[index] = 1
                became_fluid += 1
        assert became_fluid > 50
        np.testing.assert_array_equal(subject.labels, expected)
        np.testing.assert_array_equal(subject.native_labels, expected)
        assert subject.label_kind == (
            f"filled from IBSR_01_segTRI_ana.nii.gz; {became_fluid} unlabelled brain voxels"
            " became CSF"
        )

    def test_by_default_nothing_is_filled(self, tmp_path):
        subject = read_subject(files(tmp_path, unfilled=UNFILLED))
        np.testing.assert_array_equal(subject.labels, UNFILLED)
        assert subject.label_kind == "given (IBSR_01_segTRI_ana.nii.gz)"
        assert subject.became_fluid == 0
        filled = read_subject(files(tmp_path, filled=FILLED))
        np.testing.assert_array_equal(filled.labels, FILLED)
        both = files(tmp_path, filled=FILLED, unfilled=UNFILLED)
        with pytest.raises(DataError, match=r"labels of two kinds.*choose by dataset\.labels"):
            read_subject(both)

    def test_stored_in_another_order(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        image = nibabel.load(found.unfilled)
        turned = image.as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
        assert nibabel.aff2axcodes(turned.affine) != ("R", "A", "S")
        nibabel.save(turned, found.unfilled)
        subject = read_subject(found, labels="unfilled")
        np.testing.assert_array_equal(subject.labels, UNFILLED)

    def test_rounding_of_scaled_labels_is_no_fraction(self, tmp_path):
        almost = UNFILLED * np.float32(0.99999)
        subject = read_subject(files(tmp_path, unfilled=almost), labels="unfilled")
        np.testing.assert_array_equal(subject.labels, UNFILLED)

    @pytest.mark.parametrize(
        ("value", "dtype", "message"),
        [
            (4, "u1", r"of no tissue: 4 \(2 voxels\).*seg_ana"),
            (-1, "i2", r"of no tissue: -1 \(2 voxels\)"),
            (1.5, "f4", r"no integers: 1\.5 \(2 voxels\)"),
            (0.99, "f8", r"no integers: 0\.99 \(2 voxels\)"),
            (255, "u1", r"255 \(2 voxels\)"),
            (np.nan, "f4", "2 voxels are NaN"),
        ],
    )
    def test_other_values(self, tmp_path, value, dtype, message):
        labels = UNFILLED.astype(dtype)
        labels[1, 2, 3:5] = value
        found = files(tmp_path, unfilled=labels)
        for kind in ("filled", "unfilled"):
            with pytest.raises(DataError, match=rf"segTRI_ana\.nii\.gz.*{message}"):
                read_subject(found, labels=kind)

    def test_nothing_labelled(self, tmp_path):
        with pytest.raises(DataError, match="no voxel is labelled"):
            read_subject(files(tmp_path, unfilled=0 * UNFILLED), labels="filled")

    def test_another_shape(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED[1:])
        with pytest.raises(DataError, match=r"ana_strip.*\(12, 10, 9\).*segTRI.*\(11, 10, 9\)"):
            read_subject(found, labels="unfilled")

    def test_another_affine(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED, affine=np.diag([1, 1, 1, 1]))
        with pytest.raises(DataError, match="affines of"):
            read_subject(found, labels="unfilled")


class TestMissingLabels:
    def test_refused_for_training(self, tmp_path):
        with pytest.raises(DataError, match=r"IBSR_01: no tissue labels.*add its labels"):
            read_subject(files(tmp_path), labels="filled")

    def test_usable_for_prediction(self, tmp_path):
        subject = read_subject(files(tmp_path), labels="filled", labels_required=False)
        assert subject.labels is None
        assert subject.native_labels is None
        assert subject.label_kind == "none"
        assert subject.image[BRAIN].mean() == pytest.approx(0, abs=1e-5)
        assert len(subject.files) == 1

    @pytest.mark.parametrize("required", [True, False])
    def test_filled_ones_cannot_be_unfilled(self, tmp_path, required):
        found = files(tmp_path, filled=FILLED)
        with pytest.raises(DataError, match=r"segTRI_fill_ana.*dataset\.labels=filled"):
            read_subject(found, labels="unfilled", labels_required=required)

    def test_a_file_that_went_away(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        found.unfilled.unlink()
        with pytest.raises(DataError, match=r"segTRI_ana\.nii\.gz cannot be read \(No such"):
            read_subject(found, labels="unfilled", labels_required=False)


class TestResampled:
    SIZE = (0.8, 0.8, 1.25)

    def test_the_grid(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        subject = read_subject(found, labels="unfilled", voxel_size=self.SIZE)
        assert subject.voxel_size == self.SIZE
        # 12 mm, 15 mm, 9 mm
        shape = (15, 19, 8)
        assert subject.image.shape == subject.labels.shape == subject.brain.shape == shape
        factors = size_factors((1.0, 1.5, 1.0), self.SIZE)
        labels = resampled(UNFILLED, factors, shape, order=NEAREST)
        np.testing.assert_array_equal(subject.labels, labels)
        brain = resampled(BRAIN, factors, shape, order=NEAREST)
        np.testing.assert_array_equal(subject.brain, brain)
        np.testing.assert_array_equal(subject.native.data, INTENSITIES)
        np.testing.assert_array_equal(subject.native_labels, UNFILLED)

    def test_normalised_on_that_grid(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        subject = read_subject(found, labels="unfilled", voxel_size=self.SIZE)
        inside = subject.image[subject.brain].astype(np.float64)
        assert inside.mean() == pytest.approx(0, abs=1e-6)
        assert inside.std() == pytest.approx(1, abs=1e-6)
        assert subject.image[0, 0, 0] == pytest.approx(subject.background)

    def test_too_large_voxels(self, tmp_path):
        found = files(tmp_path, unfilled=UNFILLED)
        with pytest.raises(DataError, match=r"no brain voxel is left.*smaller dataset\.voxel_size"):
            read_subject(found, labels="unfilled", voxel_size=(100, 100, 100))


@pytest.mark.sample
class TestRealSubjects:
    def test_filled_from_the_unfilled_labels(self, sample_data):
        folder = sample_data / "mri/ibsr18/IBSR_01"
        found = SubjectFiles(
            "IBSR_01", folder / "IBSR_01.nii.gz", None, folder / "IBSR_01_seg.nii.gz"
        )
        subject = read_subject(found, labels="filled")
        image = np.asarray(nibabel.load(found.image).dataobj)[..., 0]
        labels = np.asarray(nibabel.load(found.unfilled).dataobj)[..., 0]
        unlabelled = int(((image != 0) & (labels == 0)).sum())
        assert 60_000 < unlabelled < 95_000
        assert f"; {unlabelled} unlabelled brain voxels became CSF" in subject.label_kind
        assert (subject.labels == 1).sum() == (labels == 1).sum() + unlabelled
        assert not subject.synthetic
        inside = subject.image[subject.brain].astype(np.float64)
        assert inside.mean() == pytest.approx(0, abs=1e-4)
        assert inside.std() == pytest.approx(1, abs=1e-4)
