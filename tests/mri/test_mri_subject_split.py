"""Splits by subject: what is in the files, cross-validation, and what is refused."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from psc.errors import ConfigError, DataError
from psc.mri.data import SubjectSplit, find_subjects, k_fold, read_split, require_present
from psc.mri.nifti import read_nifti

SPLITS = Path(__file__).parents[2] / "data" / "splits"

NAMES = [f"IBSR_{number:02d}" for number in range(1, 19)]
BY_VOXEL_SIZE = {
    0.9375: {"01", "03", "04", "05", "06", "13", "14"},
    1.0: {"07", "08", "09", "11"},
    0.837: {"16", "18"},
}
VOXEL_SIZE = {f"IBSR_{n}": size for size, numbers in BY_VOXEL_SIZE.items() for n in numbers}


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
    for name in split.test:  # one of each size, and 16 volumes take their time
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
    assert split == SubjectSplit(("A_01", "A_02"), ("A_03",), ("A_04",), "mine")
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
        SubjectSplit(tuple(train), tuple(validation), tuple(test), "mine")


@st.composite
def cross_validations(draw):
    names = [f"IBSR_{i:02d}" for i in range(draw(st.integers(3, 20)))]
    folds = draw(st.integers(2, len(names)))
    room = len(names) - -(-len(names) // folds) - 1
    if room < 1:
        folds, room = len(names), len(names) - 2
    return names, folds, draw(st.integers(1, room)), draw(st.integers(0, 2**32))


@given(cross_validations(), st.randoms(use_true_random=False))
def test_over_all_folds_every_subject_is_tested_once(values, random):
    names, folds, validation, seed = values
    splits = [
        k_fold(names, folds=folds, fold=i, validation=validation, seed=seed) for i in range(folds)
    ]
    tested = Counter(name for split in splits for name in split.test)
    assert tested == Counter(names)
    sizes = {len(split.test) for split in splits}
    assert max(sizes) - min(sizes) <= 1
    for fold, split in enumerate(splits):
        assert sorted(itertools.chain(*split.parts.values())) == names
        assert len(split.validation) == validation
        # The files' order on disk does not matter.
        shuffled = random.sample(names, len(names))
        again = k_fold(shuffled, folds=folds, fold=fold, validation=validation, seed=seed)
        assert again == split


@given(cross_validations())
def test_those_that_choose_follow_those_that_are_tested(values):
    names, folds, validation, seed = values
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    start = 0
    for fold in range(folds):
        split = k_fold(names, folds=folds, fold=fold, validation=validation, seed=seed)
        end = start + len(split.test)
        assert set(order[start:end]) == set(split.test)
        assert {order[i % len(order)] for i in range(end, end + validation)} == set(
            split.validation
        )
        start = end


def test_another_seed_is_another_order():
    tests = {k_fold(NAMES, folds=6, fold=0, validation=2, seed=seed).test for seed in range(5)}
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
        ({"folds": 1}, "folds is 1, but 18 subjects are there; choose 2 to 18"),
        ({"folds": 0}, "choose 2 to 18"),
        ({"folds": 19}, "folds is 19, but 18"),
        ({"fold": 6}, "fold is 6, but folds is 6; choose 0 to 5"),
        ({"fold": -1}, "choose 0 to 5"),
        ({"validation": 0}, "validation is 0, but .* it is 1 to 14"),
        ({"validation": 15}, "1 to 14"),
        ({"validation": -1}, "1 to 14"),
        ({"seed": -1}, "seed is -1"),
        ({"subjects": ["A", "B"], "folds": 2, "fold": 0, "validation": 1}, "leaves too few"),
        ({"subjects": ["A", "B", "C"], "folds": 2, "fold": 1, "validation": 1}, "leaves too few"),
        ({"subjects": ["A"]}, "1 are there"),
        ({"subjects": []}, "0 are there"),
        ({"subjects": ["A", "B", "A"]}, "subjects A are given twice"),
    ],
)
def test_impossible_cross_validations(changed, what):
    values = {"subjects": NAMES, "folds": 6, "fold": 2, "validation": 2, "seed": 0, **changed}
    with pytest.raises(ConfigError, match=what):
        k_fold(values.pop("subjects"), **values)


def test_the_largest_validation_part_leaves_one_to_train():
    splits = [k_fold(NAMES, folds=5, fold=i, validation=13, seed=0) for i in range(5)]
    assert min(len(split.train) for split in splits) == 1


def test_missing_subjects_are_named_with_their_parts():
    split = SubjectSplit(("A_01", "A_02"), ("A_03",), ("A_04",), "mine")
    assert require_present(split, {"A_01", "A_02", "A_03", "A_04", "A_05"}) is None
    with pytest.raises(DataError) as caught:
        require_present(split, {"A_05": "files", "A_02": "files", "A_03": "files"})
    message = str(caught.value)
    assert "mine: subjects that are missing: train: A_01; test: A_04." in message
    assert "(A_02, A_03, A_05)" in message
    assert "make data-ibsr" in message
