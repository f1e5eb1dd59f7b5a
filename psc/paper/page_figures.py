"""Figures on the page: a light plate, a caption, where they come from, and what differs."""

from pathlib import Path

from psc.datasets.splits import REAL, SAMPLE, SYNTHETIC
from psc.paper.figures import MadeFigure, Source
from psc.paper.page_html import embedded_png, inline, paragraph_of, relative_link, text

_FROM_README = {
    "In the paper:": ("What the paper shows", "What the paper claims"),
    "Deviations:": ("Deviations",),
}
"""Heading → beginnings of the README's paragraph."""

_BADGES = {SAMPLE: "real sample · reduced protocol", SYNTHETIC: "synthetic"}


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
    for heading, beginnings in _FROM_README.items():
        if (words := paragraph_of(readme, *beginnings)) is not None:
            parts.append(f"<p><strong>{heading}</strong> {inline(words, links)}</p>")
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
    if kind == SYNTHETIC:
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
