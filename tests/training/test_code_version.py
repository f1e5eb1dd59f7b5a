"""Versions of the code: named, chosen by a user, and told apart."""

import pytest

from psc.training.provenance import code_version, difference, is_version

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
