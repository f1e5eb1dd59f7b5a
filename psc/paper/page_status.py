"""The beginning of the page: what the paper claims, and what has been reproduced so far."""

from collections.abc import Sequence

from psc.paper.experiments import PAPER, REDUCED, SYNTHETIC
from psc.paper.figures import MadeFigure
from psc.paper.formats import KINDS, NOT_RUN, NOTHING, claims
from psc.paper.page_html import inline, table, text
from psc.paper.page_parameters import Agreement
from psc.paper.table import Table

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
