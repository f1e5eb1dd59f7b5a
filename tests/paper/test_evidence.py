"""Paired differences: against numbers counted by hand, and against every bootstrap sample."""

import math
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from psc.em.bodies import body_errors, write_body_errors
from psc.errors import DataError
from psc.paper.evidence import (
    contrasts,
    joined_bodies,
    joined_pairs,
    learning_rates,
    paired_difference,
)
from psc.paper.groups import Group, group_records
from psc.paper.measures import AFFINITY, TISSUE
from psc.training.records import write_record


def group(make, block, totals, first_seed=0, **changes):
    seeds = enumerate(totals, start=first_seed)
    return Group(tuple(make(block, seed=seed, total=total, **changes) for seed, total in seeds))


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_seeds_have_a_difference_and_no_interval(make_record, count):
    full, block = (group(make_record, b, [t] * count) for b, t in (("3d", 2.0), ("p2sc2", 1.5)))
    found = paired_difference(block, full, "total")
    assert (found.seeds, found.mean, found.interval) == (tuple(range(count)), -0.5, None)
    words = f"no interval of {count} run{'s'[: count > 1]}"
    _, line = contrasts([("3D", full), ("(2,2)", block)])
    seeds = ", ".join(map(str, range(count)))
    assert line == ("(2,2) − 3D, VI sum [bits]", "−0.500", "–", seeds, words)


def test_only_shared_seeds_are_paired(make_record):
    full = group(make_record, "3d", [1.0, 2.0, 9.0])
    block = group(make_record, "p2sc2", [2.5, 9.5, 3.0], first_seed=1)
    assert paired_difference(block, full, "total").seeds == (1, 2)
    assert paired_difference(block, full, "total").mean == pytest.approx(0.5)
    assert paired_difference(group(make_record, "p2sc2", [1.0], 7), full, "total") is None


def test_the_interval_is_that_of_all_samples_of_the_seeds(make_record):
    apart = [-0.5, 0.1, 0.3, 0.2]
    full = group(make_record, "3d", [2.0] * 4)
    found = paired_difference(group(make_record, "p2sc2", [2.0 + a for a in apart]), full, "total")
    every = [np.mean(sample) for sample in product(apart, repeat=4)]
    np.testing.assert_allclose(found.interval, np.percentile(every, (2.5, 97.5)), atol=0.03)
    assert found.interval[0] < found.mean < found.interval[1]


def brains(make, block, dice, *, seed=0, fold=None):
    """A record of these test subjects, and of one that validated and does not count."""
    test = tuple(dice)
    made = make(seed=seed, test=test)
    subjects = {name: {"dice_mean": value} for name, value in dice.items()}
    subjects["validated"] = {"dice_mean": 0.0 if block == "3d" else 1.0}
    config = made.config | {"block": {"name": block}}
    splits = {"train": [], "validation": [], "test": list(test)}
    if fold is not None:
        config["dataset"] = config["dataset"] | {"folds": 3, "fold": fold}
    test_scores = made.metrics["test"] | {"dice_mean": float(np.mean(list(dice.values())))}
    metrics = made.metrics | {"subjects": subjects, "test": test_scores}
    return replace(made, metrics=metrics, config=config, data=made.data | {"splits": splits})


APART = (0.0, 0.1, 0.3)
EVERY = [np.mean(sample) for sample in product(APART, repeat=3)]
# Few values, so that the quantiles are exact.
INTERVAL = np.percentile(EVERY, (2.5, 97.5), method="inverted_cdf")


def test_subjects_are_drawn_too_where_each_is_recorded(make_tissue_record):
    def group_of(block, *values):
        dice = dict(zip("abc", values, strict=True))
        return Group(tuple(brains(make_tissue_record, block, dice, seed=s) for s in range(3)))

    # Seeds differ in nothing, subjects do: an interval over seeds alone would be a point.
    full = group_of("3d", 0.5, 0.5, 0.5)
    found = paired_difference(
        group_of("p2sc2", *(0.5 + apart for apart in APART)), full, "dice_mean"
    )
    assert found.mean == pytest.approx(0.4 / 3)
    np.testing.assert_allclose(found.interval, INTERVAL, atol=1e-9)


def test_folds_of_a_cross_validation_are_pairs_of_runs(make_tissue_record):
    def group_of(block, *values, folds=3):
        one = [
            brains(make_tissue_record, block, {"abc"[k]: values[k]}, fold=k) for k in range(folds)
        ]
        return Group(tuple(one))

    full, block = group_of("3d", 0.5, 0.5, 0.5), group_of("p2sc2", *(0.5 + a for a in APART))
    found = paired_difference(block, full, "dice_mean")
    assert (found.seeds, found.runs) == ((0,), 3)
    np.testing.assert_allclose(found.interval, INTERVAL, atol=1e-9)
    found = paired_difference(group_of("p2sc2", 0.6, 0.7, 0.5, folds=2), full, "dice_mean")
    assert (found.runs, found.interval) == (2, None)
    assert found.mean == pytest.approx(0.15)


def test_a_second_seed_that_has_one_fold_takes_no_subject_away(make_tissue_record):
    def group_of(block, *values):
        folds = [(0, 0), (0, 1), (0, 2), (1, 0)]
        made = [
            brains(make_tissue_record, block, {"abc"[fold]: value}, seed=seed, fold=fold)
            for (seed, fold), value in zip(folds, values, strict=True)
        ]
        return Group(tuple(made))

    full, block = group_of("3d", 0.5, 0.5, 0.5, 0.5), group_of("p2sc2", 0.6, 0.7, 0.8, 0.8)
    found = paired_difference(block, full, "dice_mean")
    assert found.mean == pytest.approx((0.2 + 0.2 + 0.3) / 3)  # "a" is the mean of two seeds
    means = [np.mean(group.scores("dice_mean")) for group in (block, full)]
    assert found.mean == pytest.approx(means[0] - means[1])  # as the table's
    assert found.interval[0] <= found.mean <= found.interval[1]


@pytest.mark.parametrize(
    ("apart", "measures", "words"),
    [
        ((-0.3, -0.2, -0.25) * 2, AFFINITY, "better"),
        ((-0.3, -0.2, -0.25), AFFINITY, "better in these 3 runs"),
        ((0.3, 0.2, 0.25), AFFINITY, "worse in these 3 runs"),
        ((0.3, -0.2, 0.05), AFFINITY, "not told apart"),
        ((0.03, 0.02, 0.025), TISSUE, "better in these 3 runs"),
    ],
)
def test_what_can_be_concluded(make_record, make_tissue_record, apart, measures, words):
    def made(block, values):
        if measures is AFFINITY:
            return group(make_record, block, values)
        records = [make_tissue_record(dice=d, seed=s) for s, d in enumerate(values)]
        named = {"block": {"name": block}}
        return Group(tuple(replace(r, config=r.config | named) for r in records))

    full = made("3d", [0.5] * len(apart))
    found = contrasts([("3D", full), ("(2,2)", made("p2sc2", [0.5 + a for a in apart]))])[1:]
    assert [line[0].split(", ")[1] for line in found] == [s.label for s in measures.paired]
    assert found[-1][4] == words


def test_other_code_recipes_and_tests_are_never_paired(make_record):
    changes = (
        {"commit": "b" * 40},
        {"recipe": {"iterations": 6, "batch_size": 2}},
        {"splits": {"test": ["elsewhere"]}},
        {"splits": {"train": ["less"], "test": ["here[0:9]"]}},
        {"trainer": {"precision": "bf16-mixed"}},
    )
    records = [make_record(), *(make_record("p2sc2", **change) for change in changes)]
    groups = group_records(records)
    assert len(groups) == 6
    assert len(contrasts([(g.block, g) for g in groups])) == 1  # a header


def test_of_two_networks_with_3d_that_of_the_same_backbone_counts(make_record):
    recipe = {"iterations": 5, "batch_size": 2, "name": "bui/quick"}  # the same but for its name
    other = make_record("3d", backbone={"name": "densenet_bui"}, total=9.0, recipe=recipe)
    named = [("bui", Group((other,))), ("3D", group(make_record, "3d", [2.0]))]
    named.append(("(2,2)", group(make_record, "p2sc2", [1.0])))
    _, first, second = contrasts(named)
    assert [line[0].partition(",")[0] for line in (first,)] == ["bui − 3D"]
    assert second[0].startswith("(2,2) − 3D")
    assert second[1] == "−1.000"


def test_learning_rates_are_compared_by_the_lowest_validation_loss(make_record, tmp_path):
    for block, rate, losses in (
        ("3d", 1e-3, (0.4, 0.3, 0.35)),
        ("3d", 2e-3, (0.5, 0.45, 0.44)),
        ("3d", 4e-3, (math.nan, 0.7, math.nan)),
        ("p2sc2", 2e-3, (0.3, 0.2, 0.1)),
    ):
        record = make_record(block)
        record.config["recipe"] = {"optimizer": {"learning_rate": rate}}
        folder = tmp_path / f"{block}-{rate}"
        write_record(record, folder)
        rows = [f"{step},{loss}" for step, loss in zip((9, 19, 29), losses, strict=True)]
        (folder / "metrics.csv").write_text("\n".join(["step,validation/loss", *rows]))
    assert learning_rates(tmp_path) == [
        ("block", "rate 0.001", "rate 0.002", "rate 0.004"),
        ("3d", "**0.300 (20)**", "0.440 (30)", "0.700 (20)"),
        ("p2sc2", "–", "**0.100 (30)**", "–"),
    ]
    shutil.copytree(tmp_path / "3d-0.001", tmp_path / "again")
    with pytest.raises(DataError, match="has another run of this block and rate"):
        learning_rates(tmp_path)


TRUTH = np.repeat(np.array([1, 2, 3], dtype=np.uint64), [12, 12, 2])[:, None, None] * np.ones(
    (1, 10, 10), np.uint64
)  # 1,200, 1,200 and 200 voxels


@pytest.fixture
def bodies_table(tmp_path):
    def write(name, segments):
        relabelled = np.select([body == TRUTH for body in (1, 2, 3)], segments).astype(np.uint64)
        write_body_errors(tmp_path / name, body_errors(TRUTH, relabelled))
        return tmp_path / name

    return write


def test_a_pair_is_joined_where_a_segment_holds_a_thousand_voxels_of_both(bodies_table):
    assert joined_pairs(bodies_table("all.csv", [1, 1, 1])) == {(1, 2): 1200}  # 3 is too small
    assert joined_pairs(bodies_table("none.csv", [1, 2, 3])) == {}


def test_networks_are_told_apart_by_the_share_of_their_runs(bodies_table):
    joins, keeps = bodies_table("joins.csv", [1, 1, 3]), bodies_table("keeps.csv", [1, 2, 3])
    header, row = joined_bodies({"3d": [joins, keeps], "p2sc2": [keeps]})
    assert header[2:] == ("3d joins them", "p2sc2 joins them")
    assert row == ("1, 2", "1,200", "1 of 2", "0 of 1")
    assert joined_bodies({"3d": [joins], "p2sc2": [joins]})[1:] == []  # all alike


def test_another_file_is_refused_by_name(tmp_path):
    for text in ("a,b\n1,2\n", "kind,largest_pieces\nmerge\n"):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(DataError, match=r"other\.csv is no table of bodies"):
            joined_pairs(tmp_path / "other.csv")
