"""Commit, dirty flag and versions as they are, and how versions of the code are told apart."""

import subprocess

import pytest

from psc.training.provenance import code_version, difference, git_state, is_version, versions


def git(folder, *arguments):
    subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True)


def test_git_state_of_a_clean_a_changed_and_no_checkout(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init")
    git(tmp_path, "config", "user.email", "a@b.c")
    git(tmp_path, "config", "user.name", "a")
    (tmp_path / "f").write_text("1")
    git(tmp_path, "add", "f")
    git(tmp_path, "commit", "-m", "one")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "untracked").touch()
    assert git_state(tmp_path)["dirty"] is False
    (tmp_path / "f").write_text("2")
    assert git_state(tmp_path)["dirty"] is True


def test_versions_name_what_is_there():
    found = versions()
    assert found["python"].startswith("3.")
    assert found["torch"]


CLEAN = {"commit": "abcdef0123456789", "dirty": False}
DIRTY = {"commit": "abcdef0123456789", "dirty": True}
OTHER = {"commit": "abc9999999999999", "dirty": False}
UNKNOWN = {"commit": None, "dirty": None}


def test_names():
    versions = [code_version(git) for git in (CLEAN, DIRTY, UNKNOWN)]
    assert versions == ["abcdef01", "abcdef01-dirty", "unknown"]


@pytest.mark.parametrize(
    ("git", "wanted", "expected"),
    [
        (CLEAN, "abc", True),
        (CLEAN, "abcdef0123456789", True),
        (CLEAN, "abcdef01-dirty", False),
        (DIRTY, "abcdef01-dirty", True),
        (DIRTY, "abcdef01", False),
        (OTHER, "abcdef01", False),
        (CLEAN, "", False),
        (UNKNOWN, "unknown", True),
        (UNKNOWN, "", False),
    ],
)
def test_a_user_names_a_version_by_its_first_digits(git, wanted, expected):
    assert is_version(git, wanted) is expected


def test_only_the_same_clean_commit_is_surely_the_same_code():
    assert difference(CLEAN, CLEAN) is None
    assert "abc99999, and the code is now abcdef01" in difference(OTHER, CLEAN)
    assert "uncommitted changes since abcdef01" in difference(DIRTY, DIRTY)
    assert "abcdef01-dirty" in difference(DIRTY, CLEAN)
    assert "no git checkout" in difference(UNKNOWN, UNKNOWN)
