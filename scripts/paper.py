"""The paper from our records: ``python scripts/paper.py all`` writes tables, figures and the page.

    python scripts/paper.py run table-6d                    what it lacks, by the paper's protocol
    python scripts/paper.py run table-6d --protocol quick
    python scripts/paper.py run table-6d hydra/launcher=slurm hydra.launcher.partition=gpu
    python scripts/paper.py collect table-6d runs           records of another machine's runs
    python scripts/paper.py picture RUN_FOLDER RUN_FOLDER   the slice of Figure 5 or 6
    python scripts/paper.py tables|figures|page|all|readme

Exit status 1: a record, a picture or a table's files cannot be trusted. A figure whose data are
simply not there is left out, and what would make it is said.
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psc.errors import DataError, told_in_a_line
from psc.files import write_text
from psc.paper.experiments import (
    EXPERIMENTS,
    SYNTHETIC,
    chosen_tables,
    collect,
    launch,
    launches,
    read_experiment,
)
from psc.paper.table import Table, tables_of, to_markdown, write_tables
from psc.training.records import FILE_NAME

if TYPE_CHECKING:  # drawing is imported where it is done: it takes seconds
    from psc.paper.figures import MadeFigure


def run(arguments: argparse.Namespace) -> None:
    """Run what tables lack and collect their records.

    Runs that are recorded in experiments/ or finished in the output folder are not run again, those
    that were interrupted are continued. Further arguments are Hydra overrides for every run; those
    of a seed or a setting that the table does not have are kept apart from its records.
    """
    words = [*arguments.tables, *arguments.rows, *arguments.rest]  # --rows takes what follows it
    tables = [name for name in arguments.tables if "=" not in name]
    rows = [name for name in arguments.rows if "=" not in name]
    seeds = [word for word in words if word.startswith("seed=")]
    overrides = [word for word in words if "=" in word and word not in seeds]
    overrides += [word for word in arguments.rest if "=" not in word]
    if not tables:
        arguments.error("name a table, such as table-6d")
    if (listed := [*seeds, *([] if arguments.seeds is None else [arguments.seeds])])[1:]:
        arguments.error(f"seeds are given twice: {' '.join(listed)}")
    numbers = listed[0].removeprefix("seed=").split(",") if listed else []
    if not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        arguments.error(f"{listed[0]}: give different whole numbers, such as --seeds 7,8")
    if arguments.at_once < 1:
        arguments.error(f"--at-once {arguments.at_once}: at least 1")
    if options := [word for word in overrides if "=" not in word or word.startswith("-")]:
        arguments.error(f"neither options nor overrides (key=value): {' '.join(options)}")
    planned = []
    for name in chosen_tables(tables, arguments.experiments):  # all are read before any is run
        experiment = read_experiment(arguments.experiments / name)
        protocol = experiment.protocol(arguments.protocol)
        output = arguments.output / f"{name}-{protocol.name}"
        choice = {"rows": rows, "overrides": overrides, "again": arguments.again}
        choice["seeds"] = [*map(int, numbers)]
        planned.append(
            (experiment, protocol, output, *launches(experiment, protocol, output, **choice))
        )
    for experiment, protocol, output, pending, records in planned:
        if not pending:
            what = f"{records} record{'s have' if records > 1 else ' has'} it all"
            where = f"{experiment.name}, protocol {protocol.name}"
            print(f"{where}: nothing to run: {what}; --again runs it anew", file=sys.stderr)
        if arguments.dry_run or not pending:
            print(*(one.command for one in pending), sep="\n", end="\n" if pending else "")
            continue
        try:
            launch(pending, arguments.at_once)
        finally:  # what has finished is recorded whether or not another row failed
            result = protocol.kind != SYNTHETIC and not arguments.again
            if result and any(output.glob(f"*/{FILE_NAME}")):
                print(*collect(experiment, output), sep="\n")
            for folder in {one.output for one in pending if not one.of_table}:
                print(
                    f"{folder}: of no row of {experiment.name}; python scripts/compare.py {folder}"
                )


def collect_records(arguments: argparse.Namespace) -> None:
    """Copy result.json and metrics.csv of every finished run of a folder into a table's records."""
    (name,) = chosen_tables([arguments.table], arguments.experiments)
    print(*collect(read_experiment(arguments.experiments / name), arguments.runs), sep="\n")


def picture(arguments: argparse.Namespace) -> None:
    """Pick the slice that Figure 5 or 6 shows, and write it beside the figure's README.

    Of two finished runs of one test, the 3D network's first. ``--draw`` keeps nothing for the
    repository, which is all that is allowed with IBSR.
    """
    from psc.paper.panels import draw_runs, keep_picture

    if arguments.draw is not None:
        print(*draw_runs(arguments.runs, arguments.draw), sep="\n")
        return
    place, overwrite = arguments.experiments, arguments.overwrite
    print(*keep_picture(arguments.runs, place, overwrite=overwrite), sep="\n")


def tables(arguments: argparse.Namespace) -> None:
    """Print the tables as Markdown, write them as Markdown, CSV and LaTeX."""
    for made in _tables(arguments, arguments.names):
        print(to_markdown(made))


def figures(arguments: argparse.Namespace) -> None:
    """Draw the figures as PDF and PNG."""
    _complain(_figures(arguments, arguments.names))


def page(arguments: argparse.Namespace) -> None:
    """Draw the figures and put everything on one page of HTML."""
    names = chosen_tables((), arguments.experiments)
    _page(arguments, [tables_of(arguments.experiments / name) for name in names])


def everything(arguments: argparse.Namespace) -> None:
    """Tables, figures and the page."""
    _page(arguments, _tables(arguments, ()))


def readme(arguments: argparse.Namespace) -> None:
    """Write the generated parts and pictures of the README and of pages beside it anew."""
    from psc.paper.page import README_FIGURES, README_PLACES, readme_parts
    from psc.paper.text import insert_between

    for name, content in readme_parts(arguments.experiments).items():
        insert_between(arguments.into.parent / README_PLACES[name], name, content)
    pictures = arguments.into.parent / "docs" / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = _figures(arguments, README_FIGURES)
    for one in drawn:
        if one.png is not None:
            shutil.copyfile(one.png, pictures / one.png.name)
    _complain(drawn)


def _tables(arguments: argparse.Namespace, names: Sequence[str]) -> list[list[Table]]:
    made = []
    for name in chosen_tables(names, arguments.experiments):
        made.append(tables_of(arguments.experiments / name))
        print(*write_tables(made[-1], arguments.output / "tables"), sep="\n", file=sys.stderr)
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


def _page(arguments: argparse.Namespace, made: Sequence[Sequence[Table]]) -> None:
    from psc.paper.account import paper_accounts
    from psc.paper.compare import draw_table
    from psc.paper.page import PAGE, page_html, page_origin

    drawn = _figures(arguments, ())
    plots = {
        (table.experiment.name, table.protocol.name): draw_table(table, arguments.output / "plots")
        for tables in made
        for table in tables
    }
    print(*(path for paths in plots.values() for path in paths), sep="\n", file=sys.stderr)
    places = {"folder": arguments.experiments, "page_folder": arguments.output, "plots": plots}
    content = page_html(made, drawn, paper_accounts(), page_origin(), **places)
    print(write_text(content, arguments.output / PAGE), file=sys.stderr)
    _complain(drawn)


def _complain(made: Sequence["MadeFigure"]) -> None:
    """After all that could be drawn."""
    wrong = [f"{one.figure.name}: {one.error}" for one in made if one.error is not None]
    if wrong:
        raise DataError("\n".join(wrong))


def parser() -> argparse.ArgumentParser:
    """A subcommand for each part of the paper."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = top.add_subparsers(required=True, metavar="PART")

    def part(name: str, main: Callable[[argparse.Namespace], None], words: str) -> Any:
        made = parts.add_parser(name, help=words)
        made.set_defaults(main=main, error=made.error)
        made.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="where they lie")
        return made.add_argument

    add = part("run", run, "what a table lacks, and collect it")
    add("tables", nargs="+", metavar="TABLE", help="such as table-6d")
    add("--protocol", default="paper", help="of its runs.yaml; default: paper")
    add("--rows", nargs="+", default=(), help="of its runs.yaml; default: all")
    add("--seeds", metavar="7,8", help="in place of its runs.yaml's; also seed=7,8")
    add("--output", type=Path, default=Path("runs"), help="folder for the runs")
    again = "also what is recorded; nothing is collected then"
    add("--again", action="store_true", help=again)
    at_once = "rows at a time, each on its share of the cores; default: 1"
    add("--at-once", type=int, default=1, metavar="N", help=at_once)
    add("--dry-run", action="store_true", help="only print the commands")

    add = part("collect", collect_records, "records of another machine's runs")
    add("table", help="such as table-6d")
    add("runs", type=Path, help="a folder of run folders, such as runs")

    add = part("picture", picture, "the slice of Figure 5 or 6")
    add("runs", type=Path, nargs="+", help="run folders, the 3D network's first")
    add("--overwrite", action="store_true", help="replace the figure's picture")
    add("--draw", type=Path, metavar="FOLDER", help="only draw, into this folder")

    for name, function, words, example in (
        ("tables", tables, "the paper's numbers beside ours", "table-6d"),
        ("figures", figures, "the figures as PDF and PNG", "figure-6"),
        ("page", page, "everything on one page of HTML", None),
        ("all", everything, "tables, figures and page", None),
        ("readme", readme, "generated parts of README.md and docs/", None),
    ):
        add = part(name, function, words)
        add("--output", type=Path, default=Path("build/paper"), help="folder to write to")
        if example is not None:
            add("names", nargs="*", metavar="NAME", help=f"such as {example}; default: all")
    add("--into", type=Path, default=Path("README.md"), help="the README, docs/ beside it")
    return top


def main() -> None:
    """Do one part from the command line."""
    arguments, rest = parser().parse_known_args()
    arguments.rest = rest
    if arguments.rest and arguments.main is not run:
        parser().error(f"unrecognized arguments: {' '.join(arguments.rest)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with told_in_a_line("the same command goes on from there"):
        arguments.main(arguments)


if __name__ == "__main__":
    main()
