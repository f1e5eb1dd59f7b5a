"""Generated parts replace what is between their markers, and nothing else."""

import pytest

from psc.errors import DataError
from psc.paper.text import insert_between, markers

START, END = markers("PART")


def test_the_part_goes_between_its_markers(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{START}\nold\n{END}\n{markers('OTHER')[0]}\n", encoding="utf-8")
    for _ in range(2):  # writing again changes nothing
        insert_between(path, "PART", "| a |")
        text = path.read_text(encoding="utf-8")
        assert text == f"before\n{START}\n\n| a |\n\n{END}\n{markers('OTHER')[0]}\n"


@pytest.mark.parametrize("text", ["", START, END, f"{END}\n{START}"])
def test_a_page_without_markers_is_left_alone(tmp_path, text):
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="no place for it"):
        insert_between(path, "PART", "| a |")
    assert path.read_text(encoding="utf-8") == text
