"""The list of all records on the page, each with a link to its file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psc.code_version import code_version
from psc.paper.formats import heading
from psc.paper.page_html import relative_link, table, text
from psc.paper.pictures import block_label
from psc.paper.table import Table
from psc.results import FILE_NAME, Record, read_record


@dataclass(frozen=True)
class ListedRecord:
    """A record and where it is shown.

    Attributes:
        path: its file.
        record: what it says.
        row: label of its row, or what it is drawn for.
    """

    path: Path
    record: Record
    row: str


def records_section(experiments: Sequence[Sequence[Table]], folder: Path, page_folder: Path) -> str:
    """Every record, by experiment and protocol.

    Args:
        experiments: tables of each experiment.
        folder: experiments/, where figures and other folders may hold records of their own.
        page_folder: that links start from.

    Raises:
        DataError: one of those cannot be trusted.
    """
    parts = []
    for tables in experiments:
        for shown in tables:
            listed = [
                ListedRecord(run.path, run.record, line.row.label)
                for line in shown.lines
                for run in line.runs
            ]
            name = shown.experiment.title.split(":")[0]
            parts.append(_group(f"{name}. {heading(shown)}", listed, folder, page_folder))
    shown_already = {tables[0].experiment.name for tables in experiments}
    for other in sorted(path for path in folder.iterdir() if path.name not in shown_already):
        listed = [
            ListedRecord(path, record, block_label(record.config["block"]["name"]))
            for path in sorted(other.glob(f"*/*/{FILE_NAME}"))
            for record in (read_record(path),)
        ]
        parts.append(_group(_title(other), listed, folder, page_folder))
    found = "".join(parts) or "<p>There are no records.</p>\n"
    return (
        '<section id="records">\n<h2>Records</h2>\n<p>What each number comes from. A record is '
        "sealed by the SHA-256 of its content: one that was edited by hand is refused, and this "
        "page is then not made. The links lead into the checkout that the page was made in.</p>\n"
        f"{found}</section>\n"
    )


def record_link(path: Path, folder: Path, words: str) -> str:
    """A link from a table to the record's line in the list."""
    return f'<a href="#{text(_identifier(path, folder))}">{text(words)}</a>'


def _identifier(path: Path, folder: Path) -> str:
    return path.parent.relative_to(folder).as_posix()


def _group(title: str, listed: Sequence[ListedRecord], folder: Path, page_folder: Path) -> str:
    if not listed:
        return ""
    grid: list[tuple[str, ...]] = [
        ("run", "row", "data", "iterations", "seed", "commit", "hardware", "finished", "seal")
    ]
    markup, identifiers = {}, []
    for one in listed:
        link = relative_link(one.path, page_folder)
        markup[len(grid), 0] = f'<a href="{link}">{text(one.record.run)}</a>'
        seal = one.record.seal
        markup[len(grid), 8] = f'<code class="seal" title="{seal}">{seal[:8]}</code>'
        grid.append(
            (
                one.record.run,
                one.row,
                _data(one.record),
                f"{one.record.iterations:,}",
                str(one.record.seed),
                code_version(one.record.git),
                str(one.record.hardware["device"]),
                one.record.finished[:10],
                seal,
            )
        )
        identifiers.append(_identifier(one.path, folder))
    return f"<h3>{text(title)}</h3>\n" + table(
        grid, label=f"Records of {title}", markup=markup, identifiers=identifiers
    )


def _data(record: Record) -> str:
    return f"{record.data['kind']}: {record.config['dataset']['name']}"


def _title(folder: Path) -> str:
    """The heading of a folder's README.md, or the folder's name."""
    readme = folder / "README.md"
    first = readme.read_text(encoding="utf-8").partition("\n")[0] if readme.is_file() else ""
    return first.removeprefix("# ") or folder.name
