"""Checkpoints: written atomically, read as plain tensors, checked against the network.

A checkpoint is Lightning's, plus the run's whole configuration as plain containers, so that
``evaluate.py`` needs nothing but the file.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from psc.errors import CheckpointError

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

    The architecture is the caller's business; see ``psc.checkpoint_network``.

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
