"""Pairs of bodies that networks join, from the tables of bodies that evaluations leave."""

import numpy as np
import pytest

from psc.em.bodies import body_errors, write_body_errors
from psc.errors import DataError
from psc.paper.joined import joined_bodies, joined_pairs

TRUTH = np.repeat(np.array([1, 2, 3], dtype=np.uint64), [12, 12, 2])[:, None, None] * np.ones(
    (1, 10, 10), np.uint64
)  # 1,200, 1,200 and 200 voxels


@pytest.fixture
def table(tmp_path):
    def write(name, segments):
        relabelled = np.select([body == TRUTH for body in (1, 2, 3)], segments).astype(np.uint64)
        write_body_errors(tmp_path / name, body_errors(TRUTH, relabelled))
        return tmp_path / name

    return write


def test_a_pair_is_joined_where_a_segment_holds_a_thousand_voxels_of_both(table):
    assert joined_pairs(table("all.csv", [1, 1, 1])) == {(1, 2): 1200}  # 3 is too small
    assert joined_pairs(table("none.csv", [1, 2, 3])) == {}


def test_networks_are_told_apart_by_the_share_of_their_runs(table):
    joins, keeps = table("joins.csv", [1, 1, 3]), table("keeps.csv", [1, 2, 3])
    header, row = joined_bodies({"3d": [joins, keeps], "p2sc2": [keeps]})
    assert header[2:] == ("3d joins them", "p2sc2 joins them")
    assert row == ("1, 2", "1,200", "1 of 2", "0 of 1")
    assert joined_bodies({"3d": [joins], "p2sc2": [joins]})[1:] == []  # all alike


def test_another_file_is_refused_by_name(tmp_path):
    for text in ("a,b\n1,2\n", "kind,largest_pieces\nmerge\n"):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(DataError, match=r"other\.csv is no table of bodies"):
            joined_pairs(tmp_path / "other.csv")
