"""result.json: what is written is what is read, and nothing else is taken for a record."""

import hashlib
import json
import os
from dataclasses import replace

import pytest

from psc.errors import DataError
from psc.training.records import Record, read_record, write_record

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
    with pytest.raises(DataError, match=r"schema version 99.*newer code"):
        read_record(path)
    path.write_text('{"schema_version": 1, "git": {"commit": "abc"}}')
    with pytest.raises(DataError, match=r"schema version 1, .* that wrote it \(commit abc\)"):
        read_record(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not JSON"):
        read_record(path)
    write_record(RECORD, tmp_path)
    content = json.loads(path.read_text())
    for key in ("seed", "metrics"):
        path.write_text(json.dumps({name: v for name, v in content.items() if name != key}))
        with pytest.raises(DataError, match=f"not a complete record: .*{key}"):
            read_record(path)


def test_the_seal_is_the_hash_of_sorted_json_without_it(tmp_path):
    content = json.loads(write_record(RECORD, tmp_path).read_text())
    seal = content.pop("seal")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert seal == RECORD.seal == hashlib.sha256(text.encode("utf-8")).hexdigest()


def test_data_whose_name_is_no_utf_8(tmp_path):
    record = replace(RECORD, data={**RECORD.data, "path": os.fsdecode(b"gr\xf6\xdfe.h5")})
    assert read_record(write_record(record, tmp_path)) == record


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"total": 1.5', '"total": 1.4'),
        ('"total": 1.5', '"total": "1.5"'),
        ('"total": 1.5', '"total": NaN'),
        ('"parameters": 10', '"parameters": 11'),
        ('"kind": "synthetic"', '"kind": "real"'),
        ('"dirty": null', '"dirty": false'),
        ('"device": "cpu"', '"device": "cpü"'),
    ],
)
def test_any_change_by_hand_is_refused(tmp_path, old, new):
    path = write_record(RECORD, tmp_path)
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=r"edited by hand\. Restore it .*run it again"):
        read_record(path)


def test_a_record_without_a_seal_is_refused(tmp_path):
    path = write_record(RECORD, tmp_path)
    content = json.loads(path.read_text())
    del content["seal"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has no seal"):
        read_record(path)


def test_the_layout_of_the_file_does_not_count(tmp_path):
    odd = replace(RECORD, config={"b": {2: 1.0, 10: -0.0}, "a": ("ü", [1e-300, 2**70])})
    path = write_record(odd, tmp_path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items())), indent=7))
    assert read_record(path).config == {"b": {"2": 1.0, "10": -0.0}, "a": ["ü", [1e-300, 2**70]]}
