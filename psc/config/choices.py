"""Choices that depend on the machine: the default data set, and what ``budget=auto`` means.

They are resolvers of the defaults list in ``configs/train.yaml``, so that the composed
configuration already holds the choice, and the record of a run with it.
"""

import os
import sys
from pathlib import Path

from omegaconf import OmegaConf

from psc.errors import ConfigError
from psc.files import PROJECT, WORKPLACE

CONFIG_DIRECTORY = PROJECT / "configs"

SAMPLE_VARIABLE = "PSC_SAMPLE_DATA"
"""Environment variable that names the folder of real sample data."""

FIBSEM_FILES = (
    *("training_sample2/grayscale_maps.h5", "training_sample2/groundtruth.h5"),
    *("validation_sample/grayscale_maps.h5", "validation_sample/groundtruth.h5"),
    *("tstvol-520-1/raw.h5", "tstvol-520-1/groundtruth.h5"),
)
"""What data/fibsem holds once FIB-25 is downloaded (data/sources.yaml)."""

SAMPLES = {"fibsem": "em/fib25/training_sample2_z000-207.h5", "ibsr": "mri/ibsr18"}
"""Data set → its part of the sample data that can be trained on; 114 videos teach no actions."""

_DATA_SETS = {"unet": "fibsem", "resnet": "ucf101", "densenet": "ibsr"}


def default_dataset(backbone: str) -> str:
    """Name of the data set that a backbone trains on when the user names none.

    The whole of FIB-25 (U-Net), UCF101 (ResNet) or IBSR (DenseNet) if it is on disk, else its real
    sample if ``PSC_SAMPLE_DATA`` points to one, else the synthetic stand-in.
    """
    data_set = next((d for name, d in _DATA_SETS.items() if backbone.startswith(name)), "fibsem")
    if _is_on_disk(data_set):
        return data_set
    sample = os.environ.get(SAMPLE_VARIABLE)
    if sample and data_set in SAMPLES and (Path(sample) / SAMPLES[data_set]).exists():
        return f"{data_set}_sample"
    return f"{data_set}_synthetic"


def _is_on_disk(data_set: str) -> bool:
    folder = WORKPLACE / "data" / data_set
    if data_set == "ucf101":
        stores = (folder / "prepared" / "index.json", *(folder / "prepared").glob("*.h5"))
        return any(store.is_file() for store in stores)  # *.h5: of earlier code, which is refused
    if data_set == "ibsr":
        return folder.is_dir()
    return all((folder / name).is_file() for name in FIBSEM_FILES)


def resolve_budget(budget: str) -> str:
    """``auto`` becomes ``paper`` where there is a GPU and ``quick`` where there is none."""
    if budget != "auto":
        return budget
    return "paper" if gpus() else "quick"


def gpus() -> int:
    """How many GPUs torch can use; it is not loaded, which takes a second, where no driver is."""
    drivers = ("nvidia", "nvhost", "nvmap", "kfd", "dxg")
    if sys.platform == "linux" and not any(
        device.name.startswith(drivers) for device in Path("/dev").iterdir()
    ):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def default_recipe(backbone: str, budget: str) -> str:
    """``<backbone>/<budget>``: the recipe of a backbone, in configs/recipe."""
    trainable = sorted(path.name for path in (CONFIG_DIRECTORY / "recipe").iterdir())
    if backbone not in trainable and (CONFIG_DIRECTORY / f"backbone/{backbone}.yaml").is_file():
        raise ConfigError(
            f"backbone={backbone}: no task trains it yet (only {', '.join(trainable)}); "
            "scripts/account.py and scripts/benchmark.py take every backbone"
        )
    return f"{backbone}/{resolve_budget(budget)}"


def parallel_runs() -> int:
    """Runs at once on this machine, in joblib's terms: one per GPU, else -1, one per core."""
    return gpus() or -1


def register() -> None:
    """Make them known to Hydra (idempotent)."""
    OmegaConf.register_new_resolver("parallel_runs", parallel_runs, replace=True)
    OmegaConf.register_new_resolver("default_dataset", default_dataset, replace=True)
    OmegaConf.register_new_resolver("default_recipe", default_recipe, replace=True)
