"""A folder that is replaced as a whole, and what a kill in the middle leaves."""

from pathlib import Path

import pytest

from psc.errors import DataError
from psc.files import is_empty, recover_folder, replace_folder


@pytest.fixture
def folder(tmp_path):
    """Function: make a folder with one file; returns its path."""

    def make(name, content):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
        return tmp_path / name

    return make


def content(place):
    return (place / "file").read_text()


def names(place):
    return sorted(path.name for path in place.iterdir())


def is_new(place):
    return content(place) == "new"


@pytest.mark.parametrize("before", ["nothing", "empty", "old"])
def test_the_new_one_takes_the_place(folder, tmp_path, before):
    place = tmp_path / "data"
    if before == "empty":
        place.mkdir()
    elif before == "old":
        folder("data", "old")
    replace_folder(folder("new", "new"), place)
    assert content(place) == "new"
    assert names(tmp_path) == ["data"]


@pytest.mark.parametrize("failure", [OSError(5, "broken"), KeyboardInterrupt()])
def test_what_was_there_comes_back_if_the_new_one_cannot(folder, tmp_path, monkeypatch, failure):
    old, new = folder("data", "old"), folder("new", "new")
    rename = Path.rename

    def fail_for_the_new(path, target):
        if path == new:
            raise failure
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(type(failure)):
        replace_folder(new, old)
    assert content(old) == "old"
    assert names(tmp_path) == ["data", "new"]


@pytest.mark.parametrize("meanwhile", ["nothing", "empty"])
def test_killed_between_the_two_moves(folder, tmp_path, meanwhile):
    folder(".data.previous", "old")
    if meanwhile == "empty":
        (tmp_path / "data").mkdir()
    recover_folder(tmp_path / "data", is_new)
    assert content(tmp_path / "data") == "old"
    assert names(tmp_path) == ["data"]


def test_killed_before_the_old_one_was_removed(folder, tmp_path):
    folder(".data.previous", "old")
    recover_folder(folder("data", "new"), is_new)
    assert content(tmp_path / "data") == "new"
    assert names(tmp_path) == ["data"]


def test_neither_is_removed_where_it_is_not_sure_which(folder, tmp_path):
    previous, other = folder(".data.previous", "old"), folder("data", "somebody's")
    with pytest.raises(DataError, match=rf"{previous} is what {other} was before.*move one"):
        recover_folder(other, is_new)
    assert (content(previous), content(other)) == ("old", "somebody's")


def test_usually_there_is_nothing_to_recover(folder, tmp_path):
    recover_folder(tmp_path / "data", is_new)
    assert names(tmp_path) == []
    recover_folder(folder("data", "somebody's"), is_new)
    assert content(tmp_path / "data") == "somebody's"


def test_empty_folders(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert is_empty(tmp_path / "empty")
    assert not is_empty(tmp_path / "missing")
    assert not is_empty(folder("data", "x"))
    assert not is_empty(tmp_path / "data" / "file")
