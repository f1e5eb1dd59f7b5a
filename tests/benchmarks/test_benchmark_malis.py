"""The benchmark of MALIS at a tiny size, beside a reference of a few lines."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))  # where Python itself looks when the script is started

import benchmark  # noqa: E402
from benchmarks import malis  # noqa: E402

REFERENCE = '''
"""Sets of voxels, and their labels counted again at every edge."""
import numpy as np


def malis_pairs(seg, order, Z, Y, X):
    sets = [{voxel} for voxel in range(seg.size)]
    counts = np.zeros((2, order.size), dtype=np.int64)
    for i, edge in enumerate(order):
        axis, voxel = divmod(int(edge), seg.size)
        a, b = sets[voxel], sets[voxel - (Y * X, X, 1)[axis]]
        if a is b:
            continue
        for x in a:
            for y in b:
                if seg[x] and seg[y]:
                    counts[int(seg[x] != seg[y]), i] += 1
        a |= b
        for x in b:
            sets[x] = a
    return counts[0], counts[1], "what else it returns is ignored"
'''


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(malis, "_SHORTEST", 0.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(tmp_path, *arguments):
    path = tmp_path / "result.json"
    fixed = ["--repeats", "1", "--threads", "1", "--out", str(path)]
    assert benchmark.main(["malis", *arguments, *fixed]) == 0
    return json.loads(path.read_text())


def test_ours_and_a_reference_count_the_same(tmp_path):
    file = tmp_path / "reference.py"
    file.write_text(REFERENCE)

    result = run(tmp_path, "--sizes", "7", "5", "--reference", str(file))

    assert result["settings"]["reference"] == "reference.py"
    (rows,) = result["tables"].values()
    by_name = {
        (row["size"], row["affinities"], row["counts"], row["contestant"]): row for row in rows
    }
    assert len(by_name) == len(rows) == 2 * 2 * 2 * 2
    for (size, affinities, counts, contestant), row in by_name.items():
        assert row["fails"] is None
        assert row["wall_seconds"] > 0
        ours = by_name[size, affinities, counts, "psc"]
        ratio = row["cpu_seconds"] / ours["cpu_seconds"]
        assert row["cpu_seconds_relative_to_psc"] == pytest.approx(ratio)
        pairs = row["positive_pairs"], row["negative_pairs"]
        assert pairs == (ours["positive_pairs"], ours["negative_pairs"])
        if counts == "one pass":
            assert sum(pairs) == size**3 * (size**3 - 1) // 2
        smallest = by_name[5, affinities, counts, contestant]
        if size == 5:
            assert row["growth_exponent"] is None
        else:
            grown = (size / 5) ** (3 * row["growth_exponent"])
            assert grown == pytest.approx(row["cpu_seconds"] / smallest["cpu_seconds"])
    assert math.isfinite(rows[-1]["growth_exponent"])


def test_without_a_reference(tmp_path):
    result = run(tmp_path, "--sizes", "6")

    (rows,) = result["tables"].values()
    assert {row["contestant"] for row in rows} == {"psc"}
    assert result["settings"]["reference"] is None


def test_trained_affinities_are_mostly_right():
    _, labels = malis.label_volumes(24, 0)
    affinities = malis._affinities(labels, 0)["trained"]
    for axis in range(3):
        same = np.diff(labels, axis=axis) == 0
        high = np.moveaxis(affinities[axis], axis, 0)[1:] > 0.5
        assert (high == np.moveaxis(same, axis, 0)).mean() > 0.85
        assert 0.02 < (~same).mean() < 0.2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no Python file"),
        ("import no_such_module", "no_such_module"),
        ("x = 1", "malis_pairs"),
    ],
)
def test_refused_references(tmp_path, capsys, text, message):
    file = tmp_path / "reference.py"
    if text is not None:
        file.write_text(text)

    assert benchmark.main(["malis", "--sizes", "6", "--reference", str(file)]) == 1

    assert message in capsys.readouterr().err


def test_sizes_without_a_boundary_are_refused(capsys):
    assert benchmark.main(["malis", "--sizes", "9", "2"]) == 1
    assert "at least 3 voxels, found 2" in capsys.readouterr().err
