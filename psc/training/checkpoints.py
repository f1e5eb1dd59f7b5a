"""Checkpoints: written atomically, read as plain tensors, checked against the network.

A checkpoint is Lightning's, plus the run's whole configuration as plain containers, so that
``evaluate.py`` needs nothing but the file. That of a converted network (``scripts/convert.py``, or
a training that began with one) holds the configuration of the ORIGINAL network and the arguments of
its conversion; whatever reads checkpoints comes here, and need not know which kind it has.
"""

import csv
import glob
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from psc.config.compose import from_plain
from psc.config.schema import ResNetConfig, TrainConfig
from psc.conversion.conversion import ConversionArguments
from psc.errors import CheckpointError, ConfigError, first_line
from psc.files import replacing
from psc.networks.build import build_network, build_network_on_meta
from psc.networks.densenet import DenseNet
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet
from psc.networks.weights import (
    ENDING,
    check_same_architecture,
    named_tensors,
    read_safetensors,
    read_saved,
)

CONFIG_KEY = "psc_config"
"""Where a checkpoint holds the configuration that it was trained with."""

CONVERSION_KEY = "psc_conversion"
"""Where a checkpoint of a converted network holds how it was converted, as plain containers."""

SEEN_KEY = "psc_seen"
"""Where a checkpoint holds the record of its splits, and fingerprints of what trained and chose."""

NETWORK_PREFIX = "network."
"""Tasks keep their network under this name."""

_OPTIMIZERS = "optimizer_states"
"""Where Lightning keeps them in a checkpoint."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a full disk or a kill spares the old file.

    Lightning's own writer goes through the system's temporary folder; where that is another file
    system, its last step is a copy that can break off half way.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``; if it cannot be, what was there is untouched."""
        remedy = "earlier checkpoints are intact: make room, then continue with resume=true"
        with replacing(Path(path), remedy) as temporary, temporary.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # so torch reports a full disk
                raise OSError(first_line(error)) from error
            file.flush()
            os.fsync(file.fileno())


def checkpoint_paths(given: str) -> list[Path]:
    """Files that a path, one with * in it, or [such, paths] names; each must match something.

    A path of a list that has a comma in it stands in single quotes.
    """
    names = [given]
    if given[:1] == "[" and given[-1:] == "]" and not Path(given).exists():
        names = next(csv.reader([given[1:-1]], quotechar="'", skipinitialspace=True)) or [""]
    paths: list[Path] = []
    for name in map(str.strip, names):
        found = [name]
        if "*" in name and not Path(name).exists():
            found = sorted(glob.glob(name))  # noqa: PTH207  Path.glob takes no absolute ones
        if not name or not found:
            raise CheckpointError(f"checkpoint={name or given}: nothing matches")
        paths += map(Path, found)
    return list(dict.fromkeys(paths))


def read_checkpoint(path: Path) -> "Checkpoint":
    """Read a checkpoint onto the CPU: tensors and plain containers only, whatever else it holds."""
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; runs keep theirs in <run>/checkpoints/")
    if path.suffix == ENDING:
        return _shipped_checkpoint(path)
    content = read_saved(path)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise CheckpointError(f"{path} is not a training checkpoint: it has no 'state_dict'")
    named_tensors(content["state_dict"], path)
    if not isinstance(content.get("global_step", 0), int):
        raise CheckpointError(f"{path}: its 'global_step' is no number; restore the file")
    if _OPTIMIZERS in content:
        content[_OPTIMIZERS] = []  # twice the network's memory, and nobody's but Lightning's
    return Checkpoint(path, content)


def _shipped_checkpoint(path: Path) -> "Checkpoint":
    """Weights that come with psc, as a checkpoint."""
    tensors, told = read_safetensors(path)
    try:
        config, iterations = json.loads(told["config"]), int(told["iterations"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not say how its network was trained ({error}); scripts/weights.py makes "
            "files that do, of runs"
        ) from error
    weights = {f"{NETWORK_PREFIX}{name}": tensor for name, tensor in tensors.items()}
    content = {"state_dict": weights, CONFIG_KEY: config, "global_step": iterations}
    return Checkpoint(path, content, told)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that was read; what it lacks or what does not fit is refused when asked for."""

    path: Path  # its file, for messages
    content: Mapping[str, Any]  # Lightning's
    # what weights that come with psc say of themselves, see ``psc.networks.weights``
    told: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def config(self) -> TrainConfig:
        """What it was trained with; keys that came after it have their defaults."""
        plain = self.content.get(CONFIG_KEY)
        if not isinstance(plain, dict):
            raise CheckpointError(
                f"{self.path} holds no configuration: it was not written by train.py"
            )
        return from_plain(plain, self.path)

    @cached_property
    def conversion(self) -> ConversionArguments | None:
        """How its network was converted; None if it was not."""
        if CONVERSION_KEY not in self.content:
            return None
        try:
            return ConversionArguments(**self.content[CONVERSION_KEY])
        except (TypeError, ValueError) as error:  # values may be of any type
            raise CheckpointError(
                f"{self.path} was converted by another version of this code: {error}"
            ) from error

    @property
    def iterations(self) -> int:
        """How many its network was trained for."""
        return int(self.content.get("global_step", 0))

    @property
    def weights(self) -> dict[str, Tensor]:
        """Of its network, by name."""
        return {
            name.removeprefix(NETWORK_PREFIX): tensor
            for name, tensor in self.content["state_dict"].items()
            if name.startswith(NETWORK_PREFIX)
        }

    @property
    def digest(self) -> str:
        """Fingerprint (sha256) of the weights: the same network in another file is the same."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.content["state_dict"].items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def record(self) -> dict[str, Any]:
        """What a record's ``data`` says of a conversion, as its ``config`` names the original."""
        return {} if self.conversion is None else {"conversion": self.content[CONVERSION_KEY]}

    def network(self) -> UNet | ResNet | DenseNet:
        """Its network with its weights, on the CPU."""
        backbone = self.config.backbone
        if isinstance(backbone, ResNetConfig):
            backbone = replace(backbone, weights=None)  # its own follow; that file may be gone
        network = build_network(backbone, self.config.block)
        self.load_into(network)
        return network

    def network_on_meta(self) -> UNet | ResNet | DenseNet:
        """The same without memory or weights: for sizes and counts."""
        network = build_network_on_meta(self.config.backbone, self.config.block)
        self._restructure(network)
        return network

    def load_into(self, network: nn.Module) -> None:
        """Make its network of one that was built from its configuration, in place.

        Parameters of converted layers are new ones: optimisers and wrappers must come after this.
        """
        self._restructure(network)
        self.load_weights(network)

    def load_weights(self, network: nn.Module) -> None:
        """Copy its weights into a network of the very same architecture."""
        weights = self.weights
        check_same_architecture(network, weights, self.path)
        network.load_state_dict(weights)

    def _restructure(self, network: nn.Module) -> None:
        if self.conversion is None:
            return
        try:
            self.conversion.apply(network, "random")
        except (ConfigError, AttributeError, TypeError) as error:  # values may be of any type
            raise CheckpointError(
                f"{self.path} is of a converted network, but its configuration's cannot be "
                f"converted so ({error}); it belongs to another backbone or block"
            ) from error

    def check_network(self, config: TrainConfig) -> None:
        """Refuse another backbone or block than this run's."""
        was, remedy = "was", ""
        if self.conversion is not None:  # its layers are of no block, so say which one is meant
            was, remedy = "was converted after it was", "; give the original network's"
        for part in ("backbone", "block"):
            theirs, ours = asdict(getattr(self.config, part)), asdict(getattr(config, part))
            if theirs != ours:
                own, here = (
                    {k: v for k, v in one.items() if (k, v) not in other.items()}
                    for one, other in ((theirs, ours), (ours, theirs))
                )
                raise CheckpointError(
                    f"{self.path} {was} trained with {part}={own}, this run has {here}{remedy}"
                )


def initial_weights(config: TrainConfig) -> Checkpoint | None:
    """What ``initial_weights`` names, checked to be of the run's network; None if it is null."""
    if config.initial_weights is None:
        return None
    checkpoint = read_checkpoint(Path(config.initial_weights))
    checkpoint.check_network(config)
    check_same_architecture(checkpoint.network_on_meta(), checkpoint.weights, checkpoint.path)
    return checkpoint


def resumed_step(
    path: Path | None,
    config: TrainConfig,
    network: nn.Module,
    conversion: ConversionArguments | None,
) -> int:
    """The iteration that a run continues at, after checking that the checkpoint fits it.

    Its network, converted so or not at all, receives the checkpoint's weights.
    """
    if path is None:
        return 0
    checkpoint = read_checkpoint(path)
    if _OPTIMIZERS not in checkpoint.content:
        raise CheckpointError(
            f"{path} holds no training to resume; begin one by initial_weights={path}"
        )
    if checkpoint.conversion != conversion:
        raise CheckpointError(
            f"{path} is of a network {_in_words(checkpoint.conversion)}, this run begins with one "
            f"{_in_words(conversion)}; give the initial_weights that its training began with"
        )
    checkpoint.load_weights(network)
    checkpoint.check_network(config)
    _check_training(checkpoint, config)
    return checkpoint.iterations


def _check_training(checkpoint: Checkpoint, config: TrainConfig) -> None:
    """Refuse to go on with another recipe or on other data: the record would tell of one training.

    Only its length may change.
    """
    trained = checkpoint.config
    before, now = (asdict(each.recipe) | {"data": each.dataset.name} for each in (trained, config))
    for key in sorted(before.keys() - {"name", "iterations", "max_minutes"}):
        if before[key] != now.get(key):
            raise CheckpointError(
                f"{checkpoint.path} was trained with {key}={before[key]}, this run has"
                f" {now.get(key)}; resume with the same, or begin by"
                f" initial_weights={checkpoint.path}"
            )
    config.dataset.fitted(trained.dataset)  # refuses another fold of its subjects


def _in_words(conversion: ConversionArguments | None) -> str:
    return "that is not converted" if conversion is None else f"converted by {asdict(conversion)}"
