"""Records move into experiments/ unchanged but for the path of the machine, and only once."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from psc.errors import DataError
from psc.results import Record, read_record, write_record

SCRIPT = Path(__file__).parents[1] / "scripts" / "collect_records.py"
spec = importlib.util.spec_from_file_location("collect_records", SCRIPT)
collect_records = importlib.util.module_from_spec(spec)
spec.loader.exec_module(collect_records)

RECORD = Record(
    run="a", config={"output_directory": "/home/me/runs", "seed": 1}, metrics={"x": 1.0},
    parameters=1, iterations=1, wall_seconds={}, throughput={}, seed=1, data={}, git={},
    versions={}, hardware={}, finished="2026-01-01T00:00:00+00:00",
)  # fmt: skip


def test_copied_once_without_the_machines_path(tmp_path):
    runs, there = tmp_path / "runs", tmp_path / "records"
    (runs / "a").mkdir(parents=True)
    write_record(RECORD, runs / "a")
    (runs / "a" / "metrics.csv").write_text("step\n")
    assert collect_records.collect(runs, there) == [there / "a"]
    assert read_record(there / "a") == replace(
        RECORD, config={"output_directory": "runs", "seed": 1}
    )
    assert (there / "a" / "metrics.csv").read_text() == "step\n"
    assert collect_records.collect(runs, there) == []

    write_record(replace(RECORD, metrics={"x": 2.0}), runs / "a")
    with pytest.raises(DataError, match="another record of run a"):
        collect_records.collect(runs, there)
    assert read_record(there / "a").metrics == {"x": 1.0}
