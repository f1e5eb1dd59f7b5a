"""The paper on one page of HTML: build/paper/index.html, which holds all that it shows."""

import base64
import html
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from psc.accounting import Account
from psc.em.data import REAL, SAMPLE
from psc.em.data import SYNTHETIC as SYNTHETIC_DATA
from psc.paper.experiments import PAPER, REDUCED, SYNTHETIC
from psc.paper.figures import MadeFigure, Source
from psc.paper.network_summary import NOTE, billions
from psc.paper.pictures import block_label
from psc.paper.published import PARAMETERS, RELATIONS, Network, Relation, compare
from psc.paper.table import (
    KINDS,
    NOT_RUN,
    NOTHING,
    WARNINGS,
    Grid,
    Line,
    Table,
    claims,
    heading,
    legend,
    results,
)
from psc.training.provenance import PROJECT, code_version, git_state
from psc.training.records import FILE_NAME, Record, read_record

# ----------------------------------------
# How the page looks: light and dark, wide and narrow, on screen and on paper.


STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfa; --card: #fff; --ink: #1c1e21; --faint: #5a6069;
  --line: #dcdfe3; --strong: #9aa1aa; --link: #0b5c94; --amber: #8a5200; --amber-soft: #fdf3e1;
  --violet: #7a3a8c; --violet-soft: #f8eefa; --green: #14663f; --grey-soft: #eef0f2; }
@media (prefers-color-scheme: dark) { :root { --paper: #14161a; --card: #1b1e23; --ink: #e6e8eb;
  --faint: #a7aeb8; --line: #343a42; --strong: #6b737d; --link: #7dbdf0; --amber: #f0b45b;
  --amber-soft: #2a2317; --violet: #d9a3e8; --violet-soft: #281f2c; --green: #7fd3a6;
  --grey-soft: #262a30; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 3.5rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 3rem; }
h1, h2, h3, h4 { font-family: Charter, "Bitstream Charter", "Iowan Old Style", Georgia, serif;
  line-height: 1.25; text-wrap: balance; overflow-wrap: break-word; }
h1 { font-size: clamp(1.8rem, 5vw, 2.6rem); margin: 0 0 .5rem; max-width: 24em; }
h2 { font-size: 1.7rem; margin: 4rem 0 1rem; padding-top: 1rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.3rem; margin: 2.2rem 0 .6rem; }
h4 { font-size: 1.08rem; margin: 0 0 .6rem; }
p, ul { margin: 0 0 .9rem; max-width: 72ch; overflow-wrap: break-word; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: .15em; }
a:focus-visible, .scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
code { font: .88em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
sub { font-size: .72em; line-height: 0; }
.faint, figcaption { color: var(--faint); font-size: .92rem; line-height: 1.5; }
.lead { font-size: 1.15rem; }
.verdict { font-size: 1.1rem; border-left: 4px solid var(--ink); padding: .2rem 0 .2rem 1rem; }
nav { position: sticky; top: 0; z-index: 1; background: var(--paper);
  border-bottom: 1px solid var(--line); margin-top: 1.5rem; }
nav ul { list-style: none; display: flex; gap: 0 1.4rem; max-width: 76rem; margin: 0 auto;
  padding: .6rem 1.25rem; overflow-x: auto; white-space: nowrap; font-size: .95rem; }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; margin: 0 0 .9rem; }
table { border-collapse: collapse; font-size: .92rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; min-width: min(100%, 32rem); }
thead { border-top: 1.5px solid var(--ink); border-bottom: 1px solid var(--strong); }
tbody { border-bottom: 1.5px solid var(--ink); }
th, td { padding: .38rem .9rem .38rem 0; text-align: left; vertical-align: baseline; }
thead th { font-weight: 600; vertical-align: bottom; }
thead th[colspan] { text-align: center; border-bottom: 1px solid var(--line); }
tbody th { font-weight: 500; white-space: nowrap; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr.apart > * { border-top: 1px solid var(--strong); }
tbody tr:target { background: var(--amber-soft); }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 15rem; }
.number { text-align: right; }
#records table { font-size: .86rem; }
td.none { color: var(--faint); font-style: italic; }
.seal { overflow-wrap: normal; }
main > section:first-child h2 { border: 0; margin-top: 1.5rem; padding: 0; }
.box { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: 1.1rem 1.25rem .4rem; margin: 1.2rem 0; }
.box.reduced { border-left: 5px solid var(--amber); }
.box.synthetic { border: 2px dashed var(--violet); background: var(--violet-soft); }
.badge { display: inline-block; margin: 0 0 .6rem; padding: .05rem .6rem; border-radius: 1rem;
  font-size: .78rem; font-weight: 650; letter-spacing: .05em; text-transform: uppercase;
  color: var(--amber); background: var(--amber-soft); border: 1px solid currentColor; }
.box.synthetic .badge, .badge.synthetic { color: var(--violet); background: var(--violet-soft); }
.warning { font-weight: 600; color: var(--amber); }
.box.synthetic .warning { color: var(--violet); }
.pill { display: inline-block; padding: 0 .55rem; border-radius: 1rem; font-size: .82rem;
  font-weight: 650; white-space: nowrap; background: var(--grey-soft); }
.pill.run, .pill.shown, .pill.counted { color: var(--green); }
.pill.partly-run { color: var(--amber); }
figure { margin: 2rem 0; }
figcaption { margin-top: .8rem; }
figcaption p { margin-bottom: .5rem; }
figcaption p:first-child { color: var(--ink); font-size: 1rem; }
.plate { background: #fff; color: #1c1e21; border: 1px solid var(--line); border-radius: .5rem;
  padding: .9rem; }
.plate .scroll { margin: 0; }
.plate img { display: block; width: 100%; height: auto; }
.plate .badge { color: #8a5200; background: #fdf3e1; }
.plate .badge.synthetic { color: #7a3a8c; background: #f8eefa; }
.plate.absent { background: none; color: var(--faint); border-style: dashed; }
.plate.absent p { margin: 0; overflow-wrap: anywhere; }
figure.wide .plate { max-width: 62rem; }
figure.wide img { min-width: 40rem; }
figure.column .plate { max-width: 30rem; }
@media (min-width: 56rem) {
  figure.column { display: grid; grid-template-columns: 30rem minmax(0, 1fr); gap: 0 2rem;
    align-items: start; }
  figure.column figcaption { margin-top: 0; }
}
footer { margin-top: 4rem; padding-top: 1rem; padding-bottom: 3rem; font-size: .92rem;
  color: var(--faint); }
@media (max-width: 40rem) { .box { padding: .9rem .9rem .2rem; } header { padding-top: 1.6rem; }
  body { font-size: 1rem; } .plate { padding: .6rem; }
  tbody th { white-space: normal; min-width: 7.5rem; }
  table.stacked { min-width: 0; width: 100%; }
  .stacked thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px;
    overflow: hidden; }
  .stacked tr, .stacked th, .stacked td { display: block; min-width: 0; white-space: normal; }
  .stacked tr { padding: .5rem 0; border-top: 1px solid var(--line); }
  .stacked tbody { border-top: 1.5px solid var(--ink); }
  .stacked tr > * { padding: .1rem 0; border: 0 !important; }
  .stacked td.none { display: none; }
  .stacked td::before { content: attr(data-label) ": "; color: var(--faint); } }
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --faint: #444; --line: #ccc; --strong: #888;
    --link: #000; --amber: #6b4000; --amber-soft: #fff; --violet: #5c2a6a; --violet-soft: #fff;
    --green: #000; --grey-soft: #fff; color-scheme: light; }
  @page { margin: 1.6cm; }
  body, figcaption p:first-child { font-size: 9.5pt; }
  .lead, .verdict { font-size: 10.5pt; }
  .faint, figcaption, footer, .pill, .badge { font-size: 8.5pt; }
  .badge, .pill { padding: 0 .5em; }
  h1 { font-size: 20pt; }
  h2 { font-size: 15pt; margin-top: 2rem; }
  h3 { font-size: 12pt; }
  h4 { font-size: 10pt; }
  header, main, footer { max-width: none; padding: 0; }
  nav { display: none; }
  h2, h3, h4 { break-after: avoid; }
  .scroll { overflow: visible; }
  table, #records table, td .pill { font-size: 6.8pt; }
  table { min-width: 0; }
  th, td { padding-right: .5em; }
  tbody th, td { white-space: normal !important; min-width: 0 !important; overflow-wrap: anywhere; }
  tr, .plate { break-inside: avoid; }
  figure.wide img { min-width: 0; max-height: 22cm; width: auto; max-width: 100%; margin: 0 auto; }
  figure.column { display: block; }
  figure.column .plate { max-width: 10cm; }
  .pill { border: 1px solid #888; }
}
"""
"""Style sheet of the page; it names no resource, not even a font to be fetched."""


# ----------------------------------------
# Text as HTML: escaped, with the little Markdown that captions and READMEs use; tables, links.


FAINT = ("–", "not run", "unknown", "")
"""Cells that hold no number."""

PAIR = (", paper", ", ours")
"""Endings of headings of columns that belong together."""

LONG = 36
"""Characters from which on a cell is broken into lines."""

_NUMBER = re.compile(r"[+−-]?[\d,.]+( ± [\d,.]+)?( [%MG])?")
_BLOCK_NAME = re.compile(r"\bP_?(\d|m)SC_?(\d|n)\b")


def text(words: str) -> str:
    """Escaped, for content and for attributes in double quotes."""
    return html.escape(words, quote=True)


def inline(words: str, links: str = "") -> str:
    """A sentence: **bold**, *emphasis*, `code`, [links](to) and P_mSC_n; all else is escaped.

    Args:
        words: the sentence.
        links: folder, as seen from the page, that relative links start from.
    """
    parts = re.split(r"(`[^`]+`)", " ".join(words.split()))
    return "".join(
        f"<code>{text(part[1:-1])}</code>" if part.startswith("`") else _marked(part, links)
        for part in parts
    )


def paragraph_of(readme: Path, *beginnings: str) -> str | None:
    """The paragraph of a README that begins with **one of these words**, without them."""
    if not readme.is_file():
        return None
    for paragraph in readme.read_text(encoding="utf-8").split("\n\n"):
        for beginning in beginnings:
            if paragraph.startswith(f"**{beginning}**"):
                return paragraph.removeprefix(f"**{beginning}**").lstrip(": ")
    return None


def table(
    grid: Sequence[Sequence[str]],
    *,
    label: str,
    markup: Mapping[tuple[int, int], str] | None = None,
    identifiers: Sequence[str] = (),
    separate: int | None = None,
    stacked: bool = False,
) -> str:
    """A table that scrolls in its box where it is wider than the page.

    Columns "x, paper" and "x, ours" that lie side by side share the heading x. Columns of numbers
    are aligned at the right.

    Args:
        grid: lines of cells, the header first.
        label: what the table is, for screen readers.
        markup: HTML of cells that are not plain text, by line and column; the header is line 0.
        identifiers: of the lines after the header, to link to.
        separate: line before which there is a rule.
        stacked: on narrow screens cells lie below each other; for tables of sentences.
    """
    markup = markup or {}
    numeric = _numeric_columns(grid)
    body = []
    for i, line in enumerate(grid[1:], start=1):
        cells = [
            _cell(cell, markup.get((i, j)), "row" if j == 0 else numeric[j], grid[0][j])
            for j, cell in enumerate(line)
        ]
        identifier = f' id="{text(identifiers[i - 1])}"' if identifiers else ""
        style = ' class="apart"' if i == separate else ""
        body.append(f"<tr{identifier}{style}>{''.join(cells)}</tr>")
    kind = ' class="stacked"' if stacked else ""
    return (
        f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0"><table{kind}>'
        f"\n<thead>{_header(grid[0], numeric)}</thead>\n<tbody>\n"
        + "\n".join(body)
        + "\n</tbody></table></div>\n"
    )


def embedded_png(path: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def relative_link(target: Path, page_folder: Path) -> str:
    """Address of a file as seen from the page."""
    return quote(Path(os.path.relpath(target, page_folder)).as_posix())


def document(title: str, style: str, body: str) -> str:
    """The whole page. It may fetch nothing, which it also tells the browser."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}</body>\n"
        "</html>\n"
    )


def _marked(words: str, links: str) -> str:
    words = text(words)
    words = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", words)
    words = re.sub(r"\*(.+?)\*", r"<em>\1</em>", words)

    def link(found: re.Match[str]) -> str:
        target = found[2] if found[2].startswith("#") else f"{links}{found[2]}"
        return f'<a href="{target}">{found[1]}</a>'

    words = re.sub(r"\[([^\]]+)\]\(([^):]+)\)", link, words)
    return _BLOCK_NAME.sub(r"P<sub>\1</sub>SC<sub>\2</sub>", words)


def _numeric_columns(grid: Sequence[Sequence[str]]) -> list[bool]:
    """Whether a column holds numbers, or nothing where there is none."""
    columns = zip(*grid[1:], strict=True)
    found = [all(c in FAINT or _NUMBER.fullmatch(c) for c in column) for column in columns]
    return found or [False] * len(grid[0])


def _cell(cell: str, markup: str | None, kind: bool | Literal["row"], heading: str) -> str:
    content = text(cell) if markup is None else markup
    if kind == "row":
        return f'<th scope="row">{content}</th>'
    names = ["number"] if kind else ["long"] if len(cell) > LONG else []
    names += ["none"] if cell in FAINT else []
    style = f' class="{" ".join(names)}"' if names else ""
    return f'<td{style} data-label="{text(heading)}">{content}</td>'


def _header(cells: Sequence[str], numeric: Sequence[bool]) -> str:
    """One line, or two where the paper's and our columns share a heading."""
    pairs = [
        i
        for i in range(len(cells) - 1)
        if cells[i].endswith(PAIR[0]) and cells[i + 1] == cells[i].removesuffix(PAIR[0]) + PAIR[1]
    ]
    styles = [' class="number"' if number else "" for number in numeric]
    above, below = [], []
    rows = ' rowspan="2"' if pairs else ""
    for i, cell in enumerate(cells):
        if i in pairs:
            shared = text(cell.removesuffix(PAIR[0]))
            above.append(f'<th scope="colgroup" colspan="2">{shared}</th>')
            below.append(f'<th scope="col"{styles[i]}>paper</th>')
        elif i - 1 in pairs:
            below.append(f'<th scope="col"{styles[i]}>ours</th>')
        else:
            above.append(f'<th scope="col"{rows}{styles[i]}>{text(cell)}</th>')
    return f"<tr>{''.join(above)}</tr>" + (f"<tr>{''.join(below)}</tr>" if pairs else "")


# ----------------------------------------
# Of which commit a page is. Its date is the commit's: the same commit gives the same page.


@dataclass(frozen=True)
class Origin:
    """Where a page comes from.

    Attributes:
        version: commit in a few digits, "-dirty" with uncommitted changes; "unknown" without git.
        date: the day of the commit, ISO 8601; None without git.
    """

    version: str
    date: str | None


def page_origin(folder: Path = PROJECT) -> Origin:
    """Of the checkout."""
    state = git_state(folder)
    if state["commit"] is None:
        return Origin("unknown", None)
    shown = subprocess.run(
        ["git", "-C", str(folder), "show", "--no-patch", "--format=%cs", state["commit"]],
        check=True,
        capture_output=True,
        text=True,
    )
    return Origin(code_version(state), shown.stdout.strip())


# ----------------------------------------
# Figures on the page: a light plate, a caption, where they come from, and what differs.


_FROM_README = {
    "In the paper:": ("What the paper shows", "What the paper claims"),
    "Deviations:": ("Deviations",),
}
"""Heading → beginnings of the README's paragraph."""

_BADGES = {SAMPLE: "real sample · reduced protocol", SYNTHETIC_DATA: "synthetic"}


def figure_element(made: MadeFigure, experiments: Path, page_folder: Path) -> str:
    """One figure, or why it is not there."""
    figure = made.figure
    name = figure.name.replace("figure-", "Figure ")
    links = relative_link(experiments / figure.name, page_folder) + "/"
    title = f"<strong>{text(name)}. {text(figure.title)}.</strong>"
    parts = [f"<p>{title} {inline(figure.caption)}</p>"]
    if made.source is not None:
        parts.append(_origin(made.source, experiments, page_folder))
    readme = experiments / figure.name / "README.md"
    for title, beginnings in _FROM_README.items():
        if (words := paragraph_of(readme, *beginnings)) is not None:
            parts.append(f"<p><strong>{title}</strong> {inline(words, links)}</p>")
    if made.pdf is not None:
        link = relative_link(made.pdf, page_folder)
        parts.append(f'<p><a href="{link}">PDF, to be printed</a></p>')
    kind = "wide" if figure.wide else "column"
    return (
        f'<figure id="{text(figure.name)}" class="{kind}">\n{_plate(made)}'
        f"<figcaption>{''.join(parts)}</figcaption>\n</figure>\n"
    )


def _plate(made: MadeFigure) -> str:
    if made.png is None:
        reason = made.missing or f"what it is drawn from is damaged: {made.error}"
        return f'<div class="plate absent"><p>Not drawn: {text(reason)}.</p></div>\n'
    kind = made.source.kind if made.source is not None else REAL
    about = made.figure.alternative
    if kind == SYNTHETIC_DATA:
        about = f"Synthetic data. {about}"
    badge = f'<p class="badge {text(kind)}">{text(_BADGES[kind])}</p>' if kind in _BADGES else ""
    # Wide drawings are not shrunk to a phone's width but scroll, which takes the keyboard, too.
    focus = f' role="region" aria-label="{text(made.figure.title)}" tabindex="0"'
    return (
        f'<div class="plate">{badge}<div class="scroll"{focus if made.figure.wide else ""}>'
        f'<img alt="{text(about)}" src="{embedded_png(made.png)}"></div></div>\n'
    )


def _origin(source: Source, experiments: Path, page_folder: Path) -> str:
    runs = "; ".join(
        f"{text(label)}: <code>{text(run)}</code>, {iterations:,} iterations, commit {text(commit)}"
        for label, run, commit, iterations in source.runs
    )
    files = ", ".join(
        f'<a href="{relative_link(experiments / file, page_folder)}">{text(Path(file).name)}</a>'
        for file in source.files
    )
    return f"<p><strong>Data:</strong> {text(source.data)}. {runs} ({files}).</p>"


# ----------------------------------------
# The list of all records on the page, each with a link to its file.


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


# ----------------------------------------
# The parameter account on the page: every network with every block, beside what was published.


Accounts = Mapping[Network, Account]

_NAMES = {
    "resnet34": "ResNet-34, video",
    "densenet": "DenseNet, brain MRI",
    "densenet_bui": "DenseNet as Bui et al. released it",
    "unet": "U-Net, electron microscopy",
}
_SHORT_NAMES = {
    "resnet34": "ResNet-34",
    "densenet": "DenseNet",
    "densenet_bui": "Bui et al.'s",
    "unet": "U-Net",
}
_FULL = "3d"


@dataclass(frozen=True)
class Agreement:
    """How our networks' sizes compare with the published ones; calibrated ones are not counted.

    Attributes:
        met: published numbers that ours equal at the rounding that they are printed with.
        published: of how many.
        agreeing: comparisons in the text that ours bear out.
        relations: of how many.
    """

    met: int
    published: int
    agreeing: int
    relations: int


def agreement(accounts: Accounts) -> Agreement:
    """Count what agrees."""

    def count(network: Network) -> int:
        return accounts[network].parameters

    published = [n for n, found in PARAMETERS.items() if n in accounts and not found.calibrated]
    relations = _relations(accounts)
    return Agreement(
        met=sum(compare(n, count(n), count).verdict == "match" for n in published),
        published=len(published),
        agreeing=sum(
            relation.verdict(count(relation.network), count(relation.other)).startswith(
                ("match", "agrees")
            )
            for relation in relations
        ),
        relations=len(relations),
    )


def parameters_section(accounts: Accounts) -> str:
    """A table for each backbone, the paper's comparisons, and what the numbers mean."""
    names = {backbone: _NAMES.get(backbone, backbone) for backbone, _ in accounts}
    tables = "".join(
        f"<h3>{text(name)}</h3>\n"
        + table(_of_backbone(accounts, backbone), label=f"Sizes of {name}")
        for backbone, name in names.items()
    )
    relations = [("the paper compares", "here", "place")]
    relations += [
        (
            _readable(f"{' '.join(relation.network)}: {relation}"),
            relation.verdict(
                accounts[relation.network].parameters, accounts[relation.other].parameters
            ),
            relation.source,
        )
        for relation in _relations(accounts)
    ]
    return (
        '<section id="parameters">\n<h2>Parameters and multiply-adds</h2>\n'
        "<p>Counted from the networks that the configuration builds, at the paper's width; nothing "
        "is trained for this.</p>\n"
        f'{tables}<p class="faint">{inline(NOTE)}</p>\n'
        "<h3>What the paper says of these sizes</h3>\n"
        f"{table(relations, label='Comparisons of sizes')}</section>\n"
    )


def _relations(accounts: Accounts) -> list[Relation]:
    return [r for r in RELATIONS if r.network in accounts and r.other in accounts]


def _of_backbone(accounts: Accounts, backbone: str) -> Grid:
    full = accounts.get((backbone, _FULL))
    grid: Grid = [
        (
            *("block", "input", "parameters", "against 3D", "MACs", "MACs against 3D"),
            *("published", "verdict"),
        )
    ]
    for network, found in accounts.items():
        if network[0] != backbone:
            continue
        comparison = compare(network, found.parameters, lambda n: accounts[n].parameters)
        _, channels, size, *_ = found.input_shape
        grid.append(
            (
                block_label(network[1]),
                f"{channels} × {size}³",
                f"{found.parameters:,}",
                _change(found.parameters, full.parameters if full else None, network),
                billions(found.multiply_adds),
                _change(found.multiply_adds, full.multiply_adds if full else None, network),
                _readable(comparison.published or NOTHING),
                comparison.verdict,
            )
        )
    return grid


def _change(value: int, full: int | None, network: Network) -> str:
    if full is None or network[1] == _FULL:
        return NOTHING
    return f"{100 * (value / full - 1):+.1f} %".replace("-", "−")


def _readable(words: str) -> str:
    """Names of configuration files as the paper writes them: densenet p2sc3 as DenseNet P₂SC₃."""
    words = re.sub(r"\b(p\dsc\d|3d)\b", lambda found: block_label(found[0]), words)
    for backbone, name in _SHORT_NAMES.items():
        words = re.sub(rf"\b{backbone}\b", name, words)
    return words


# ----------------------------------------
# The beginning of the page: what the paper claims, and what has been reproduced so far.


Experiments = Sequence[Sequence[Table]]
"""The tables of each experiment, the paper's protocol first."""

_CLAIM = (
    "The paper replaces consecutive 3D convolutions by **P_mSC_n**: m parallel streams, each of n "
    "2D convolutions and a 1D convolution across them. It claims that this makes networks smaller "
    "and better at once, in three applications: actions in video, tissues of the brain, neurons in "
    "electron microscopy."
)


def status_section(
    experiments: Experiments, figures: Sequence[MadeFigure], agreement: Agreement
) -> str:
    """Claim, summary in a sentence, and a line for each part of the paper."""
    grid = [("part of the paper", "at the paper's protocol", "otherwise")]
    markup: dict[tuple[int, int], str] = {}
    for tables in experiments:
        first, *others = tables
        name = first.experiment.name
        state, words = state_of(first)
        markup[len(grid), 0] = f'<a href="#{text(name)}">{text(first.experiment.title)}</a>'
        markup[len(grid), 1] = _pill(state, words)
        grid.append((first.experiment.title, words, "; ".join(map(state_at, others)) or NOTHING))
    for made in figures:
        if made.figure.source is None:
            continue
        state, words, otherwise = _figure_state(made)
        title = f"{_figure_name(made)}: {made.figure.title}"
        markup[len(grid), 0] = f'<a href="#{text(made.figure.name)}">{text(title)}</a>'
        markup[len(grid), 1] = _pill(state, words)
        grid.append((title, f"{state} {words}", otherwise))
    counted = (
        f"{agreement.met} of {agreement.published} published numbers met exactly, as far as they "
        f"are printed; {agreement.agreeing} of {agreement.relations} comparisons agree"
    )
    markup[len(grid), 0] = '<a href="#parameters">Sizes of the networks</a>'
    markup[len(grid), 1] = _pill("counted", counted)
    grid.append(("Sizes of the networks", counted, NOTHING))
    return (
        '<section id="status">\n<h2>What is claimed, and what has been reproduced</h2>\n'
        f'<p>{inline(_CLAIM)}</p>\n<p class="verdict">{text(_summary(experiments))}</p>\n'
        + table(grid, label="What has been reproduced", markup=markup, stacked=True)
        + _all_claims(experiments)
        + "</section>\n"
    )


def best_first(shown: Table) -> str | None:
    """A table's rows by their headline score; None where they cannot be compared."""
    score, measures = shown.measures.headline, shown.measures
    lines = [line for line in shown.lines if line.runs]
    if len(lines) < 2 or len(shown.floors) > 1:
        return None
    lines.sort(
        key=lambda line: sum(line.scores(score.key)) / len(line.runs),
        reverse=not measures.lower_is_better,
    )
    listed = "; ".join(f"{ln.row.label} {measures.text(ln.scores(score.key))}" for ln in lines)
    seeds = min(len(line.runs) for line in lines)
    few = "One seed does" if seeds == 1 else f"{seeds} seeds do"
    doubt = f" {few} not rank blocks for certain." if seeds < 3 else ""
    return f"Best first, by {score.label}: {listed}.{doubt}"


def state_of(paper: Table) -> tuple[str, str]:
    """Of a table at the paper's protocol: run, partly run or not run, and in numbers."""
    ours = [line for line in paper.lines if line.planned is not None]
    rows = {line.row.name: line.planned for line in ours}
    planned = sum(len(row.seeds) for row in rows.values() if row is not None)
    there = len({line.row.name for line in ours if line.runs})
    runs = sum(len(line.runs) for line in ours)
    words = f"{there} of {len(rows)} rows, {runs} of {planned} runs"
    if not runs:
        return NOT_RUN, words
    return ("run" if runs >= planned else "partly run"), words


def state_at(shown: Table) -> str:
    """How much has been run at a protocol that is not the paper's."""
    runs = sum(len(line.runs) for line in shown.lines)
    counted = f"{runs} run{'' if runs == 1 else 's'}" if runs else NOT_RUN
    kind = {REDUCED: "real sample, reduced protocol", SYNTHETIC: "synthetic"}
    return f"{kind[shown.protocol.kind]} “{shown.protocol.name}”: {counted}"


def _figure_state(made: MadeFigure) -> tuple[str, str, str]:
    if made.source is None:
        return "not drawn", "damaged" if made.error else "nothing to show", NOTHING
    if made.source.kind == "real":
        return "shown", made.source.data, NOTHING
    kinds = {
        "real sample": "drawn from a real sample at a reduced protocol",
        SYNTHETIC: "drawn from synthetic data, which shows nothing of the claim",
    }
    return NOT_RUN, "", kinds[made.source.kind]


def _figure_name(made: MadeFigure) -> str:
    return made.figure.name.replace("figure-", "Figure ")


def _pill(state: str, words: str) -> str:
    return f'<span class="pill {state.replace(" ", "-")}">{text(state)}</span> {text(words)}'


def _summary(experiments: Experiments) -> str:
    states = [state_of(tables[0])[0] for tables in experiments]
    if set(states) <= {NOT_RUN}:
        sentence = f"None of the paper's {len(states)} tables has been run at its protocol. "
    else:
        counted = [f"{states.count(s)} {s}" for s in ("run", "partly run", NOT_RUN) if s in states]
        sentence = f"Of the paper's {len(states)} tables, at its protocol: {', '.join(counted)}. "
    reduced = sum(
        len(line.runs)
        for tables in experiments
        for shown in tables
        if shown.protocol.kind == REDUCED
        for line in shown.lines
    )
    if reduced:
        sentence += (
            f"There are {reduced} runs of real samples at reduced protocols: they compare blocks "
            "with each other and cannot be set beside the paper's numbers. "
        )
    return sentence + "Every number of ours comes from a sealed record or is counted anew."


def _all_claims(experiments: Experiments) -> str:
    grid = [("what the paper says in words", "paper", "ours", "place")]
    for tables in experiments:
        grid += [(line[0], line[1], line[2], line[3]) for line in claims(tables[0])[1:]]
    if len(grid) == 1:
        return ""
    return (
        "<h3>Its comparisons, beside ours</h3>\n"
        f'<p class="faint">“{text(NOT_RUN)}”: at least one of the two rows has no record at '
        f"{text(KINDS[PAPER].lower())}. Parameters need none: they are counted.</p>\n"
        + table(grid, label="Comparisons that the paper states, and ours")
    )


# ----------------------------------------
# The tables on the page: the paper's protocol, samples in a box of their own, synthetic apart.


_BADGES_page_tables = {REDUCED: "real sample · reduced protocol", SYNTHETIC: "synthetic"}


def experiment_article(tables: Sequence[Table], page_folder: Path) -> str:
    """An experiment: what the paper claims, and its tables but for those of synthetic data."""
    experiment = tables[0].experiment
    readme = experiment.folder / "README.md"
    links = relative_link(experiment.folder, page_folder) + "/"
    claim = paragraph_of(readme, "What the paper claims")
    parts = [f"<h3>{text(experiment.title)}</h3>\n"]
    if claim is not None:
        parts.append(f"<p><strong>What the paper claims</strong> {inline(claim, links)}</p>\n")
    parts += [table_box(shown, page_folder) for shown in tables if shown.protocol.kind != SYNTHETIC]
    if readme.is_file():
        parts.append(
            f'<p class="faint">Protocols, and every deviation from the paper: '
            f'<a href="{links}README.md">experiments/{text(experiment.name)}</a>.</p>\n'
        )
    return f'<article id="{text(experiment.name)}">\n{"".join(parts)}</article>\n'


def table_box(shown: Table, page_folder: Path) -> str:
    """One table with its warning, its legend and its notes."""
    kind = shown.protocol.kind
    title = shown.experiment.title if kind == SYNTHETIC else ""
    parts = [f"<h4>{text(f'{title}. {heading(shown)}' if title else heading(shown))}</h4>\n"]
    if kind in _BADGES_page_tables:
        parts.insert(0, f'<p class="badge">{text(_BADGES_page_tables[kind])}</p>\n')
    if kind in WARNINGS:
        parts.append(f'<p class="warning">{text(WARNINGS[kind])}</p>\n')
    grid, markup = _with_links(shown, page_folder)
    separate = len(shown.lines) + 1 if shown.floors else None
    parts.append(table(grid, label=heading(shown), markup=markup, separate=separate))
    order = best_first(shown) if kind == REDUCED else None
    if order is not None:
        parts.append(f"<p>{text(order)}</p>\n")
    parts.append(f'<p class="faint">{text(legend(shown))}</p>\n')
    if shown.notes:
        notes = "".join(f"<li>{inline(note)}</li>" for note in shown.notes)
        parts.append(f'<ul class="faint">{notes}</ul>\n')
    return f'<div class="box {text(kind)}">\n{"".join(parts)}</div>\n'


def _with_links(
    shown: Table, page_folder: Path
) -> tuple[list[tuple[str, ...]], dict[tuple[int, int], str]]:
    """The table's cells and a column of links to the records of each line."""
    header, *rows = results(shown)
    lines: list[Line | None] = [*shown.lines, *[None] * (len(rows) - len(shown.lines))]
    grid, markup = [(*header, "records")], {}
    for i, (row, line) in enumerate(zip(rows, lines, strict=True), start=1):
        runs = line.runs if line is not None else ()
        grid.append((*row, " ".join(run.record.run for run in runs)))
        if runs:
            markup[i, len(row)] = " ".join(
                record_link(run.path, shown.experiment.folder.parent, _short(run.record.run))
                for run in runs
            )
    if not any(line is not None and line.runs for line in lines):
        return [row[:-1] for row in grid], {}
    return grid, markup


def _short(run: str) -> str:
    """What tells runs of a table apart: the digits at the end of their name."""
    found = re.search(r"[^-]+$", run)
    return found[0] if found else run


def synthetic_section(experiments: Sequence[Sequence[Table]], page_folder: Path) -> str:
    """Tables of synthetic data, far from the paper's; nothing where there are none."""
    shown = [t for tables in experiments for t in tables if t.protocol.kind == SYNTHETIC]
    if not shown:
        return ""
    boxes = "".join(table_box(each, page_folder) for each in shown)
    return (
        '<section id="synthetic">\n<h2>Synthetic data</h2>\n<p>These tables show that the programs '
        f"run from end to end. They say nothing about the paper.</p>\n{boxes}</section>\n"
    )


PAGE = "index.html"

TITLE = "Parallel separable 3D convolution, reproduced"

_PAPER = (
    "F. Gonda, D. Wei, T. Parag and H. Pfister: *Parallel Separable 3D Convolution for Video and "
    "Volumetric Data Understanding*. British Machine Vision Conference, 2018."
)

_BLOCK = ("figure-1", "figure-2", "figure-3")

_APPLICATIONS = (
    ("video", "Video", "table-4b", "figure-4a"),
    ("mri", "Brain MRI", "table-5d", "figure-5"),
    ("em", "Electron microscopy", "table-6d", "figure-6"),
)
"""Identifier, heading, experiment and figure of each application."""


def page_html(
    experiments: Sequence[Sequence[Table]],
    figures: Sequence[MadeFigure],
    accounts: Accounts,
    origin: Origin,
    *,
    folder: Path,
    page_folder: Path,
) -> str:
    """The page.

    Args:
        experiments: the tables of each experiment, the paper's protocol first.
        figures: that have been drawn, or could not be.
        accounts: sizes of the networks.
        origin: of which commit it is.
        folder: experiments/.
        page_folder: where the page is going to be, for its links into the checkout.

    Raises:
        DataError: a figure's record cannot be trusted.
    """
    drawn = {made.figure.name: figure_element(made, folder, page_folder) for made in figures}
    articles = {
        tables[0].experiment.name: experiment_article(tables, page_folder) for tables in experiments
    }
    applications, others = _applications(articles, drawn)
    synthetic = synthetic_section(experiments, page_folder)
    contents = [("status", "Status"), ("block", "The block"), ("parameters", "Parameters")]
    contents += [(identifier, title) for identifier, title, *_ in _APPLICATIONS]
    contents += [("synthetic", "Synthetic data")] if synthetic else []
    contents.append(("records", "Records"))
    body = (
        f"<header>\n<h1>{text(TITLE)}</h1>\n"
        f'<p class="lead">{inline(_PAPER)}</p>\n<p class="faint">{_made(origin)}</p>\n</header>\n'
        f"{_navigation(contents)}<main>\n"
        + status_section(experiments, figures, agreement(accounts))
        + _section("block", "The block", "".join(drawn.get(name, "") for name in _BLOCK))
        + parameters_section(accounts)
        + applications
        + others
        + synthetic
        + records_section(experiments, folder, page_folder)
        + f"</main>\n<footer>\n<p>{_made(origin)} Nothing on it was written by hand but captions "
        "and claims; nothing is fetched from anywhere.</p>\n</footer>\n"
    )
    return document(TITLE, STYLE, body)


def _applications(articles: Mapping[str, str], drawn: Mapping[str, str]) -> tuple[str, str]:
    """A section for each application, and one for tables that belong to none."""
    sections = "".join(
        _section(identifier, title, articles.get(table, "") + drawn.get(figure, ""))
        for identifier, title, table, figure in _APPLICATIONS
    )
    known = {table for _, _, table, _ in _APPLICATIONS}
    rest = "".join(article for name, article in articles.items() if name not in known)
    return sections, _section("others", "Other tables", rest) if rest else ""


def _section(identifier: str, title: str, content: str) -> str:
    return f'<section id="{identifier}">\n<h2>{text(title)}</h2>\n{content}</section>\n'


def _navigation(contents: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li><a href="#{name}">{text(title)}</a></li>' for name, title in contents)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>\n'


def _made(origin: Origin) -> str:
    if origin.date is None:
        return "Made by <code>make paper</code> outside of a git checkout."
    return (
        f"Made by <code>make paper</code> from commit <code>{text(origin.version)}</code> of "
        f"{text(origin.date)}."
    )
