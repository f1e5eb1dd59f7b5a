"""What a benchmark leaves behind: tables to read, and files that say where it was run."""

import contextlib
import csv
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["Report", "environment", "markdown_table", "write_csv", "write_json", "write_markdown"]

Row = dict[str, Any]
_LIBRARIES = (
    *("torch", "torchvision", "monai", "tensorly", "tensorly-torch"),
    *("numpy", "numba", "scipy", "scikit-image"),
)


@dataclass(frozen=True)
class Report:
    """Result of one benchmark.

    Attributes:
        benchmark: name of the subcommand.
        settings: what it was asked for.
        tables: measurements by table; every row maps a column to a number, a text or None.
    """

    benchmark: str
    settings: Mapping[str, Any]
    tables: Mapping[str, Sequence[Row]]

    def as_dict(self) -> dict[str, Any]:
        """The report with date, machine and versions, ready for JSON."""
        return {
            "benchmark": self.benchmark,
            "settings": dict(self.settings),
            "environment": environment(),
            "tables": {name: list(rows) for name, rows in self.tables.items()},
        }

    def as_markdown(self) -> str:
        """The tables, each under its name."""
        return "\n\n".join(
            f"### {self.benchmark}: {name}\n\n{markdown_table(rows)}"
            for name, rows in self.tables.items()
        )


def environment() -> dict[str, Any]:
    """Date, machine and versions of this run."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Of the libraries that are installed: MONAI and TensorLy need not be."""
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def markdown_table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table; the columns are those of the first row."""
    if not rows:
        return "(nothing was measured)"
    columns = list(rows[0])
    lines = [[column.replace("_", " ") for column in columns], ["---"] * len(columns)]
    lines += [[_text(row[column]) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json(report: Report, path: Path) -> None:
    """Write the report; the file appears complete or not at all."""
    _write(path, json.dumps(report.as_dict(), indent=2) + "\n")


def write_csv(report: Report, path: Path) -> None:
    """Write all tables into one file, as complete or not at all as the others.

    The columns are those of all tables, in order, and empty where a table does not have them;
    before them come the table's name and the processor or GPU.
    """
    columns = ["table", "hardware"]
    for rows in report.tables.values():
        columns += [column for column in (rows[0] if rows else ()) if column not in columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for name, rows in report.tables.items():
        writer.writerows({"table": name, "hardware": _hardware(report), **row} for row in rows)
    _write(path, text.getvalue())


def write_markdown(report: Report, path: Path) -> None:
    """Write the tables under one line about settings and machine."""
    found = environment()
    settings = ", ".join(f"{key} {_text(value)}" for key, value in report.settings.items())
    machine = f"{_hardware(report)}, {found['threads']} threads, torch {found['versions']['torch']}"
    _write(path, f"{machine}, {found['date']}; {settings}\n\n{report.as_markdown()}\n")


def _hardware(report: Report) -> str:
    found = environment()
    return str(found["gpu"] if report.settings.get("device") == "cuda" else found["cpu"])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/")


def _cpu_name() -> str:
    """The processor's own name; only Linux tells it in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
