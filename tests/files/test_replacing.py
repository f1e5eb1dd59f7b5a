"""A file or folder that is written beside its place: whole or not there."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from psc.errors import ConfigError, DataError
from psc.files import check_output, replacing, sha256_of, write_csv, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("before", [None, "old"])
def test_a_file(tmp_path, before):
    path = tmp_path / "new folder" / "a.txt"
    if before:
        path.parent.mkdir()
        path.write_text(before)
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.exists() == bool(before)
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("before", [None, "old"])
def test_a_folder(tmp_path, before):
    path = tmp_path / "a"
    if before:
        path.mkdir()
        (path / "old").write_text("")
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("failure", [OSError(28, "full"), KeyboardInterrupt()])
def test_what_fails_leaves_what_was_there(tmp_path, kind, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with replacing(path) as temporary:
            if kind == "folder":
                temporary.mkdir()
                temporary = temporary / "half"
            temporary.write_text("half")
            raise failure

    told = DataError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(told, match=r"a\.txt cannot be written \(full\); make room|^$"):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("place", "how", "message"),
    [
        ("there", {}, "output=.*there exists; give another file, or overwrite=true"),
        ("there", {"overwrite": True, "folder": True}, "is a file; give a folder"),
        ("in", {"overwrite": True}, "is a folder; give a file"),
        ("in", {"folder": True}, "exists; give another folder"),
        ("link", {"overwrite": True, "source": "there"}, "is the input"),
    ],
)
def test_an_output_that_must_not_be_replaced(tmp_path, monkeypatch, place, how, message):
    monkeypatch.chdir(tmp_path)
    Path("there").touch()
    Path("in").mkdir()
    Path("link").symlink_to("there")
    options = {"overwrite": False, **how, "source": Path(how.get("source", "none"))}
    with pytest.raises(ConfigError, match=message):
        check_output(Path(place), **options)
    for free in ("new", "there"):
        assert check_output(Path(free), overwrite=True, source=Path("in")) == Path(free)


def test_a_checksum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_a_file_that_is_read_meanwhile_is_not_what_cannot_be_written(tmp_path):
    for missing in (tmp_path / "in" / "source.csv", tmp_path / "out" / "others" / "a.txt"):
        with pytest.raises(FileNotFoundError) as told, replacing(tmp_path / "out" / "a.txt") as new:
            new.write_text(missing.read_text())
        assert told.value.filename == str(missing)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"), replacing(tmp_path / "file" / "a"):
        pass


def test_a_name_that_is_no_utf_8_comes_back_from_json(tmp_path):
    name = os.fsdecode(b"gr\xf6\xdfe.h5")
    path = write_json({"file": name, "also": "größe"}, tmp_path / "x.json")
    assert json.loads(path.read_text(encoding="utf-8")) == {"file": name, "also": "größe"}
    path = write_csv(["file"], [[name]], tmp_path / "x.csv")
    assert path.read_text(encoding="utf-8") == "file\ngr\\udcf6\\udcdfe.h5\n"
