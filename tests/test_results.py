"""result.json: what is written is what is read, and nothing else is taken for a record."""

import json
from dataclasses import replace

import pytest

from psc.errors import DataError
from psc.results import Record, read_record, write_record

RECORD = Record(
    run="r",
    config={"seed": 1},
    metrics={"test": {"total": 1.5}},
    parameters=10,
    iterations=5,
    wall_seconds={"training": 1.0},
    throughput={"iterations_per_second": None},
    seed=1,
    data={"kind": "synthetic", "files": []},
    git={"commit": None, "dirty": None},
    versions={"python": "3"},
    hardware={"device": "cpu"},
    finished="2026-01-01T00:00:00+00:00",
)


def test_round_trip(tmp_path):
    path = write_record(RECORD, tmp_path)
    assert path.name == "result.json"
    assert read_record(path) == read_record(tmp_path) == RECORD


def test_not_a_number_is_not_written(tmp_path):
    write_record(RECORD, tmp_path)
    with pytest.raises(ValueError, match="Out of range float"):
        write_record(replace(RECORD, metrics={"total": float("nan")}), tmp_path)
    assert read_record(tmp_path) == RECORD


def test_what_is_no_record_is_refused(tmp_path):
    path = tmp_path / "result.json"
    with pytest.raises(DataError, match="has not finished"):
        read_record(tmp_path)
    path.write_text('{"run": ')
    with pytest.raises(DataError, match="not JSON"):
        read_record(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="schema version None"):
        read_record(path)
    path.write_text('{"schema_version": 99}')
    with pytest.raises(DataError, match="schema version 99"):
        read_record(path)
    write_record(RECORD, tmp_path)
    content = json.loads(path.read_text())
    del content["seed"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="seed"):
        read_record(path)
