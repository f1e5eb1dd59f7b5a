"""Schema of everything around a training: segmentation, machine, loggers, budget."""

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any


@dataclass
class SegmentationConfig:
    """Affinities to neurons: ``psc.segmentation`` (fragments, agglomeration by waterz)."""

    fragments: str = "seeded"
    boundary_threshold: float = 0.5
    seed_smoothing: float = 1.0
    minimum_seed_distance: int = 1
    low: float = 0.0001
    high: float = 0.9999
    scoring: str = "hist_quant_50"
    thresholds: list[float] = field(
        default_factory=lambda: [round(0.05 * i, 2) for i in range(1, 20)]
    )
    tile_input: int | None = None
    """Largest input of a tile in voxels; null: the training patch's."""
    batch_size: int = 1


SegmentationChanges = make_dataclass(
    "SegmentationChanges",
    [(f.name, f.type | None, None) for f in fields(SegmentationConfig)],  # type: ignore[operator]
)
"""The keys of SegmentationConfig, all null: what evaluate.py is to change of a trained one."""


@dataclass
class TrainerConfig:
    """Where and how to run; passed on to Lightning's Trainer. "auto" decides by the device.

    ``devices`` is 1 by default: each more is another patch per iteration, another experiment.
    """

    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "auto"
    compile: Any = "auto"
    channels_last: bool = True
    deterministic: bool = False
    workers: Any = "auto"
    progress_bar: bool = True


@dataclass
class LoggerConfig:
    """metrics.csv is always written; Weights & Biases on request."""

    wandb: bool = False
    project: str = "psc"
    mode: str = "auto"
    group: str | None = None
    """What runs are grouped by, such as a table; null: the data set."""


@dataclass
class BudgetConfig:
    """What the user asked for; the recipe that it stands for is ``recipe.name``."""

    name: str = "auto"
