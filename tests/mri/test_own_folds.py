"""Runs of a cross-validation are one row: its scores are those of the subjects."""

from statistics import mean

import pytest

from psc.paper.compare import comparison_text
from psc.paper.groups import comparable, group_names, group_records
from psc.paper.measures import TISSUE, measures_of
from psc.training.records import Record

SUBJECTS = [f"s{i}" for i in range(6)]
NAMES = ("csf", "gm", "wm")


def fold(number, *, seed=0, block="3d", names=NAMES, dice=None, **dataset):
    tested = SUBJECTS[2 * number : 2 * number + 2]
    others = [name for name in SUBJECTS if name not in tested]

    def scores(value):
        return {f"dice_{name}": value for name in (*names, "mean")}

    dice = {name: 0.5 + 0.05 * SUBJECTS.index(name) for name in SUBJECTS} | (dice or {})
    subjects = {name: scores(dice[name]) for name in (*tested, others[0])}
    floor = {name: scores(0.25 if name == "s0" else 0.5) for name in subjects}
    known = [dice[name] for name in tested if dice[name] is not None]
    return Record(
        run=f"{block}-{number}-{seed}",
        config={
            "dataset": {
                **{"name": "own_mri", "images": f"place{number}", "labels": None, "folds": 3},
                **{"fold": number, "fold_seed": 0, "label_values": dict.fromkeys(names, 1)},
                **dataset,
            },
            "backbone": {"name": "densenet"},
            "block": {"name": block},
            "recipe": {"iterations": 5, "overlap": 0.5, "blending": "gaussian"},
            "trainer": {},
        },
        metrics={
            "test": scores(mean(known)) if known else scores(None),
            "subjects": subjects,
            "baseline": {"test": scores(0.5), "subjects": floor},
        },
        parameters=10,
        iterations=5,
        wall_seconds={"training": 60.0},
        throughput={},
        seed=seed,
        data={
            "kind": "own",
            "splits": {"train": others[1:], "validation": others[:1], "test": tested},
            "label_treatment": "labels as they are in their files",
            "files": [{"name": "x", "sha256": "0"}],
        },
        git={"commit": "a" * 40, "dirty": False},
        versions={},
        hardware={"device": "cpu", "accelerator": "cpu"},
        finished="",
    )


def test_folds_are_one_group_of_subjects():
    (group,) = group_records([fold(0), fold(1), fold(2)])
    assert group.scores("dice_gm") == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75])
    assert group.floor("dice_gm") == [0.25, *[0.5] * 5]
    assert group.folds == "0, 1, 2 of 3: 6 subjects"
    assert group.seeds == [0]


def test_seeds_are_averaged_before_subjects_are():
    worse = dict.fromkeys(SUBJECTS, 0.1)
    (group,) = group_records([fold(0), fold(0, seed=1, dice=worse), fold(2)])
    assert group.scores("dice_mean") == pytest.approx([0.3, 0.325, 0.7, 0.75])
    assert group.folds == "0, 2 of 3: 4 subjects"
    assert group.seeds == [0, 1]


def test_subjects_without_a_score_are_left_out():
    (group,) = group_records([fold(0, dice={"s0": None}), fold(1)])
    assert group.scores("dice_csf") == pytest.approx([0.55, 0.6, 0.65])
    (nothing,) = group_records([fold(0, dice={"s0": None, "s1": None})])
    assert str(nothing.scores("dice_csf")) == "[nan]"


@pytest.mark.parametrize("other", [{"fold_seed": 1}, {"folds": 4}, {"label_values": {"a": 2}}])
def test_other_folds_are_other_experiments(other):
    assert len(group_records([fold(0), fold(1, **other)])) == 2


def test_the_table_has_a_row_for_each_block():
    records = [fold(i, block=block) for block in ("3d", "p2sc2") for i in range(3)]
    groups = group_records(records)
    assert len(comparable(groups)) == 1
    assert group_names(groups) == ["3d", "p2sc2"]
    text = comparison_text(groups)
    rows = [line for line in text.splitlines() if line.startswith(("| 3d |", "| p2sc2 |"))]
    assert len(rows) == 2
    assert all("62.5 ± 9.4" in row and "0, 1, 2 of 3: 6 subjects" in row for row in rows)
    assert "| intensity alone | 0 | 0 | 45.8 ± 10.2 |" in text  # of the same subjects
    assert "own data; own_mri; labels as they are in their files" in text
    assert "mean ± sd over the subjects" in text


def test_tissues_of_any_names_have_columns():
    (group,) = group_records([fold(0, names=("b", "a"))])
    measures = measures_of(group.first)
    assert [score.key for score in measures.scores] == ["dice_a", "dice_b", "dice_mean"]
    assert measures == measures_of(fold(1, names=("a", "b")))
    assert measures_of(fold(0)) is TISSUE
    assert measures_of(fold(0, names=("csf", "gm", "wm", "x"))) is not TISSUE
    assert "Dice b [%]" in comparison_text([group])
