"""The paper on one page of HTML: build/paper/index.html, which holds all that it shows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from psc.paper.figures import MadeFigure
from psc.paper.page_css import STYLE
from psc.paper.page_figures import figure_element
from psc.paper.page_html import document, inline, text
from psc.paper.page_origin import Origin
from psc.paper.page_parameters import Accounts, agreement, parameters_section
from psc.paper.page_records import records_section
from psc.paper.page_status import status_section
from psc.paper.page_tables import experiment_article, synthetic_section
from psc.paper.table import Table

__all__ = ["PAGE", "page_html"]

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
