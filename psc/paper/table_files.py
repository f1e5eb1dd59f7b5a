"""Tables of the paper as files: build/paper/tables/<experiment>.{md,csv,tex}."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psc.errors import ConfigError
from psc.paper.experiments import EXPERIMENTS, read_experiment, table_names
from psc.paper.formats import to_csv, to_latex, to_markdown
from psc.paper.records import read_records
from psc.paper.table import Table, make_tables


@dataclass(frozen=True)
class WrittenTables:
    """What was written of an experiment.

    Attributes:
        markdown: its tables, as in the .md file.
        files: all that were written.
    """

    markdown: str
    files: tuple[Path, ...]


def chosen_tables(names: Sequence[str], root: Path = EXPERIMENTS) -> list[str]:
    """The tables that a user names, all if none.

    Raises:
        ConfigError: for one that does not exist.
    """
    known = table_names(root)
    for name in names:
        if name not in known:
            raise ConfigError(f"{name}: there is no such table in {root}, only {', '.join(known)}")
    return list(names) or known


def tables_of(folder: Path) -> list[Table]:
    """An experiment's tables from its folder.

    Raises:
        DataError: as ``read_experiment``, ``read_records`` and ``make_tables``.
    """
    experiment = read_experiment(folder)
    return make_tables(experiment, read_records(experiment))


def write_tables(tables: Sequence[Table], folder: Path) -> WrittenTables:
    """Write an experiment's tables: one Markdown file, and CSV and LaTeX of each.

    Args:
        tables: of one experiment, the paper's first: its files have the experiment's name, those of
            other protocols ``<experiment>-<protocol>``, and older ones of these names are deleted.
        folder: where to; made if it is not there.
    """
    name = tables[0].experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    markdown = to_markdown(tables)
    contents = {f"{name}.md": markdown}
    for table in tables:
        own = name if table.is_paper else f"{name}-{table.protocol.name}"
        contents[f"{own}.csv"] = to_csv(table)
        contents[f"{own}.tex"] = to_latex(table)
    for old in (*folder.glob(f"{name}-*.csv"), *folder.glob(f"{name}-*.tex")):
        if old.name not in contents:
            old.unlink()
    files = []
    for file_name, content in contents.items():
        partial = folder / f".{file_name}.tmp"
        partial.write_text(content, encoding="utf-8")
        files.append(partial.replace(folder / file_name))
    return WrittenTables(markdown, tuple(files))
