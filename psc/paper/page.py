"""The paper on one page of HTML, build/paper/index.html, and the README's generated parts.

Text and markup are in ``page.html``, a jinja2 template that escapes whatever it is given, looks in
``page.css``: light and dark, wide and narrow, on screen and on paper. Here is what it shows.
"""

import base64
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from psc.files import PROJECT
from psc.paper import evidence
from psc.paper.account import NOTE, Accounts, compare, network_cost, shown_input, verdicts
from psc.paper.experiments import REDUCED, SYNTHETIC, table_names
from psc.paper.figures import MadeFigure
from psc.paper.groups import hardware_of
from psc.paper.published import SIZES, UNKNOWN
from psc.paper.table import (
    COSTS,
    NOT_RUN,
    NOTHING,
    WARNINGS,
    Table,
    claims,
    differences,
    results,
    tables_of,
)
from psc.paper.text import billions, block_label, markdown_table, percent, render_html
from psc.training.provenance import code_version, git_state
from psc.training.records import FILE_NAME, REAL, SAMPLE, Record, read_record
from psc.training.records import SYNTHETIC as SYNTHETIC_DATA

PAGE = "index.html"

Experiments = Sequence[Sequence[Table]]
"""The tables of each experiment, the paper's protocol first."""

_APPLICATIONS = (
    ("video", "Video", "table-4b", "figure-4a"),
    ("mri", "Brain MRI", "table-5d", "figure-5"),
    ("em", "Electron microscopy", "table-6d", "figure-6"),
)
"""Identifier, heading, experiment and figure of each application."""

_BADGES = dict.fromkeys((SAMPLE, REDUCED), "real sample · reduced protocol")
_BADGES |= dict.fromkeys((SYNTHETIC_DATA, SYNTHETIC), "synthetic")

_NETWORKS = {
    "resnet34": ("ResNet-34, video", "ResNet-34"),
    "densenet_bui": ("DenseNet as Bui et al. released it", "Bui et al.'s"),
    "densenet": ("DenseNet, brain MRI", "DenseNet"),
    "unet": ("U-Net, electron microscopy", "U-Net"),
}
"""Backbone → heading, name in a sentence."""

_FAINT = (NOTHING, NOT_RUN, UNKNOWN, "")
_NUMBER = re.compile(r"[+−-]?[\d,.]+( ± [\d,.]+)?( [%MG])?")
_LONG = 36  # characters from which on a cell is broken into lines

Cell = str | Markup
"""Of a table; markup only where it is a link or a badge."""


Origin = tuple[str, str] | None
"""The commit that a page comes from, "-dirty" with uncommitted changes, and its day: so a commit's
page is the same on any day. None: outside of git."""


def page_origin(folder: Path = PROJECT) -> Origin:
    """Of the checkout."""
    state = git_state(folder)
    if state["commit"] is None:
        return None
    shown = subprocess.run(
        ["git", "-C", str(folder), "show", "--no-patch", "--format=%cs", state["commit"]],
        check=True,
        capture_output=True,
        text=True,
    )
    return code_version(state), shown.stdout.strip()


def page_html(
    experiments: Experiments,
    figures: Sequence[MadeFigure],
    accounts: Accounts,
    origin: Origin,
    *,
    folder: Path,
    page_folder: Path,
    plots: Mapping[tuple[str, str], Sequence[Path]] | None = None,
) -> str:
    """The page of tables, of figures that have been drawn or could not be, and of sizes.

    Its links lead from ``page_folder``, where it is going to be, into ``folder``, experiments/;
    ``plots``: what is drawn of a table's runs, by experiment and protocol.
    """

    def link(target: Path) -> str:
        return quote(Path(os.path.relpath(target, page_folder)).as_posix())

    def paragraphs(name: str) -> Iterator[tuple[str, Markup]]:
        """What a folder's README says of the paper and of deviations from it."""
        claimed = "In the paper:" if name.startswith("figure") else "What the paper claims"
        shown = ("What the paper shows", "What the paper claims")
        for title, beginnings in ((claimed, shown), ("Deviations:", ("Deviations",))):
            words = paragraph_of(folder / name / "README.md", *beginnings)
            if words is not None:
                yield title, inline(words, f"{link(folder / name)}/")

    by_name = {tables[0].experiment.name: tables for tables in experiments}
    known = {experiment for *_, experiment, _ in _APPLICATIONS}
    synthetic = [t for tables in experiments for t in tables if t.protocol.kind == SYNTHETIC]
    contents = [("status", "Status"), ("block", "The block"), ("parameters", "Parameters")]
    contents += [(identifier, title) for identifier, title, *_ in _APPLICATIONS]
    contents += [("synthetic", "Synthetic data")] if synthetic else []
    stated = [line for tables in experiments for line in claims(tables[0])[1:]]
    words = ("what the paper says in words", "paper", "ours", "place")
    relations = [("the paper compares", "here", "place")]
    for relation, verdict in verdicts(accounts):
        sizes = _readable(f"{' '.join(relation.network)}: {relation}")
        relations.append((sizes, verdict, relation.source))
    return render_html(
        Path(__file__).with_suffix(".html"),
        applications=_APPLICATIONS,
        badges=_BADGES,
        base64=lambda path: base64.b64encode(path.read_bytes()).decode(),
        by_name=by_name,
        cell_class=_cell_class,
        code_version=code_version,
        claims=_shown([words, *stated], "Comparisons that the paper states, and ours"),
        contents=[*contents, ("records", "Records")],
        drawn={made.figure.name: made for made in figures},
        figure_name=_figure_name,
        folder=folder,
        inline=inline,
        link=link,
        differences=lambda shown: _shown(differences(shown), f"Differences, {shown.heading}"),
        doubt=evidence.NOTE,
        note=NOTE,
        origin=origin,
        others=[tables for name, tables in by_name.items() if name not in known],
        paragraphs=paragraphs,
        plots=plots or {},
        parameters=[(name, _shown(g, f"Sizes of {name}")) for name, g in _sizes(accounts)],
        records=list(_records(experiments, folder)),
        relations=_shown(relations, "Comparisons of sizes"),
        results=_results,
        status=_status(experiments, figures, accounts),
        synthetic=synthetic,
        verdict=_verdict(experiments),
        warnings=WARNINGS,
    )


def inline(words: str, links: str = "") -> Markup:
    """Markup of a sentence: emphasis, code, links from the folder ``links``, P_mSC_n; no other."""
    code = Markup("<code>{}</code>")
    parts = re.split(r"(`[^`]+`)", " ".join(words.split()))
    shown = (code.format(p[1:-1]) if p.startswith("`") else _marked(p, links) for p in parts)
    return Markup("").join(shown)


def _marked(words: str, links: str) -> Markup:
    text = str(escape(words))
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)

    def link(found: re.Match[str]) -> str:
        target = found[2] if found[2].startswith("#") else f"{links}{found[2]}"
        return f'<a href="{target}">{found[1]}</a>'

    text = re.sub(r"\[([^\]]+)\]\(([^):]+)\)", link, text)
    return Markup(re.sub(r"\bP_?(\d|m)SC_?(\d|n)\b", r"P<sub>\1</sub>SC<sub>\2</sub>", text))


def paragraph_of(readme: Path, *beginnings: str) -> str | None:
    """The paragraph of a README that begins with **one of these words**, without them."""
    if not readme.is_file():
        return None
    for paragraph in readme.read_text(encoding="utf-8").split("\n\n"):
        for beginning in beginnings:
            if paragraph.startswith(f"**{beginning}**"):
                return paragraph.removeprefix(f"**{beginning}**").lstrip(": ")
    return None


def _shown(
    grid: Sequence[Sequence[Cell]],
    label: str,
    *,
    separate: int | None = None,
    stacked: bool = False,
) -> dict[str, Any]:
    """What the template's ``table`` takes.

    Columns "x, paper" and "x, ours" that lie side by side share the heading x. Columns of numbers
    are aligned at the right. The ``label`` is for screen readers; there is a rule before the line
    ``separate``, from 1; ``stacked`` tables, of sentences, lie cell below cell on narrow screens.
    """
    names, lines = [str(cell) for cell in grid[0]], list(grid[1:])
    header: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        shared = name.removesuffix(", paper")
        pair = shared if names[i + 1 : i + 2] == [f"{shared}, ours"] and shared != name else ""
        texts = [_plain(line[i]) for line in lines]
        numeric = bool(texts) and all(t in _FAINT or _NUMBER.fullmatch(t) for t in texts)
        second = bool(i and header[i - 1]["pair"])
        header.append({"text": name, "pair": pair, "second": second, "numeric": numeric})
    table = {"label": label, "header": header, "lines": lines}
    pairs = any(heading["pair"] for heading in header)
    return table | {"pairs": pairs, "separate": separate, "stacked": stacked}


def _plain(cell: Cell) -> str:
    return cell.striptags() if isinstance(cell, Markup) else cell


def _cell_class(cell: Cell, numeric: bool) -> str:
    kind = "number" if numeric else "long" if len(_plain(cell)) > _LONG else ""
    return f"{kind} none".strip() if cell in _FAINT else kind


# The beginning: what has been reproduced so far.


def _status(
    experiments: Experiments, figures: Sequence[MadeFigure], accounts: Accounts
) -> dict[str, Any]:
    """A line for each part of the paper."""
    grid: list[tuple[Cell, ...]] = [("part of the paper", "at the paper's protocol", "otherwise")]

    def add(name: str, title: str, state: str, words: str, otherwise: str) -> None:
        part = Markup('<a href="#{}">{}</a>').format(name, title)
        pill = Markup('<span class="pill {}">{}</span> {}')
        grid.append((part, pill.format(state.replace(" ", "-"), state, words), otherwise))

    for tables in experiments:
        first, *others = tables
        otherwise = states_at(others)
        add(first.experiment.name, first.experiment.title, *state_of(first), otherwise)
    for made in figures:
        if made.figure.results:
            title = f"{_figure_name(made)}: {made.figure.title}"
            add(made.figure.name, title, *_figure_state(made))
    published = [n for n, size in SIZES.items() if n in accounts and not size.calibrated]
    met = sum(compare(n, accounts[n].parameters).verdict == "match" for n in published)
    relations = [verdict.startswith(("match", "agrees")) for _, verdict in verdicts(accounts)]
    words = (
        f"{met} of {len(published)} published numbers met exactly, as far as they are printed; "
        f"{sum(relations)} of {len(relations)} comparisons agree"
    )
    add("parameters", "Sizes of the networks", "counted", words, NOTHING)
    return _shown(grid, "What has been reproduced", stacked=True)


def state_of(paper: Table) -> tuple[str, str]:
    """Of a table at the paper's protocol: run, partly run or not run, and in numbers."""
    ours = [line for line in paper.lines if line.planned is not None]
    rows = {line.row.name: line.planned for line in ours}
    planned = sum(len(row.runs) for row in rows.values() if row is not None)
    there = len({line.row.name for line in ours if line.runs})
    runs = sum(len(line.runs) for line in ours)
    words = f"{there} of {len(rows)} rows, {runs} of {planned} runs"
    if not runs:
        return NOT_RUN, words
    return ("run" if runs >= planned else "partly run"), words


def states_at(others: Sequence[Table]) -> str:
    """How much has been run at protocols that are not the paper's."""
    kind = {REDUCED: "real sample, reduced protocol", SYNTHETIC: "synthetic"}
    parts, missing = [], []
    for table in others:
        name, runs = f"“{table.protocol.name}”", sum(len(line.runs) for line in table.lines)
        if runs:
            parts.append(f"{kind[table.protocol.kind]} {name}: {runs} run{'s'[: runs != 1]}")
        else:
            missing.append(name)
    parts += [f"{NOT_RUN}: {', '.join(missing)}"] if missing else []
    return "; ".join(parts) or NOTHING


def _figure_state(made: MadeFigure) -> tuple[str, str, str]:
    if made.source is None:
        return "not drawn", "damaged" if made.error else "nothing to show", NOTHING
    if made.source.kind == REAL:
        return "shown", made.source.data, NOTHING
    kinds = {
        SAMPLE: "drawn from a real sample at a reduced protocol",
        SYNTHETIC_DATA: "drawn from synthetic data, which shows nothing of the claim",
    }
    return NOT_RUN, "", kinds[made.source.kind]


def _figure_name(made: MadeFigure) -> str:
    return made.figure.name.replace("figure-", "Figure ")


def _verdict(experiments: Experiments) -> str:
    """All of it in a few sentences."""
    states = [state_of(tables[0])[0] for tables in experiments]
    sentence = f"None of the paper's {len(states)} tables has been run at its protocol. "
    if set(states) - {NOT_RUN}:
        counted = [f"{states.count(s)} {s}" for s in ("run", "partly run", NOT_RUN) if s in states]
        sentence = f"Of the paper's {len(states)} tables, at its protocol: {', '.join(counted)}. "
    all_tables = (table for tables in experiments for table in tables)
    reduced = [line for t in all_tables if t.protocol.kind == REDUCED for line in t.lines]
    if runs := sum(len(line.runs) for line in reduced):
        sentence += (
            f"There are {runs} runs of real samples at reduced protocols: they compare blocks "
            "with each other and cannot be set beside the paper's numbers. "
        )
    return sentence + "Every number of ours comes from a sealed record or is counted anew."


# Tables, with links to the records of each line, and the list of all records.


def _results(shown: Table) -> dict[str, Any]:
    """The table's cells and a column of links to the records of each line."""
    grid: list[tuple[Cell, ...]] = list(results(shown))
    if any(line.runs for line in shown.lines):
        links: list[Cell] = ["records"]
        for line in shown.lines:
            names = [run.record.run.rpartition("-")[2] for run in line.runs]
            folders = [run.path.parent for run in line.runs]
            places = [f.relative_to(shown.experiment.folder.parent).as_posix() for f in folders]
            found = map(Markup('<a href="#{}">{}</a>').format, places, names)
            links.append(Markup(" ").join(found))
        links += [""] * len(shown.floors)
        grid = [(*row, end) for row, end in zip(grid, links, strict=True)]
    separate = len(shown.lines) + 1 if shown.floors else None
    return _shown(grid, shown.heading, separate=separate)


def _records(
    experiments: Experiments, folder: Path
) -> Iterator[tuple[str, list[tuple[Path, Record, str]]]]:
    """Every record's file, content and row, by experiment and protocol; those elsewhere last."""
    for tables in experiments:
        for shown in tables:
            runs = [(run, line.row.label) for line in shown.lines for run in line.runs]
            if runs:
                title = f"{shown.experiment.title.split(':')[0]}. {shown.heading}"
                yield title, [(run.path, run.record, label) for run, label in runs]
    already = {tables[0].experiment.name for tables in experiments}
    for other in sorted(path for path in folder.iterdir() if path.name not in already):
        found = [(path, read_record(path)) for path in sorted(other.glob(f"*/*/{FILE_NAME}"))]
        readme = other / "README.md"
        first = readme.read_text(encoding="utf-8").partition("\n")[0] if readme.is_file() else ""
        if found:
            blocks = ((path, r, block_label(r.config["block"]["name"])) for path, r in found)
            yield first.removeprefix("# ") or other.name, list(blocks)


# Sizes of the networks, beside what was published.


def _sizes(accounts: Accounts) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """A grid for each backbone."""
    for backbone in dict.fromkeys(name for name, _ in accounts):
        full = accounts.get((backbone, "3d"))
        header = "block;input;parameters;against 3D;MACs;MACs against 3D;published;verdict"
        grid: list[tuple[str, ...]] = [tuple(header.split(";"))]
        for network, found in accounts.items():
            if network[0] != backbone:
                continue
            changes = [NOTHING, NOTHING]
            if full is not None and network[1] != "3d":
                counts = ("parameters", "multiply_adds")
                ratios = [getattr(found, count) / getattr(full, count) for count in counts]
                changes = [percent(100 * (ratio - 1)) for ratio in ratios]
            comparison = compare(network, found.parameters)
            sizes = (f"{found.parameters:,}", changes[0], billions(found.multiply_adds), changes[1])
            published = _readable(comparison.published or NOTHING), comparison.verdict
            grid.append((block_label(network[1]), shown_input(found), *sizes, *published))
        yield _NETWORKS.get(backbone, (backbone, backbone))[0], grid


def _readable(words: str) -> str:
    """Names of configuration files as the paper writes them: densenet p2sc3 as DenseNet P₂SC₃."""
    words = re.sub(r"\b(p\dsc\d|3d)\b", lambda found: block_label(found[0]), words)
    for backbone, (_, name) in _NETWORKS.items():
        words = re.sub(rf"\b{backbone}\b", name, words)
    return words


# The README's generated parts.

README_FIGURES = ("figure-1", "figure-4a", "figure-5", "figure-6")
"""Those that it, or the page of results, shows."""

README_PLACES = {
    "STATUS": "README.md",
    "RESULTS": "docs/results.md",
    "RATES": "docs/results.md",
    "COSTS": "docs/reproduce.md",
}
"""Part → the file that holds it, beside the README."""


def readme_parts(root: Path) -> Mapping[str, str]:
    """Markdown by the name of its markers, from the records in ``root``, experiments/."""
    experiments = [tables_of(root / name) for name in table_names(root)]
    return {
        "STATUS": _status_markdown(experiments),
        "RESULTS": _results_markdown(experiments),
        "RATES": _rates_markdown(experiments),
        "COSTS": _costs_markdown(experiments),
    }


def _status_markdown(experiments: Experiments) -> str:
    grid = [("table", "at the paper's protocol", "otherwise")]
    for paper, *others in experiments:
        state, words = state_of(paper)
        link = f"[{paper.experiment.title}](experiments/{paper.experiment.name}/README.md)"
        grid.append((link, f"{state}: {words}", states_at(others)))
    return markdown_table(grid)


def _results_markdown(experiments: Experiments) -> str:
    parts = []
    for table in (table for tables in experiments for table in tables):
        if table.protocol.kind == REDUCED and any(line.runs for line in table.lines):
            title = f"**{table.experiment.title}.** {table.heading}."
            hardware = {line.origin["hardware"] for line in table.lines} - {""}
            notes = f"{table.spread}. Trained on: {'; '.join(sorted(hardware))}."
            parts += [title, markdown_table(results(table)), notes]
            apart = differences(table)
            if any(len(line.runs) >= evidence.RUNS for line in table.lines) and len(apart) > 1:
                parts += [markdown_table(apart), evidence.NOTE]
    if not parts:
        return "Nothing has been run yet."
    return "\n\n".join([WARNINGS[REDUCED], COSTS, *parts])


def _rates_markdown(experiments: Experiments) -> str:
    parts = []
    for experiment in (tables[0].experiment for tables in experiments):
        if (tuning := experiment.folder / "tuning").is_dir():
            rates = evidence.learning_rates(tuning)
            parts += [f"**{experiment.title}**", markdown_table(rates)]
    return "\n\n".join(parts) or "None was tuned yet."


def _costs_markdown(experiments: Experiments) -> str:
    """What one run of every row of every table takes, and how to read it."""
    grid = [("table", "row", "iterations × batch", "PFLOP", "measured rate", "extrapolated")]
    on_gpu = False
    for tables in experiments:
        experiment = tables[0].experiment
        runs = [run for table in tables for line in table.lines for run in line.runs]
        for planned in experiment.protocols[0].rows:
            recipe = planned.config.recipe
            samples = recipe.iterations * recipe.batch_size
            flops = network_cost(planned.config).training_flops(samples)
            assert flops is not None  # of a network that this code builds
            found: dict[str, list[float]] = {}
            for run in runs:
                achieved = run.record.throughput.get("achieved_gflop_per_second")
                if achieved is not None and run.planned.row.name == planned.row.name:
                    found.setdefault(hardware_of(run.record), []).append(achieved)
                    on_gpu |= run.record.hardware.get("accelerator") != "cpu"
            rates = {device: mean(measured) for device, measured in found.items()}
            hours = [flops / (rate * 1e9) / 3600 for rate in rates.values()]
            measured = [f"{rate:.0f} GFLOP/s, {device}" for device, rate in rates.items()]
            taken = [f"{h:.1f} hours" if h < 48 else f"{h / 24:,.0f} days" for h in hours]
            samples_of = f"{recipe.iterations:,} × {recipe.batch_size}"
            row = experiment.name, planned.row.label, samples_of, f"{flops / 1e15:,.0f}"
            grid.append(
                (*row, "; ".join(measured) or "not measured", "; ".join(taken) or "unknown")
            )
    note = (
        "Of one run at the paper's protocol, training only. PFLOP (10¹⁵ operations) are counted:"
        " three forward passes for each training sample. The rate is that of records of the same"
        " row at smaller protocols, the time the one divided by the other."
        f"{'' if on_gpu else ' No GPU has been measured.'}"
    )
    return f"{markdown_table(grid)}\n\n{note}"
