"""The paper from our records: ``python scripts/paper.py all`` writes tables, figures and the page.

Exit status 1: a record, a picture or a table's files cannot be trusted. A figure whose data are
simply not there is left out, and what would make it is said.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from psc.errors import DataError, PSCError

if TYPE_CHECKING:
    from psc.paper.figures import MadeFigure
    from psc.paper.table import Table

OUTPUT = Path("build/paper")


def tables(arguments: argparse.Namespace) -> None:
    """Print the tables as Markdown, write them as Markdown, CSV and LaTeX."""
    _tables(arguments, arguments.names, show=True)


def figures(arguments: argparse.Namespace) -> None:
    """Draw the figures as PDF and PNG."""
    _complain(_figures(arguments, arguments.names))


def page(arguments: argparse.Namespace) -> None:
    """Draw the figures and put everything on one page of HTML."""
    from psc.paper.table import chosen_tables, tables_of

    names = chosen_tables((), arguments.experiments)
    _page(arguments, [tables_of(arguments.experiments / name) for name in names])


def everything(arguments: argparse.Namespace) -> None:
    """Tables, figures and the page."""
    _page(arguments, _tables(arguments, (), show=False))


def readme(arguments: argparse.Namespace) -> None:
    """Write the README's generated parts and its pictures anew."""
    from psc.paper.readme import FIGURES, insert_between, readme_parts

    for name, content in readme_parts(arguments.experiments).items():
        insert_between(arguments.into, name, content)
    pictures = arguments.into.parent / "docs" / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = _figures(arguments, FIGURES)
    for one in drawn:
        if one.png is not None:
            shutil.copyfile(one.png, pictures / one.png.name)
    _complain(drawn)


def _tables(
    arguments: argparse.Namespace, names: Sequence[str], *, show: bool
) -> list[list["Table"]]:
    from psc.paper.table import chosen_tables, tables_of, write_tables

    made = []
    for name in chosen_tables(names, arguments.experiments):
        made.append(tables_of(arguments.experiments / name))
        written = write_tables(made[-1], arguments.output / "tables")
        if show:
            print(written.markdown)
        for path in written.files:
            print(path, file=sys.stderr)
    return made


def _figures(arguments: argparse.Namespace, names: Sequence[str]) -> list["MadeFigure"]:
    from psc.paper.figures import chosen_figures, make_figure

    made = []
    for figure in chosen_figures(names):
        one = make_figure(figure, arguments.experiments, arguments.output / "figures")
        for path in (one.pdf, one.png):
            if path is not None:
                print(path, file=sys.stderr)
        if one.missing is not None:
            print(f"{figure.name} is left out: {one.missing}", file=sys.stderr)
        made.append(one)
    return made


def _page(arguments: argparse.Namespace, made: Sequence[Sequence["Table"]]) -> None:
    from psc.paper.network_summary import paper_accounts
    from psc.paper.page import PAGE, page_html, page_origin

    drawn = _figures(arguments, ())
    content = page_html(
        made,
        drawn,
        paper_accounts(),
        page_origin(),
        folder=arguments.experiments,
        page_folder=arguments.output,
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    partial = arguments.output / f".{PAGE}.{os.getpid()}.tmp"
    partial.write_text(content, encoding="utf-8")
    print(partial.replace(arguments.output / PAGE), file=sys.stderr)
    _complain(drawn)


def _complain(made: Sequence["MadeFigure"]) -> None:
    """After all that could be drawn."""
    wrong = [f"{one.figure.name}: {one.error}" for one in made if one.error is not None]
    if wrong:
        raise DataError("\n".join(wrong))


def parser() -> argparse.ArgumentParser:
    """A subcommand for each part of the paper."""
    from psc.paper.experiments import EXPERIMENTS

    top = argparse.ArgumentParser(description=__doc__)
    parts = top.add_subparsers(required=True, metavar="PART")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="where they lie")
    common.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to")
    for name, function, words, example in (
        ("tables", tables, "the paper's numbers beside ours", "table-6d"),
        ("figures", figures, "the figures as PDF and PNG", "figure-6"),
        ("page", page, "everything on one page of HTML", None),
        ("all", everything, "tables, figures and page", None),
    ):
        part = parts.add_parser(name, parents=[common], help=words)
        if example is not None:
            part.add_argument(
                "names", nargs="*", metavar="NAME", help=f"such as {example}; default: all"
            )
        part.set_defaults(main=function)
    part = parts.add_parser("readme", parents=[common], help="the generated parts of README.md")
    part.add_argument("--into", type=Path, default=Path("README.md"), help="the file to change")
    part.set_defaults(main=readme)
    return top


def main() -> None:
    """Make a part of the paper from the command line."""
    arguments = parser().parse_args()
    try:
        arguments.main(arguments)
    except PSCError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
