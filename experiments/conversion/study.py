"""What a converted network is worth right away and after fine-tuning, against other starts.

    python experiments/conversion/study.py --seed 0
    python experiments/conversion/study.py --report       the table, printed, and curves.png

Trains the 3D U-Net of the reduced EM protocol on the real sample, converts it in several ways, and
trains every conversion, the same networks from random weights, and the 3D network itself for the
same further iterations. Everything is a command of this repository, printed before it runs; what
is there already is not done again. Records, curves and starts-seed0.csv are collected beside this
file.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import lightning
import numpy as np

from psc.applications import build_application
from psc.errors import ConfigError, DataError, PSCError
from psc.files import replacing
from psc.paper.curves import read_curve
from psc.paper.experiments import share
from psc.paper.style import look, page_style, plots, save_png
from psc.paper.text import markdown_table
from psc.training.checkpoints import read_checkpoint
from psc.training.folder import BEST
from psc.training.records import FILE_NAME, Record, read_record
from psc.training.training import quieten_lightning

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
NETWORK = ("backbone=unet", "budget=quick", "dataset=fibsem_sample", "trainer.progress_bar=false")
FURTHER = ("recipe.validate_every=25",)
MATCHING = "match_steps=200"
RECORDED = ("name", "seed", "parameters", "validation_loss", "matching", "initial_weights")


@dataclass(frozen=True)
class Start:
    """What a further training begins with."""

    name: str  # what files call it
    label: str  # what the table calls it
    block: str = "3d"  # ``train.py``'s, of the network that the weights are for
    # options of ``scripts/convert.py``; None: no conversion
    conversion: tuple[str, ...] | None = None
    weights: bool = True  # whether it begins with the trained network's weights


TRAINED = Start("3d", "3D, as trained", weights=False)
"""The network that all conversions come from."""

STARTS = (
    Start("3d-further", "3D, trained further"),
    Start("p1sc1-svd", "m = 1, SVD", conversion=("m=1",)),
    Start("p1sc1-random", "m = 1, random blocks", conversion=("m=1", "init=random")),
    Start("p1sc1-scratch", "P_1SC_1 from scratch", "p1sc1", weights=False),
    Start("p2sc1-svd", "m = 2, SVD", conversion=("m=2",)),
    Start("p2sc1-calibrated", "m = 2, SVD, calibrated", conversion=("m=2", "calibrate=true")),
    Start("p2sc1-matched", "m = 2, calibrated, matched", conversion=("m=2", MATCHING)),
    Start(
        "p2sc1-sum-calibrated",
        "m = 2 summed, calibrated",
        conversion=("m=2", "merge=sum", "calibrate=true"),
    ),
    Start("p2sc1-random", "m = 2, random blocks", conversion=("m=2", "init=random")),
    Start("p2sc1-scratch", "P_2SC_1 from scratch", "p2sc1", weights=False),
    Start("p2sc2-matched", "(2,2), calibrated, matched", conversion=("m=2", "n=2", MATCHING)),
    Start("p2sc2-scratch", "P_2SC_2 from scratch", "p2sc2", weights=False),
)
"""In the table's order."""

PANELS = {"one stream": "p1sc1", "two streams": "p2sc1", "two streams, pairs of layers": "p2sc2"}
"""Title of a panel of the figure → beginning of the starts' names."""


def main() -> None:
    """Run, go on or report from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/conversion"))
    parser.add_argument("--iterations", type=int, default=150, help="of each further training")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of starts with weights")
    parser.add_argument("--into", type=Path, default=HERE, help="where records are collected")
    parser.add_argument("--starts", nargs="+", choices=[s.name for s in STARTS], metavar="NAME")
    parser.add_argument("--report", action="store_true", help="only show what was collected")
    parser.add_argument(
        "overrides", nargs="*", default=NETWORK, help=f"of every training; default: {NETWORK}"
    )
    arguments = parser.parse_args()
    quieten_lightning()
    study = Study(
        arguments.output,
        arguments.seed,
        arguments.iterations,
        arguments.learning_rate,
        arguments.into,
        tuple(arguments.overrides),
    )
    try:
        if arguments.report:
            report(arguments.into)
            return
        trained = study.trained()
        for start in STARTS:
            if not arguments.starts or start.name in arguments.starts:
                study.follow(start, trained)
    except (PSCError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")


@dataclass(frozen=True)
class Study:
    """One seed of the study."""

    output: Path  # folder for the runs
    seed: int  # of every training
    iterations: int  # of each further training
    # of those that begin with trained or converted weights; others have the recipe's
    learning_rate: float
    into: Path  # where records are collected
    overrides: tuple[str, ...] = NETWORK  # of every training: network, data, budget

    def trained(self) -> Path:
        """The checkpoint of the 3D network, trained if it is not there."""
        return self._train(TRAINED) / "checkpoints" / BEST

    def follow(self, start: Start, trained: Path) -> None:
        """Convert, measure, train further, collect."""
        weights = trained if start.weights else None
        if start.conversion is not None:
            weights = self.output / f"{start.name}-seed{self.seed}.ckpt"
            if not weights.exists():
                log = weights.with_suffix(".json")
                command = [f"checkpoint={trained}", f"output={weights}", f"report={log}"]
                _run("scripts/convert.py", *command, *start.conversion)
            folder = self.output / f"{start.name}-right-away-seed{self.seed}"
            if not (folder / FILE_NAME).exists():  # the test protocol right after the conversion
                _run("evaluate.py", f"checkpoint={weights}", f"output={folder}")
            share(folder, self.into / "records" / folder.name)
        options = [f"recipe.iterations={self.iterations}", *FURTHER]
        if weights is not None:
            rate = f"recipe.optimizer.learning_rate={self.learning_rate:g}"
            options += [f"initial_weights={weights}", rate]
            self._note(start, weights)
        self._train(start, *options)

    def _train(self, start: Start, *options: str) -> Path:
        parent = self.output / f"{start.name}-seed{self.seed}"
        common = [f"block={start.block}", f"seed={self.seed}", f"output_directory={parent}"]
        if not list(parent.glob(f"*/{FILE_NAME}")):
            _run("train.py", *self.overrides, *common, *options, "resume=true")
        (result,) = parent.glob(f"*/{FILE_NAME}")
        share(result.parent, self.into / "records" / parent.name)
        return result.parent

    def _note(self, start: Start, weights: Path) -> None:
        """A row of starts-seed<seed>.csv."""
        path = self.into / f"starts-seed{self.seed}.csv"
        rows = list(_rows(path)) if path.exists() else []
        key = (start.name, str(self.seed))
        if any((row["name"], row["seed"]) == key for row in rows):
            return
        loss, parameters = validation_loss(weights)
        log = weights.with_suffix(".json")
        matching = ""
        losses = json.loads(log.read_text())["matching_losses"] if log.exists() else []
        if losses:
            matching = f"{losses[0]:.4g} > {losses[-1]:.4g} in {len(losses)} steps"
        digest = read_checkpoint(weights).digest
        values = (*key, parameters, f"{loss:.4f}", matching, digest)
        rows.append(dict(zip(RECORDED, map(str, values), strict=True)))
        with replacing(path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, RECORDED, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: (row["name"], row["seed"])))


def validation_loss(checkpoint: Path) -> tuple[float, int]:
    """Loss over the validation patches, as training logs it, and parameters of a checkpoint."""
    content = read_checkpoint(checkpoint)
    config, network = content.config, content.network()
    application = build_application(config)
    data = application.training_data(network, 0)
    trainer = lightning.Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu"
    )
    (result,) = trainer.validate(application.task(network, 1), data, verbose=False)
    return result["validation/loss"], sum(p.numel() for p in network.parameters())


def _run(script: str, *options: str) -> None:
    print("python", script, *options, flush=True)
    subprocess.run([sys.executable, script, *options], cwd=PROJECT, check=True)


@dataclass(frozen=True)
class Outcome:
    """One way to begin, over its seeds."""

    label: str  # of the table
    seeds: tuple[int, ...]  # that were run
    # validation loss of each seed before the first iteration; empty: not measured
    before: tuple[float, ...]
    # VI sum on the test slab of each seed at that point; empty: not measured
    tested: tuple[float, ...]
    curves: tuple[Path, ...]  # metrics.csv of each seed's training
    after: tuple[Record, ...]  # record of each seed's training

    def row(self) -> list[str]:
        """Its cells."""
        finished = [record.metrics["test"]["total"] for record in self.after]
        return [
            self.label,
            f"{self.after[0].parameters:,}",
            *(_spread(values) for values in (self.before, self.tested, self.lowest(), finished)),
            ", ".join(map(str, self.seeds)),
        ]

    def lowest(self) -> list[float]:
        """Validation loss of each seed."""
        return [min(read_curve(path, "validation/loss")[1]) for path in self.curves]

    def points(self) -> tuple[list[int], list[float]]:
        """Iterations and the mean validation loss over seeds, from before the first one on."""
        curves = [read_curve(path, "validation/loss") for path in self.curves]
        steps = curves[0][0]
        if any(not np.array_equal(steps, other) for other, _ in curves):
            raise ConfigError(f"{self.label}: seeds were validated at different iterations")
        x, y = list(steps + 1), list(np.mean([values for _, values in curves], axis=0))
        return ([0, *x], [float(np.mean(self.before)), *y]) if self.before else (x, y)


def report(folder: Path) -> None:
    """Print the table as Markdown and draw curves.png: a panel per network, one scale for all."""
    outcomes = read_outcomes(folder)
    head = ("start", "parameters", "loss before", "VI before", "loss after", "VI after", "seeds")
    print(markdown_table([head, *(outcome.row() for outcome in outcomes.values())]))
    with page_style():
        figure, (all_axes,) = plots(1, len(PANELS), sharey=True)
        for axes, (title, prefix) in zip(all_axes, PANELS.items(), strict=True):
            shown = [outcome for name, outcome in outcomes.items() if name.startswith(prefix)]
            if not shown:
                raise DataError(f"{folder / 'records'} holds no {prefix}-*; run the study")
            for i, outcome in enumerate(shown):
                axes.plot(*outcome.points(), label=outcome.label, **look(i), markersize=3)
            best = mean(outcomes[TRAINED.name].lowest())
            axes.axhline(best, color="0.4", linestyle=(0, (4, 2)), linewidth=0.8)
            axes.set(title=title, xlabel="iteration")
            axes.legend()
        all_axes[0].set_ylabel("validation loss")
        save_png(figure, folder / "curves.png")


def read_outcomes(folder: Path) -> Mapping[str, Outcome]:
    """What was collected, by name of the start, in the order of ``STARTS``."""
    rows = [row for path in sorted(folder.glob("starts-seed*.csv")) for row in _rows(path)]
    found: dict[str, Outcome] = {}
    for start in (TRAINED, *STARTS):
        folders = sorted((folder / "records").glob(f"{start.name}-seed*"))
        seeds = tuple(int(re.sub(r".*-seed", "", path.name)) for path in folders)
        before = tuple(
            float(row["validation_loss"])
            for seed in seeds
            for row in rows
            if (row["name"], row["seed"]) == (start.name, str(seed))
        )
        tests = sorted((folder / "records").glob(f"{start.name}-right-away-seed*"))
        if folders:
            found[start.name] = Outcome(
                start.label,
                seeds,
                before,
                tuple(read_record(path).metrics["test"]["total"] for path in tests),
                tuple(path / "metrics.csv" for path in folders),
                tuple(read_record(path) for path in folders),
            )
    if TRAINED.name not in found:
        place = folder / "records" / f"{TRAINED.name}-seed*" / FILE_NAME
        raise DataError(f"there is no {place}; run the study")
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as file:
        yield from csv.DictReader(file)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
