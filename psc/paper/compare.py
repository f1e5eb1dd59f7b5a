"""Runs side by side: what ``scripts/compare.py`` writes of folders of runs.

``summary.md`` and ``summary.csv`` have a row per network, mean ± standard deviation over seeds, and
how each differs from 3D over shared seeds; ``tradeoff.png`` shows scores against cost.
``joined.md`` says which bodies of the first test slab not all networks join;
``learning.png`` has the seeds of every network of the first test as bands, against iterations,
operations and time, ``curves.png`` the first run of each, and so do, where there are
segmentations, ``summary.png`` (of the first test slab) and ``thresholds.png``. ``data.png`` has
scores against the amount of training data, where it differs. Runs of several applications have a
table and curves of their own each.
Runs of different data, settings, iterations or code are different rows, never averaged.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, PercentFormatter, ScalarFormatter

from psc.em.pictures import segmentation_figure
from psc.errors import DataError
from psc.files import write_text
from psc.paper import curves, evidence
from psc.paper.account import Cost, recorded_cost
from psc.paper.groups import (
    Group,
    by_application,
    comparable,
    finished_runs,
    group_names,
    group_records,
    of_one_version,
    refuse_twins,
    step_samples,
)
from psc.paper.measures import AFFINITY, Measures, data_name, moments
from psc.paper.style import DASHED, SMALL_POINTS, look, page_style, plots, save_png
from psc.paper.table import Table
from psc.paper.text import csv_text, markdown_table
from psc.training.provenance import code_version
from psc.training.records import Record
from psc.volumes import output

log = logging.getLogger(__name__)

_SOMETIMES = [
    "learning*.png",
    "data*.png",
    "curves*.png",
    "thresholds.png",
    "summary.png",
    "joined.md",
]
"""What is not written of all runs."""

_LINE = ("axes fraction", "data")
"""Coordinates of a horizontal line's text."""


def compare_runs(
    *folders: Path, commit: str | None = None, all_commits: bool = False, into: Path | None = None
) -> tuple[str, list[Path]]:
    """Compare the runs of folders; returns the tables and all files, as written ``into`` a folder.

    None: into the first.
    """
    found = {path: record for folder in folders for path, record in finished_runs(folder).items()}
    runs = of_one_version(found, commit=commit, all_commits=all_commits)
    into = into or folders[0]
    groups = group_records(list(runs.values()))
    for group in groups:
        refuse_twins(group, {id(record): path for path, record in runs.items()})
    costs = [recorded_cost(group.first) for group in groups]
    text = comparison_text(groups)
    write_text(text, into / "summary.md")
    write_csv(groups, costs, into / "summary.csv")
    rows = [dict(zip(group_names(some), some, strict=True)) for some in comparable(groups)]
    known = dict(zip(groups, costs, strict=True))
    tradeoff_figure(rows, known, into / "tradeoff.png")
    names = ["summary.md", "summary.csv", "tradeoff.png"]
    applications = by_application(groups)
    for measures, some in applications.items():
        pictured = dict(zip(group_names(first := comparable(some)[0]), first, strict=True))
        suffix = "" if len(applications) == 1 else f"-{measures.name}"
        names += _pictures(measures, pictured, runs, known, into, suffix)
    older = {path.name for pattern in _SOMETIMES for path in into.glob(pattern)} - set(names)
    for name in sorted(older):
        log.warning("%s was there before; it is not of these runs", into / name)
    return text, [into / name for name in names]


def comparison_text(groups: Sequence[Group]) -> str:
    """Table, differences and notes of each application; under a heading where there are several."""
    applications = by_application(groups)
    parts = []
    for measures, some in applications.items():
        heading = f"## {measures.title}\n\n" if len(applications) > 1 else ""
        together = comparable(some)
        named = [pair for alike in together for pair in zip(group_names(alike), alike, strict=True)]
        apart = evidence.contrasts(named)
        differences = f"{markdown_table(apart)}\n\n{evidence.NOTE}\n\n" if apart[1:] else ""
        parts.append(f"{heading}{_table(measures, some)}\n\n{differences}{_notes(some)}\n")
    return "\n".join(parts)


def _notes(groups: Sequence[Group]) -> str:
    """What the table's numbers come from, in one line per kind of data."""
    every = [record for group in groups for record in group.records]
    notes = []
    for kind in sorted({record.data["kind"] for record in every}):
        records = [record for record in every if record.data["kind"] == kind]
        devices = sorted({str(record.hardware["device"]) for record in records})
        commits = sorted({code_version(record.git) for record in records})
        treated = sorted({record.data.get("label_treatment", "") for record in records} - {""})
        notes.append(
            f"{data_name(records[0])}; {records[0].config['dataset']['name']}; "
            f"{', '.join((*treated, *devices))}; commit {', '.join(commits)}."
        )
    if any(group.folds for group in groups):
        notes.append("Folds of a cross-validation: mean ± sd over the subjects that they tested.")
    return "\n".join(notes)


def _table(measures: Measures, groups: Sequence[Group]) -> str:
    """One row per network, and after those of one test what needs none; Markdown."""
    optional = {
        "backbone": {group: group.backbone for group in groups},
        "to train on": {group: str(group.training_size or "") for group in groups},
        "control": {group: group.control for group in groups},
        "code": {group: group.version for group in groups},
    }
    shown = {name: of for name, of in optional.items() if len(set(of.values())) > 1}
    if any(group.folds for group in groups):
        shown["folds"] = {group: group.folds for group in groups}
    labels = [score.label for score in measures.scores]
    labels += [measures.against] if measures.against else []
    header = ("block", "parameters", "iterations", *labels, "training [min]", "seeds", *shown)
    rows: list[tuple[str, ...]] = [header]
    for together in comparable(groups):
        rows += [(*_row(group), *(of[group] for of in shown.values())) for group in together]
        texts = (measures.text(together[0].floor(score.key)) for score in measures.scores)
        floor = (measures.floor_name, "0", "0", *texts)
        rows.append((*floor, *[""] * (len(header) - len(floor))))
    return markdown_table(rows)


def _row(group: Group) -> tuple[str, ...]:
    measures, key = group.measures, group.measures.headline.key
    change = 100 * (mean(group.scores(key)) / mean(group.floor(key)) - 1)
    minutes = group.minutes
    scores = [measures.text(group.scores(score.key)) for score in measures.scores]
    scores += [f"{change:+.1f} %"] if measures.against else []
    iterations = sorted({record.iterations for record in group.records})
    span = "–".join(f"{number:,}" for number in dict.fromkeys((iterations[0], iterations[-1])))
    counts = f"{group.first.parameters:,}", span
    time, seeds = "" if minutes is None else f"{minutes:.1f}", ", ".join(map(str, group.seeds))
    return (group.block, *counts, *scores, time, seeds)


def write_csv(groups: Sequence[Group], costs: Sequence[Cost], path: Path) -> None:
    """Write summary.csv: unrounded; costs of a forward pass, VI in bits, accuracies of 1."""
    applications = by_application(groups)
    rows = [_csv_row(*pair, applications) for pair in zip(groups, costs, strict=True)]
    write_text(csv_text(rows), path)


def _csv_row(group: Group, cost: Cost, applications: Iterable[Measures]) -> dict[str, Any]:
    first, block = group.first, group.first.config["block"]
    row: dict[str, Any] = {
        "dataset": first.config["dataset"]["name"],
        "data": first.data["kind"],
        "backbone": group.backbone,
        "block": group.block,
        "m": block.get("m"),
        "n": block.get("n"),
        "parameters": first.parameters,
        "input_shape": cost.input_shape and "x".join(map(str, cost.input_shape)),
        "multiply_adds": cost.multiply_adds,
        "flops": cost.flops,
        "iterations": first.iterations,
    }
    for measures in applications:
        own = measures == group.measures
        for score in measures.scores:
            row |= moments(score.column, group.scores(score.key) if own else [])
        floor = mean(group.floor(measures.headline.key)) if own else None
        row[measures.floor_column] = floor
    seeds = " ".join(map(str, group.seeds))
    return row | {"training_minutes": group.minutes, "seeds": seeds, "commit": group.version}


@page_style()
def tradeoff_figure(
    rows: Sequence[Mapping[str, Group]], costs: Mapping[Group, Cost], path: Path
) -> None:
    """Scores against costs, ± sd over seeds; a row of panels for groups that may be compared.

    Without minutes where no training was timed, as in what evaluate.py wrote.
    """
    timed = any(group.minutes is not None for row in rows for group in row.values())
    figure, grid = plots(len(rows), 3 if timed else 2, sharey="row")
    for panels, row in zip(grid, rows, strict=True):
        first = next(iter(row.values()))
        measures = first.measures
        panels[0].set_title(_data_title(first), loc="left", weight="bold")
        better = "lower" if measures.lower_is_better else "higher"
        panels[0].set_ylabel(f"{measures.axis}, {better} is better")
        groups = list(row.values())
        against: list[tuple[str, list[float | None]]] = [
            ("parameters", [costs[group].parameters for group in groups]),
            (f"FLOPs of a {measures.sample}'s forward pass", [costs[g].flops for g in groups]),
            ("minutes of training, measured", [group.minutes for group in groups]),
        ]
        for axes, (words, values) in zip(panels, against, strict=False):
            axes.set_xlabel(words)
            _draw_points(axes, row, values)
        panels[-1].legend(*panels[0].get_legend_handles_labels(), **curves.BESIDE)
    save_png(figure, path)


def _data_title(group: Group) -> str:
    return f"{group.first.config['dataset']['name']}: {data_name(group.first)}"


def _draw_points(axes: Axes, row: Mapping[str, Group], costs: Sequence[float | None]) -> None:
    """As near as the points allow, which lie close together; what needs no network only if near."""
    first = next(iter(row.values()))
    measures, key = first.measures, first.measures.headline.key
    around = []
    for i, (name, group, cost) in enumerate(zip(row, row.values(), costs, strict=True)):
        values = group.scores(key)
        deviation = stdev(values) if len(values) > 1 else None
        around += [mean(values) - (deviation or 0.0), mean(values) + (deviation or 0.0)]
        if cost:
            style = look(i) | {"markersize": 4, "linestyle": "", "elinewidth": 0.8, "capsize": 2}
            axes.errorbar(cost, mean(values), yerr=deviation, label=name, **style)
    floor, low, high = mean(first.floor(key)), min(around), max(around)
    place: dict[str, Any] = {"textcoords": "offset points", "color": "0.4"}
    place["fontsize"] = SMALL_POINTS
    near = 2 * (high - low) or math.inf  # of one network
    if low - near <= floor <= high + near:
        around.append(floor)
        axes.axhline(floor, color="0.5", linestyle=DASHED, linewidth=0.8)
        axes.annotate(measures.floor_name, (0, floor), (3, 2), xycoords=_LINE, **place)
    else:
        below, number = floor < low, f"{floor:.0%}" if measures.percent else f"{floor:.2f}"
        words = f"{measures.floor_name}: {number} {'↓' if below else '↑'}"
        corner, shift = ((0, 0), (3, 3)) if below else ((0, 1), (3, -8))
        axes.annotate(words, corner, shift, xycoords="axes fraction", **place)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if measures.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    known = [cost for cost in costs if cost] or [0.0, 1.0]
    axes.set_ylim(*_margins(around))
    axes.set_xlim(*_margins(known))


def _margins(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.1 * (high - low or high or 1.0)
    return max(0.0, low - margin), high + margin


def _draw_learning(
    groups: Mapping[str, Group],
    files: Mapping[str, Sequence[Path]],
    costs: Mapping[Group, Cost],
    path: Path,
) -> None:
    """Learning curves; ``files``: the metrics.csv of every record of each group."""
    known = {
        name: costs[group].training_flops(step_samples(group.first))
        for name, group in groups.items()
    }
    flops = {name: count for name, count in known.items() if count is not None}
    scores, axis = _scores_on_the_way(groups, files)
    curves.learning_figure(files, path, scores, axis, flops if flops == known else None)


@page_style()
def _draw_data_efficiency(
    groups: Sequence[Group], files: Sequence[Sequence[Path]], path: Path
) -> None:
    """Test score against the amount of training data, and errors where all trainings logged them.

    Of a network a line, its mean over seeds, and a band from the least to the greatest; errors of
    the last interval, training dashed. ``files``: the metrics.csv of every record of each group.
    """
    measures = groups[0].measures
    read = [file for of in files for file in of] if measures.errors_logged else []
    ends = {file: curves.read_intervals(file) for file in read}
    errors = bool(ends) and all(end.iterations.size for end in ends.values())
    figure, (panels,) = plots(1, 2 if errors else 1)
    networks: dict[str, dict[int, tuple[Group, Sequence[Path]]]] = {}
    for size in sorted({group.training_size for group in groups if group.training_size}):
        some = [pair for pair in zip(groups, files, strict=True) if pair[0].training_size == size]
        for name, pair in zip(group_names([group for group, _ in some]), some, strict=True):
            networks.setdefault(name, {})[size] = pair
    for i, (name, found) in enumerate(networks.items()):
        sizes = list(found)
        scores = [group.scores(measures.headline.key) for group, _ in found.values()]
        curves.draw_band(panels[0], i, name, sizes, scores)
        if errors:
            training = [[ends[file].training_error[-1] for file in of] for _, of in found.values()]
            validation = [
                [ends[file].validation_error[-1] for file in of] for _, of in found.values()
            ]
            curves.draw_band(panels[1], i, name, sizes, training, linestyle=DASHED)
            curves.draw_band(panels[1], i, name, sizes, validation)
    for axes in panels:
        axes.set(xscale="log", xlabel=f"{measures.units} to train on")
        axes.set_xticks(sorted({s for of in networks.values() for s in of}))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.minorticks_off()
    panels[0].set_ylabel(measures.axis)
    panels[0].set_title(_data_title(groups[0]), loc="left", weight="bold")
    if errors:
        panels[1].set_ylabel("error")
    for axes in panels if measures.percent else ():
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    handles = curves.curve_handles(list(networks))
    panels[-1].legend(handles=handles if errors else handles[:-2], **curves.BESIDE)
    save_png(figure, path)


def _scores_on_the_way(
    groups: Mapping[str, Group], files: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, list[dict[int, float]]] | None, str]:
    """By iterations, of each seed, by network, and what they are called.

    Of the test part if all runs tested checkpoints, else of the validation part, else None.
    """
    measures = next(iter(groups.values())).measures
    key = measures.headline.key
    if all("by_iteration" in r.metrics for group in groups.values() for r in group.records):
        tests = {
            name: [record.metrics["by_iteration"] for record in group.records]
            for name, group in groups.items()
        }
        return {
            name: [{one["iterations"]: one["test"][key] for one in test} for test in of_seeds]
            for name, of_seeds in tests.items()
        }, measures.axis
    found = {
        name: [_validated(file, measures.validated) for file in paths]
        for name, paths in files.items()
    }
    complete = all(score for scores in found.values() for score in scores)
    return found if complete else None, f"{measures.axis}, validation"


def _validated(metrics_csv: Path, columns: Sequence[str]) -> dict[int, float]:
    """Mean of columns by iterations done; empty if a run has not logged one of them."""
    read = [curves.by_iteration(metrics_csv, column, required=False) for column in columns]
    steps = sorted(set.intersection(*map(set, read))) if read else []
    return {step: mean(column[step] for column in read) for step in steps}


def draw_table(table: Table, folder: Path) -> list[Path]:
    """Learning curves of a table's rows in the paper, and the trade-off of all that ran, as PNG.

    Of runs without metrics.csv there are no learning curves.
    """
    name = f"{table.experiment.name}-{table.protocol.name}"
    lines = {line.row.label: line for line in table.lines if line.runs}  # of one code, the last
    groups = {label: line.group for label, line in lines.items()}
    costs = {groups[label]: line.cost for label, line in lines.items() if line.cost}
    files = {
        label: [run.path.with_name("metrics.csv") for run in line.runs]
        for label, line in lines.items()
        if line.row.in_paper  # ablations besides would hide each other
    }
    files = {label: paths for label, paths in files.items() if all(p.is_file() for p in paths)}
    drawn = []
    if files:
        drawn.append(folder / f"{name}-learning.png")
        _draw_learning({label: groups[label] for label in files}, files, costs, drawn[-1])
    if lines:
        rows = [
            {label: group for label, group in groups.items() if group in alike}
            for alike in comparable(list(groups.values()))
        ]
        drawn.append(folder / f"{name}-tradeoff.png")
        tradeoff_figure(rows, costs, drawn[-1])
    return drawn


def _pictures(
    measures: Measures,
    groups: Mapping[str, Group],
    runs: Mapping[Path, Record],
    costs: Mapping[Group, Cost],
    into: Path,
    suffix: str,
) -> list[str]:
    """Draw what an application's runs are seen by; returns the files' names."""
    folder_of = {id(record): path for path, record in runs.items()}
    metrics = {
        name: [folder_of[id(record)] / "metrics.csv" for record in group.records]
        for name, group in groups.items()
    }
    missing = [file for files in metrics.values() for file in files if not file.is_file()]
    if missing:  # as where evaluate.py wrote the records
        log.warning("no learning curves: %s does not exist", missing[0])
        names = []
    else:
        names = _curves(measures, groups, metrics, costs, into, suffix)
    if not measures.segmentations:
        return names
    found = [group.first.metrics for group in groups.values()]
    sweeps = [*(metrics["sweep"] for metrics in found), found[0]["baseline"]["sweep"]]
    named = dict(zip([*groups, AFFINITY.floor_name], sweeps, strict=True))
    curves.threshold_figure(named, into / "thresholds.png")
    folders = {name: files[0].parent for name, files in metrics.items()}
    names.append("thresholds.png")
    if _segmentations(folders, into / "summary.png"):
        names.append("summary.png")
    bodies = {
        name: [_evaluation(file.parent) / "test-0_bodies.csv" for file in files]
        for name, files in metrics.items()
    }
    if all(path.is_file() for paths in bodies.values() for path in paths):
        names.append("joined.md")
        write_text(markdown_table(evidence.joined_bodies(bodies)), into / names[-1])
    return names


def _curves(
    measures: Measures,
    groups: Mapping[str, Group],
    metrics: Mapping[str, Sequence[Path]],
    costs: Mapping[Group, Cost],
    into: Path,
    suffix: str,
) -> list[str]:
    """Draw how the networks learnt, from their metrics.csv; returns the files' names."""
    names = [f"learning{suffix}.png"]
    try:
        _draw_learning(groups, metrics, costs, into / names[0])
    except DataError as error:  # such as seeds that a time limit ended at different iterations
        log.warning("no %s: %s", names.pop(), error)
    if len({group.training_size for group in groups.values()} - {0}) > 1:
        names.append(f"data{suffix}.png")
        _draw_data_efficiency(list(groups.values()), list(metrics.values()), into / names[-1])
    epochs = {name: curves.iterations_per_epoch(group.first) for name, group in groups.items()}
    known = {name: iterations for name, iterations in epochs.items() if iterations is not None}
    names.append(f"curves{suffix}.png")
    curves.curves_figure(
        {name: files[0] for name, files in metrics.items()},
        into / names[-1],
        errors=measures.errors_logged,
        per_epoch=known if len(known) == len(epochs) else None,
    )
    return names


def _evaluation(run: Path) -> Path:
    """Where a run keeps it; what evaluate.py wrote is one itself."""
    inside = run / "evaluation"
    return inside if inside.is_dir() else run


def _segmentations(runs: dict[str, Path], path: Path) -> bool:
    """Draw them; False where a run's volumes are not there, as beside collected records."""
    predictions = {}
    for name, run in runs.items():
        volumes = _evaluation(run) / "test-0.h5"
        if not volumes.is_file():
            log.warning("no %s: %s is missing; evaluate.py writes it again", path.name, volumes)
            return False
        keys = (output.SEGMENTATION, output.RAW, output.TRUTH, output.BASELINE)
        found, of_raw, _ = output.read_volumes(volumes, *keys)
        predictions[name], raw, truth, baseline = found.values()
    predictions[AFFINITY.floor_name] = baseline
    segmentation_figure(raw, truth, predictions, path, voxel_size_nm=of_raw.voxel_size)
    return True
