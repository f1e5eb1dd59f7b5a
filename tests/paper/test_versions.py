"""Records of several versions of the code: named, chosen, never mixed by accident."""

from pathlib import Path

import pytest

from psc.errors import DataError
from psc.paper.groups import of_one_version


@pytest.fixture
def records(make_record):
    return {
        Path("runs/a"): make_record(commit="abc1" + "0" * 36),
        Path("runs/b"): make_record(commit="abc1" + "0" * 36, dirty=True),
        Path("runs/c"): make_record(commit="abc2" + "0" * 36),
        Path("runs/d"): make_record(commit="abc2" + "0" * 36),
    }


def test_several_versions_are_refused_with_who_is_what_and_the_way_out(records):
    with pytest.raises(DataError) as refusal:
        of_one_version(records)
    message = str(refusal.value)
    assert "3 versions" in message
    assert "abc10000: 1 run (a)" in message
    assert "abc10000-dirty: 1 run (b)" in message
    assert "abc20000: 2 runs (c, d)" in message
    for remedy in ("--commit abc20000", "--all-commits", "folder"):
        assert remedy in message


def test_one_version_is_taken_as_it_is(records):
    one = dict(list(records.items())[2:])
    assert of_one_version(one) == one


@pytest.mark.parametrize(
    ("commit", "names"), [("abc1", "a"), ("abc1-dirty", "b"), ("abc20000", "cd")]
)
def test_a_version_is_chosen(records, commit, names):
    assert [path.name for path in of_one_version(records, commit=commit)] == list(names)


@pytest.mark.parametrize(("commit", "message"), [("abd", "no run here"), ("abc", "more than one")])
def test_a_choice_that_is_none(records, commit, message):
    with pytest.raises(DataError, match=message):
        of_one_version(records, commit=commit)


def test_all_versions_on_request(records):
    assert of_one_version(records, all_commits=True) == records
