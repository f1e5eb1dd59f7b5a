"""docs/theory.md: its numbers are computed, its tests exist, its picture is there."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "docs" / "theory.md"
TEXT = CHAPTER.read_text(encoding="utf-8")
NAMED_TESTS = sorted(set(re.findall(r"`(test_\w+)`", TEXT)))
WRITTEN = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("decomposition", "conversion")
    for path in sorted((ROOT / "tests" / folder).glob("test_*.py"))
)
DEFINED_TESTS = set(re.findall(r"^def (test_\w+)\(", WRITTEN, re.MULTILINE))


def test_the_worked_numbers_are_what_the_code_computes():
    examples = "\n".join(re.findall(r"^```pycon\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
    parsed = doctest.DocTestParser().get_doctest(examples, {}, "theory.md", str(CHAPTER), 0)
    result = doctest.DocTestRunner().run(parsed)
    assert result.attempted >= 15
    assert result.failed == 0


@pytest.mark.parametrize("name", NAMED_TESTS)
def test_every_test_that_the_chapter_names_exists(name):
    assert name in DEFINED_TESTS


@pytest.mark.parametrize(
    "prefix", ["test_eq1_", "test_eq2_", "test_eq3_", "test_eq4_", "test_eq5_"]
)
def test_the_chapter_names_every_test_of_an_equation(prefix):
    of_equation = {name for name in DEFINED_TESTS if name.startswith(prefix)}
    assert of_equation
    assert of_equation <= set(NAMED_TESTS)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", TEXT))
def test_every_file_that_the_chapter_links_exists(link):
    assert (CHAPTER.parent / link).exists()
