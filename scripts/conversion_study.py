"""What a converted network is worth right away and after fine-tuning, against other starts.

    python scripts/conversion_study.py --seed 0

Trains the 3D U-Net of the reduced EM protocol on the real sample, converts it in several ways, and
trains every conversion, the same networks from random weights, and the 3D network itself for the
same further iterations. Everything is a command of this repository, printed before it runs; what
is there already is not done again. Records, curves and starts-seed0.csv are collected
into experiments/conversion.
"""

import argparse
import csv
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import lightning

from psc.applications import build_application
from psc.config.compose import from_plain
from psc.errors import PSCError
from psc.paper.experiments import EXPERIMENTS
from psc.training.checkpoints import (
    checkpoint_network,
    load_checkpoint,
    stored_config,
    weights_digest,
)
from psc.training.folder import BEST
from psc.training.records import FILE_NAME, read_record, write_record
from psc.training.training import quieten_lightning

PROJECT = Path(__file__).parents[1]
NETWORK = ("backbone=unet", "budget=quick", "dataset=fibsem_sample", "trainer.progress_bar=false")
FURTHER = ("recipe.validate_every=25",)
MATCHING = "match_steps=200"
RECORDED = ("name", "seed", "parameters", "validation_loss", "matching", "initial_weights")


@dataclass(frozen=True)
class Start:
    """What a further training begins with.

    Attributes:
        name: what files call it.
        block: ``train.py``'s, of the network that the weights are for.
        conversion: options of ``scripts/convert.py``; None: no conversion.
        weights: whether it begins with the trained network's weights.
    """

    name: str
    block: str = "3d"
    conversion: tuple[str, ...] | None = None
    weights: bool = True


STARTS = (
    Start("p1sc1-svd", conversion=("m=1",)),
    Start("p2sc1-svd", conversion=("m=2",)),
    Start("p2sc1-calibrated", conversion=("m=2", "calibrate=true")),
    Start("p2sc1-matched", conversion=("m=2", MATCHING)),
    Start("p2sc1-sum-calibrated", conversion=("m=2", "merge=sum", "calibrate=true")),
    Start("p2sc2-matched", conversion=("m=2", "n=2", MATCHING)),
    Start("p1sc1-scratch", "p1sc1", weights=False),
    Start("p2sc1-scratch", "p2sc1", weights=False),
    Start("p2sc2-scratch", "p2sc2", weights=False),
    Start("3d-further"),
    Start("p1sc1-random", conversion=("m=1", "init=random")),
    Start("p2sc1-random", conversion=("m=2", "init=random")),
)


def main() -> None:
    """Run, or go on, from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/conversion"))
    parser.add_argument("--iterations", type=int, default=150, help="of each further training")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of starts with weights")
    parser.add_argument("--into", type=Path, default=EXPERIMENTS / "conversion")
    parser.add_argument("--starts", nargs="+", choices=[s.name for s in STARTS], metavar="NAME")
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
        trained = study.trained()
        for start in STARTS:
            if not arguments.starts or start.name in arguments.starts:
                study.follow(start, trained)
    except (PSCError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")


@dataclass(frozen=True)
class Study:
    """One seed of the study.

    Attributes:
        output: folder for the runs.
        seed: of every training.
        iterations: of each further training.
        learning_rate: of those that begin with trained or converted weights; others have the
            recipe's.
        into: where records are collected.
        overrides: of every training: network, data, budget.
    """

    output: Path
    seed: int
    iterations: int
    learning_rate: float
    into: Path
    overrides: tuple[str, ...] = NETWORK

    def trained(self) -> Path:
        """The checkpoint of the 3D network, trained if it is not there."""
        return self._train("3d", "3d") / "checkpoints" / BEST

    def follow(self, start: Start, trained: Path) -> None:
        """Convert, measure, train further, collect."""
        weights = trained if start.weights else None
        if start.conversion is not None:
            weights = self.output / f"{start.name}-seed{self.seed}.ckpt"
            if not weights.exists():
                log = weights.with_suffix(".json")
                command = [f"checkpoint={trained}", f"output={weights}", f"report={log}"]
                _run("scripts/convert.py", *command, *start.conversion)
            self._evaluate(start, weights)
        options = [f"recipe.iterations={self.iterations}", *FURTHER]
        if weights is not None:
            rate = f"recipe.optimizer.learning_rate={self.learning_rate:g}"
            options += [f"initial_weights={weights}", rate]
        self._record(start, weights)
        self._train(start.name, start.block, *options)

    def _train(self, name: str, block: str, *options: str) -> Path:
        parent = self.output / f"{name}-seed{self.seed}"
        common = [f"block={block}", f"seed={self.seed}", f"output_directory={parent}"]
        if not list(parent.glob(f"*/{FILE_NAME}")):
            _run("train.py", *self.overrides, *common, *options, "resume=true")
        (result,) = parent.glob(f"*/{FILE_NAME}")
        self._collect(f"{name}-seed{self.seed}", result.parent)
        return result.parent

    def _evaluate(self, start: Start, weights: Path) -> None:
        """The test protocol right after the conversion."""
        folder = self.output / f"{start.name}-right-away-seed{self.seed}"
        if not (folder / FILE_NAME).exists():
            _run("evaluate.py", f"checkpoint={weights}", f"output={folder}")
        self._collect(folder.name, folder)

    def _record(self, start: Start, weights: Path | None) -> None:
        """A row of starts-seed<seed>.csv."""
        if weights is None:
            return
        path = self.into / f"starts-seed{self.seed}.csv"
        rows: list[dict[str, str]] = []
        if path.exists():
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        key = (start.name, str(self.seed))
        if any((row["name"], row["seed"]) == key for row in rows):
            return
        loss, parameters = validation_loss(weights)
        log = weights.with_suffix(".json")
        matching = ""
        losses = json.loads(log.read_text())["matching_losses"] if log.exists() else []
        if losses:
            matching = f"{losses[0]:.4g} > {losses[-1]:.4g} in {len(losses)} steps"
        digest = weights_digest(load_checkpoint(weights))
        values = (*key, parameters, f"{loss:.4f}", matching, digest)
        rows.append(dict(zip(RECORDED, map(str, values), strict=True)))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, RECORDED, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: (row["name"], row["seed"])))

    def _collect(self, name: str, folder: Path) -> None:
        """Copy record and metrics; where they lay on this machine is nobody else's business."""
        target = self.into / "records" / name
        target.mkdir(parents=True, exist_ok=True)
        record = read_record(folder)
        config = {**record.config, "output_directory": "runs"}
        if config.get("initial_weights") is not None:
            config["initial_weights"] = Path(config["initial_weights"]).name
        write_record(replace(record, config=config), target)
        metrics = folder / "metrics.csv"
        if metrics.is_file():
            (target / metrics.name).write_bytes(metrics.read_bytes())


def validation_loss(checkpoint: Path) -> tuple[float, int]:
    """Loss over the validation patches, as training logs it, and parameters of a checkpoint."""
    content = load_checkpoint(checkpoint)
    config = from_plain(stored_config(content, checkpoint), checkpoint)
    network = checkpoint_network(config, content, checkpoint)
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


if __name__ == "__main__":
    main()
