import shutil
from pathlib import Path

import pytest

from psc.errors import DataError
from psc.files import in_words, require_free_space


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_949, "1 MB"),
        (6_500_000_000, "6.5 GB"),
        (2 * 10**15, "2000 TB"),
    ],
)
def test_bytes_in_words(size, words):
    assert in_words(size) == words


def test_the_disk_of_a_folder_that_does_not_exist_yet(tmp_path, monkeypatch):
    asked = []
    usage = shutil.disk_usage("/")

    def disk_usage(folder):
        asked.append(folder)
        return usage._replace(free=2000)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    require_free_space(tmp_path / "a" / "b", 2000, "this")
    assert asked == [tmp_path]
    with pytest.raises(
        DataError, match=r"^this needs 2 kB in .*b, but 2 kB are free there; free 1 "
    ):
        require_free_space(tmp_path / "a" / "b", 2001, "this")


def test_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    assert require_free_space(Path("a/b"), 0, "nothing") is None  # it would raise
