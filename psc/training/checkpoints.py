"""Checkpoints: written atomically, read as plain tensors, checked against the network.

A checkpoint is Lightning's, plus the run's whole configuration as plain containers, so that
``evaluate.py`` needs nothing but the file.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from psc.config.compose import from_plain
from psc.config.schema import ResNetConfig, TrainConfig
from psc.conversion.conversion import ConversionArguments
from psc.errors import CheckpointError, ConfigError
from psc.networks.build import build_network, build_network_on_meta
from psc.networks.densenet import DenseNet
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet
from psc.training.folder import RunFolder

CONFIG_KEY = "psc_config"
"""Where a checkpoint holds the configuration that it was trained with."""

CONVERSION_KEY = "psc_conversion"
"""Where a checkpoint of a converted network holds how it was converted, as plain containers."""

NETWORK_PREFIX = "network."
"""Tasks keep their network under this name."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames, so that a full disk or a kill spares the old file.

    Lightning's own writer goes through the system's temporary folder; where that is another file
    system, its last step is a copy that can break off half way.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Raises:
            CheckpointError: if the file cannot be written; what was at ``path`` is untouched.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            partial.unlink(missing_ok=True)
            raise CheckpointError(
                f"could not write {path}: {_first_line(error)}. Earlier checkpoints are intact; "
                "free disk space, then continue with resume=true"
            ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, tensors and plain containers only.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; runs keep theirs in <run>/checkpoints/")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise half a dozen types
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint of ours ({_first_line(error)})"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} is not a training checkpoint: it has no 'state_dict'")
    return checkpoint


def stored_config(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The configuration that a checkpoint was trained with, as plain containers.

    Raises:
        CheckpointError: if it holds none.
    """
    config = checkpoint.get(CONFIG_KEY)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no configuration: it was not written by train.py")
    return config


def load_network_weights(network: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Copy a checkpoint's weights into a network of the same architecture.

    The architecture is the caller's business; see ``psc.training.checkpoints``.

    Raises:
        CheckpointError: naming the first parameter that is missing, surplus or of another shape.
    """
    check_network_weights(network, checkpoint, path)
    network.load_state_dict(_network_weights(checkpoint))


def check_network_weights(network: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another architecture; the network may be on the meta device.

    Raises:
        CheckpointError: as ``load_network_weights``.
    """
    check_same_architecture(network, _network_weights(checkpoint), path)


def _network_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(NETWORK_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(NETWORK_PREFIX)
    }


def check_same_architecture(
    network: nn.Module, weights: Mapping[str, torch.Tensor], path: Path
) -> None:
    """Compare names and shapes of weights with a network's.

    Raises:
        CheckpointError: naming the first that differs.
    """
    expected = network.state_dict()
    remedy = "it belongs to another backbone, block or width; use the configuration of its own run"
    for name, tensor in expected.items():
        if name not in weights:
            raise CheckpointError(f"{path} has no parameter {name}: {remedy}")
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: parameter {name} has shape {tuple(weights[name].shape)}, the network "
                f"needs {tuple(tensor.shape)}: {remedy}"
            )
    if surplus := weights.keys() - expected.keys():
        raise CheckpointError(
            f"{path} has a parameter that the network lacks, {min(surplus)}: {remedy}"
        )


def weights_digest(checkpoint: Mapping[str, Any]) -> str:
    """Fingerprint (sha256) of the weights: the same network in another file is the same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(checkpoint["state_dict"].items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# ----------------------------------------
# How a checkpoint becomes a network: built, converted if it was, and given its weights.
#
# A checkpoint of a converted network (``scripts/convert.py``, or a training that began with one)
# holds the configuration of the ORIGINAL network and, under ``CONVERSION_KEY``, the arguments of
# its conversion. Whatever reads checkpoints comes here, and need not know which kind it has.


def checkpoint_network(
    config: TrainConfig, checkpoint: Mapping[str, Any], path: Path
) -> UNet | ResNet | DenseNet:
    """The network of a checkpoint with its weights, on the CPU.

    Args:
        config: that the checkpoint holds.
        checkpoint: its content.
        path: its file, for messages.

    Raises:
        CheckpointError: if the weights or the conversion are not of that configuration.
        ConfigError: if it builds no network.
    """
    backbone = config.backbone
    if isinstance(backbone, ResNetConfig):
        backbone = replace(backbone, weights=None)  # the checkpoint's follow; that file may be gone
    network = build_network(backbone, config.block)
    load_into(network, checkpoint, path)
    return network


def load_into(network: nn.Module, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Make a checkpoint's network of one that was built from its configuration, in place.

    Parameters of converted layers are new ones: optimisers and wrappers must come after this.

    Raises:
        CheckpointError: as ``checkpoint_network``.
    """
    _restructure(network, conversion_of(checkpoint, path), path)
    load_network_weights(network, checkpoint, path)


def check_fits(config: TrainConfig, checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint that ``load_into`` would refuse, without memory for a network.

    Raises:
        CheckpointError: as ``checkpoint_network``.
    """
    check_network_weights(checkpoint_network_on_meta(config, checkpoint, path), checkpoint, path)


def checkpoint_network_on_meta(
    config: TrainConfig, checkpoint: Mapping[str, Any], path: Path
) -> UNet | ResNet | DenseNet:
    """The same network without memory or weights: for sizes and counts.

    Raises:
        CheckpointError: if the conversion does not fit the configuration.
    """
    network = build_network_on_meta(config.backbone, config.block)
    _restructure(network, conversion_of(checkpoint, path), path)
    return network


def conversion_of(checkpoint: Mapping[str, Any], path: Path) -> ConversionArguments | None:
    """How a checkpoint's network was converted; None if it was not.

    Raises:
        CheckpointError: if this version of the code does not know such a conversion.
    """
    if CONVERSION_KEY not in checkpoint:
        return None
    try:
        return ConversionArguments(**checkpoint[CONVERSION_KEY])
    except TypeError as error:
        raise CheckpointError(
            f"{path} was converted by another version of this code: {error}"
        ) from error


def conversion_record(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What a record's ``data`` says of it, as its ``config`` names the original block."""
    return {"conversion": checkpoint[CONVERSION_KEY]} if CONVERSION_KEY in checkpoint else {}


def _restructure(network: nn.Module, conversion: ConversionArguments | None, path: Path) -> None:
    if conversion is None:
        return
    try:
        conversion.apply(network, "random")
    except (ConfigError, AttributeError, TypeError) as error:  # values may be of any type
        raise CheckpointError(
            f"{path} is of a converted network, but its configuration's cannot be converted so "
            f"({error}); it belongs to another backbone or block"
        ) from error


# ----------------------------------------
# What a training begins with: weights of another run, or the state its own run was left in.


_OPTIMIZERS = "optimizer_states"
"""Where Lightning keeps them in a checkpoint."""


@dataclass(frozen=True)
class InitialWeights:
    """The weights that fine-tuning begins with.

    Attributes:
        path: of the checkpoint.
        checkpoint: what it holds.
    """

    path: Path
    checkpoint: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """See ``psc.training.checkpoints.weights_digest``."""
        return weights_digest(self.checkpoint)

    @property
    def conversion(self) -> ConversionArguments | None:
        """How their network was converted; None if it was not."""
        return conversion_of(self.checkpoint, self.path)

    def copy_into(self, network: nn.Module) -> None:
        """Copy them into a network of this run's configuration, converted first if theirs was."""
        load_into(network, self.checkpoint, self.path)


def initial_weights(config: TrainConfig) -> InitialWeights | None:
    """What ``initial_weights`` names; None if it is null.

    Raises:
        CheckpointError: if it is damaged or of another network.
    """
    if config.initial_weights is None:
        return None
    path = Path(config.initial_weights)
    checkpoint = load_checkpoint(path)
    conversion = conversion_of(checkpoint, path)
    _check_network(_trained_config(checkpoint, path), asdict(config), path, conversion)
    check_fits(config, checkpoint, path)
    return InitialWeights(path, checkpoint)


def first_step(
    folder: RunFolder,
    plain: dict[str, Any],
    network: nn.Module,
    conversion: ConversionArguments | None,
) -> int:
    """The iteration that a run continues at, after checking that the checkpoint fits it.

    Args:
        folder: of the run.
        plain: its configuration.
        network: that it trains; receives the checkpoint's weights.
        conversion: how that network was converted, if it was.

    Raises:
        CheckpointError: if it is damaged, of another network, or holds no training.
    """
    path = folder.resume_from
    if path is None:
        return 0
    checkpoint = load_checkpoint(path)
    found = conversion_of(checkpoint, path)
    if _OPTIMIZERS not in checkpoint:
        raise CheckpointError(
            f"{path} holds no training to resume; begin one by initial_weights={path}"
        )
    if found != conversion:
        raise CheckpointError(
            f"{path} is of a network {_in_words(found)}, this run begins with one "
            f"{_in_words(conversion)}; give the initial_weights that its training began with"
        )
    load_network_weights(network, checkpoint, path)
    _check_network(_trained_config(checkpoint, path), plain, path, found)
    return int(checkpoint["global_step"])


def _in_words(conversion: ConversionArguments | None) -> str:
    return "that is not converted" if conversion is None else f"converted by {asdict(conversion)}"


def _trained_config(checkpoint: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """As this code would store it: keys that came after the checkpoint have their defaults."""
    return asdict(from_plain(stored_config(checkpoint, path), path))


def _check_network(
    trained: Mapping[str, Any],
    plain: Mapping[str, Any],
    path: Path,
    conversion: ConversionArguments | None,
) -> None:
    was, remedy = "was", ""
    if conversion is not None:  # its layers are of no block, so say which block is meant
        was, remedy = "was converted after it was", "; give the original network's"
    for part in ("backbone", "block"):
        if trained[part] != plain[part]:
            raise CheckpointError(
                f"{path} {was} trained with {part}={trained[part]}, this run has {plain[part]}"
                f"{remedy}"
            )
