"""What of a configuration decides which row of a table a record belongs to.

A record is held against the composed configuration of every row. Seeds, where files lie, and what
cannot change a result do not count; everything else does.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psc.config.plain import from_plain
from psc.config.schema import AffinityRecipeConfig, FibsemConfig, TrainConfig
from psc.reporting.groups import WHERE
from psc.results import Record
from psc.run_folder import TRAINER_WITHOUT_EFFECT

Settings = dict[str, Any]
"""Value by dotted key, such as ``recipe.iterations``."""

_PLACES = (*WHERE, "folder")
"""Keys of data sets that name files; what was read is in the record's ``data``."""

_TIME_LIMIT = "recipe.max_minutes"

_SLABS = ("train", "validation", "test")


def settings(config: TrainConfig) -> Settings:
    """What decides a result, but for the seed."""
    dataset = {k: v for k, v in asdict(config.dataset).items() if k not in _PLACES}
    if isinstance(config.dataset, FibsemConfig):
        for split in _SLABS:  # which part of a volume counts, where its file lies does not
            slabs = getattr(config.dataset, split)
            dataset[split] = [
                {"z": slab.z, "synthetic": slab.synthetic and asdict(slab.synthetic)}
                for slab in slabs
            ]
    trainer = asdict(config.trainer)
    parts = {
        "backbone": asdict(config.backbone),
        "block": asdict(config.block),
        "dataset": dataset,
        "recipe": asdict(config.recipe),
        "fine_tuned": config.initial_weights is not None,
        "converted": False,
        "trainer": {k: v for k, v in trainer.items() if k not in TRAINER_WITHOUT_EFFECT},
    }
    if isinstance(config.recipe, AffinityRecipeConfig):
        parts["segmentation"] = asdict(config.segmentation)
    return dict(_flat(parts))


def record_settings(record: Record, path: Path) -> Settings:
    """The same of a record; keys that its code did not know have their defaults.

    A time limit counts where it has ended the training: without one there would be more iterations.

    Args:
        record: of any version of the code.
        path: its file, for messages.

    Raises:
        CheckpointError: if its configuration does not fit the schema of this version of the code.
    """
    found = settings(from_plain(record.config, path))
    found["converted"] = "conversion" in record.data  # its configuration names the original block
    if found["trainer.devices"] == "auto" and record.hardware.get("accelerator") == "cpu":
        found["trainer.devices"] = 1  # Lightning's "auto" is one process on a CPU
    if record.iterations >= found["recipe.iterations"]:
        del found[_TIME_LIMIT]  # it was not reached
    return found


def differences(found: Settings, wanted: Settings) -> list[str]:
    """In words, the settings in which a record and a row differ."""
    keys = sorted(found.keys() | (wanted.keys() - {_TIME_LIMIT}))
    return [
        f"{key}={_shown(found, key)} and not {_shown(wanted, key)}"
        for key in keys
        if found.get(key) != wanted.get(key)
    ]


def _shown(values: Settings, key: str) -> str:
    return f"{values[key]}" if key in values else "(nothing)"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        items += _flat(value, f"{name}.") if isinstance(value, dict) else [(name, value)]
    return items
