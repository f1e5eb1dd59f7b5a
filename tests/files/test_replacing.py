"""A file or folder that is written beside its place: whole or not there."""

import hashlib

import pytest

from psc.files import replacing, sha256_of


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

    with pytest.raises(type(failure)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_checksum(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
