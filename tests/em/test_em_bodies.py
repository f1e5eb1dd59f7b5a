"""Splits and merges with their places, against sums of VI and a voxel-by-voxel oracle."""

import csv
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from psc.em.bodies import BodyError, Piece, body_errors, write_body_errors
from psc.em.data import Region, Splits, read_volume
from psc.em.testing import Outcome, write_outputs
from psc.errors import DataError
from psc.metrics import segmentation_scores

SHAPES = st.tuples(*[st.integers(1, 5)] * 3)


def bits(errors, kind):
    return sum(error.bits for error in errors if error.kind == kind)


@st.composite
def pairs_of_volumes(draw):
    shape = draw(SHAPES)
    truth = draw(arrays(np.uint64, shape, elements=st.integers(0, 3)))
    truth.flat[0] = 1  # something is known
    return truth, draw(arrays(np.int64, shape, elements=st.integers(0, 3)))


class TestSums:
    @settings(max_examples=40, deadline=None)
    @given(pairs_of_volumes())
    def test_bits_of_all_rows_are_variation_of_information(self, volumes):
        errors = body_errors(*volumes)
        scores = segmentation_scores(*volumes)
        assert bits(errors, "split") == pytest.approx(scores.split, abs=1e-12)
        assert bits(errors, "merge") == pytest.approx(scores.merge, abs=1e-12)
        assert [error.bits for error in errors] == sorted((e.bits for e in errors), reverse=True)

    @settings(max_examples=40, deadline=None)
    @given(pairs_of_volumes())
    def test_every_row_as_counted_voxel_by_voxel(self, volumes):
        truth, predicted = volumes
        errors = {(error.kind, error.label): error for error in body_errors(truth, predicted)}
        for kind, owner, other in (("split", truth, predicted), ("merge", predicted, truth)):
            for label in range(4):
                voxels = (owner == label) & (truth != 0)
                labels, counts = np.unique(other[voxels], return_counts=True)
                if len(labels) < 2:
                    assert (kind, label) not in errors
                    continue
                error = errors.pop((kind, label))
                assert {p.label: p.voxels for p in error.pieces} == dict(
                    zip(labels.tolist(), counts.tolist(), strict=True)
                )
                sizes = [piece.voxels for piece in error.pieces]
                assert sizes == sorted(sizes, reverse=True)
                assert error.voxels == sum(sizes) == voxels.sum()
                assert voxels[error.location]
                self.check_place(error, voxels, other)
        assert not errors

    @staticmethod
    def check_place(error, voxels, other):
        """``touching`` where any two pieces touch, and then the contact is of the worst pair."""
        size_of = {piece.label: piece.voxels for piece in error.pieces}
        contacts = {}
        for voxel in np.argwhere(voxels):
            for step in np.eye(3, dtype=int):
                before = voxel - step
                if before.min() >= 0 and voxels[tuple(before)]:
                    pair = {int(other[tuple(voxel)]), int(other[tuple(before)])}
                    if len(pair) == 2:
                        contacts.setdefault(tuple(voxel), []).append(min(size_of[p] for p in pair))
        assert error.touching == bool(contacts)
        if contacts:
            worst = max(max(smaller) for smaller in contacts.values())
            assert worst in contacts[error.location]
        else:
            assert other[error.location] == error.pieces[0].label


class TestByHand:
    def test_a_split_in_the_middle_of_a_tube(self):
        truth = np.zeros((9, 5, 5), np.uint64)
        truth[:, 1:4, 1:4] = 2**64 - 1
        predicted = np.zeros((9, 5, 5), np.int32)
        predicted[:4], predicted[4:] = 70, 80
        (error,) = body_errors(truth, predicted, offset=(100, 20, 3))
        assert error == BodyError(
            kind="split",
            label=2**64 - 1,
            voxels=81,
            bits=pytest.approx(-(4 / 9 * np.log2(4 / 9) + 5 / 9 * np.log2(5 / 9))),
            pieces=(Piece(80, 45), Piece(70, 36)),
            location=(104, 22, 5),  # the face between the planes 3 and 4, in its middle
            touching=True,
        )

    def test_a_merge_at_a_bridge(self):
        """Two bodies side by side, joined by a segment; a third body is right."""
        truth = np.ones((4, 6, 10), np.int64)
        truth[:, 3:] = 2
        truth[:, :, 8:] = 3
        predicted = np.where(truth == 3, 9, 5)
        predicted[:, 3:, :2] = 6  # a corner of body 2 is its own segment
        merge, split = body_errors(truth, predicted)  # 168 voxels near even, 96 at 3 : 1
        assert (merge.kind, merge.label, split.kind, split.label) == ("merge", 5, "split", 2)
        assert merge.pieces == (Piece(1, 96), Piece(2, 72))
        z, y, x = merge.location
        assert y == 3  # the bodies' border
        assert (z, x) in product((1, 2), (4, 5))  # the middle of x = 2 … 7, where 5 crosses it
        assert split.pieces == (Piece(5, 72), Piece(6, 24))
        assert split.location[2] == 2

    def test_pieces_that_do_not_touch(self):
        truth = np.zeros((3, 3, 9), np.uint8)
        truth[:, :, :5] = truth[:, :, 7:] = 4
        predicted = np.ones((3, 3, 9), np.uint8)
        predicted[:, :, 6:] = 0  # left to no segment: a piece like any other
        (error,) = body_errors(truth, predicted)
        assert (error.kind, error.label, error.touching) == ("split", 4, False)
        assert error.pieces == (Piece(1, 45), Piece(0, 18))
        assert error.location == (1, 1, 2)

    def test_the_middle_of_a_bent_piece_lies_in_it(self):
        truth = np.zeros((1, 7, 7), np.uint8)
        truth[0, 0], truth[0, :, 0], truth[0, 6, 6] = 1, 1, 1
        predicted = np.ones_like(truth)
        predicted[0, 6, 6] = 2
        (error,) = body_errors(truth, predicted)
        assert error.location in ((0, 0, 2), (0, 2, 0))  # nearest to y = x = 1.6

    def test_a_perfect_segmentation_has_none(self):
        truth = np.random.default_rng(0).integers(0, 5, (4, 5, 6))
        assert body_errors(truth, np.where(truth > 0, 10 - truth, 0)) == []

    def test_memory_order_and_types_do_not_matter(self):
        rng = np.random.default_rng(1)
        truth, predicted = rng.integers(0, 4, (2, 5, 6, 7))
        expected = body_errors(truth, predicted)
        assert expected == body_errors(np.asfortranarray(truth).astype(">i4"), predicted)

    @pytest.mark.parametrize(
        ("truth", "predicted", "problem"),
        [
            (np.ones((2, 2)), np.ones((2, 2)), "integer"),
            (np.ones((2, 2), int), np.ones((2, 2), int), r"\(D, H, W\)"),
            (np.ones((2, 2, 2), int), np.ones((2, 2, 3), int), "shape"),
            (np.zeros((2, 2, 2), int), np.ones((2, 2, 2), int), "nothing to compare"),
        ],
    )
    def test_errors(self, truth, predicted, problem):
        with pytest.raises(DataError, match=problem):
            body_errors(truth, predicted)


def test_an_evaluation_leaves_the_table_of_every_test_region(tiny_volume, tmp_path):
    volume = read_volume(tiny_volume)
    regions = (Region(volume, 4, 10), Region(volume, 20, 26))
    splits = Splits({"train": (), "validation": (), "test": regions}, "real", ())
    halves = [region.labels * np.uint64(2) for region in regions]
    for half in halves:  # every body that reaches across is split
        half[:, :, : half.shape[2] // 2] += np.uint64(1)
    scores = {"split": 1.0, "merge": 0.0, "total": 1.0, "adapted_rand_error": 0.1}
    affinities = [np.zeros((3, *half.shape), np.float32) for half in halves]
    sweep = [{"threshold": 0.5, **scores}]
    outcome = Outcome(0.5, scores, scores, sweep, halves, affinities)
    (tmp_path / "test-7_bodies.csv").write_text("of an earlier evaluation")
    write_outputs(tmp_path, splits, outcome, outcome, {})
    assert not (tmp_path / "test-7_bodies.csv").exists()
    for i, (region, half) in enumerate(zip(regions, halves, strict=True)):
        with (tmp_path / f"test-{i}_bodies.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        split = segmentation_scores(region.labels, half).split
        assert split > 0
        assert sum(float(row["bits"]) for row in rows) == pytest.approx(split)
        assert {row["kind"] for row in rows} == {"split"}
        # The place is the volume's, and on the plane where all bodies are split.
        assert all(region.start <= int(row["z"]) < region.stop for row in rows)
        assert all(int(row["x"]) == half.shape[2] // 2 for row in rows)
        for row in rows:
            place = tuple(int(row[axis]) for axis in "zyx")
            assert int(volume.labels[place]) == int(row["label"])


class TestFiles:
    ERRORS = (
        BodyError("merge", 5, 168, 0.25, (Piece(1, 96), Piece(2, 72)), (1, 3, 4), True),
        BodyError("split", 2**64 - 1, 60, 1 / 8, (Piece(0, 40), Piece(6, 20)), (7, 8, 9), False),
    )

    def test_csv_holds_everything(self, tmp_path):
        path = tmp_path / "evaluation" / "bodies.csv"
        write_body_errors(path, self.ERRORS)
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[0] == {
            "kind": "merge",
            "label": "5",
            "bits": "0.25",
            "voxels": "168",
            "pieces": "2",
            "z": "1",
            "y": "3",
            "x": "4",
            "touching": "yes",
            "largest_pieces": "1:96 2:72",
        }
        assert rows[1]["label"] == str(2**64 - 1)
        assert rows[1]["touching"] == "no"
        assert [p.name for p in path.parent.iterdir()] == ["bodies.csv"]

    def test_bits_survive_the_file(self, tmp_path):
        rng = np.random.default_rng(2)
        truth, predicted = rng.integers(0, 9, (2, 6, 7, 8))
        write_body_errors(tmp_path / "bodies.csv", body_errors(truth, predicted))
        with (tmp_path / "bodies.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        scores = segmentation_scores(truth, predicted)
        for kind, expected in (("split", scores.split), ("merge", scores.merge)):
            total = sum(float(row["bits"]) for row in rows if row["kind"] == kind)
            assert total == pytest.approx(expected, rel=1e-12)

    def test_a_shattered_body_fills_no_page(self, tmp_path):
        pieces = tuple(Piece(label, 1) for label in range(3000))
        path = tmp_path / "bodies.csv"
        write_body_errors(path, [BodyError("split", 1, 3000, 1.0, pieces, (0, 0, 0), True)])
        row = path.read_text(encoding="utf-8").splitlines()[1]
        assert ",3000," in row
        assert row.count(":") == 20

    def test_no_errors_leave_a_header(self, tmp_path):
        write_body_errors(tmp_path / "bodies.csv", [])
        assert (tmp_path / "bodies.csv").read_text(encoding="utf-8").startswith("kind,label,bits")

    def test_what_was_there_survives_a_failure(self, tmp_path):
        path = tmp_path / "bodies.csv"
        path.mkdir()  # cannot be replaced by a file
        with pytest.raises(DataError, match="cannot be written"):
            write_body_errors(path, self.ERRORS)
        assert [p.name for p in tmp_path.iterdir()] == ["bodies.csv"]
