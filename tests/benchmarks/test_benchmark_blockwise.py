"""The benchmark of the blockwise pipeline at a tiny size: what it measures is there and is sane."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import benchmark


def test_blockwise(tmp_path, capsys):
    scratch, out = tmp_path / "scratch", tmp_path / "result.json"
    scratch.mkdir()
    sizes = ["--sizes", "24", "--block-size", "16", "--piece", "20", "--folder", str(scratch)]
    files = ["--out", str(out), "--figure", str(tmp_path / "growth.png")]
    assert benchmark.main(["blockwise", *sizes, *files]) == 0
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    ((row,),) = json.loads(out.read_text())["tables"].values()
    assert (row["size"], row["workers"], row["growth"]) == (24, 1, None)
    assert row["million_voxels"] == pytest.approx(24**3 / 1e6)
    assert row["seconds_per_million"] == pytest.approx(row["seconds"] / row["million_voxels"])
    assert row["cpu_seconds"] > 0
    assert 100 < row["process_mb"] <= row["all_mb"]  # PyTorch alone takes more
    # Nothing is compressed to less than a bit per voxel here: 11 bytes go in.
    assert row["disk_mb"] > 24**3 / 8e6
    assert row["fragments"] >= row["segments"] >= 1
    assert list(scratch.iterdir()) == []  # nothing is left
    assert "| 24 | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--sizes", "1"], "at least 2"), (["--folder", "/nowhere"], "no such folder")],
)
def test_wrong_arguments(arguments, message, capsys):
    assert benchmark.main(["blockwise", *arguments]) == 1
    assert message in capsys.readouterr().err
