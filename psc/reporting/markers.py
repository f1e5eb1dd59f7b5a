"""Generated parts of a text file, between two comments that name them."""

from pathlib import Path

from psc.errors import DataError

__all__ = ["insert_between", "markers"]


def markers(name: str) -> tuple[str, str]:
    """The lines before and after a generated part of a Markdown file."""
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def insert_between(path: Path, name: str, content: str) -> None:
    """Replace what lies between the markers of a file.

    Raises:
        DataError: if the file does not have both markers, in order.
    """
    first, last = markers(name)
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise DataError(f"{path} has no place for it; add the lines {first} and {last}")
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(f"{before}{first}\n\n{content}\n\n{last}{after}", encoding="utf-8")
    partial.replace(path)
