"""What a training begins with: weights of another run, or the state its own run was left in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from psc.checkpoints import load_checkpoint, load_network_weights, stored_config, weights_digest
from psc.config.schema import TrainConfig
from psc.errors import CheckpointError
from psc.run_folder import RunFolder

__all__ = ["InitialWeights", "first_step", "initial_weights"]


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
        """See ``psc.checkpoints.weights_digest``."""
        return weights_digest(self.checkpoint)

    def copy_into(self, network: nn.Module) -> None:
        """Copy them into a network of the same architecture."""
        load_network_weights(network, self.checkpoint, self.path)


def initial_weights(config: TrainConfig) -> InitialWeights | None:
    """What ``initial_weights`` names; None if it is null.

    Raises:
        CheckpointError: if it is damaged or of another network.
    """
    if config.initial_weights is None:
        return None
    path = Path(config.initial_weights)
    checkpoint = load_checkpoint(path)
    _check_network(stored_config(checkpoint, path), asdict(config), path)
    return InitialWeights(path, checkpoint)


def first_step(folder: RunFolder, plain: dict[str, Any], network: nn.Module) -> int:
    """The iteration that a run continues at, after checking that the checkpoint fits it.

    Raises:
        CheckpointError: if it is damaged, of another network, or already past the end.
    """
    if folder.resume_from is None:
        return 0
    checkpoint = load_checkpoint(folder.resume_from)
    load_network_weights(network, checkpoint, folder.resume_from)
    _check_network(stored_config(checkpoint, folder.resume_from), plain, folder.resume_from)
    return int(checkpoint["global_step"])


def _check_network(trained: Mapping[str, Any], plain: Mapping[str, Any], path: Path) -> None:
    for part in ("backbone", "block"):
        if trained[part] != plain[part]:
            raise CheckpointError(
                f"{path} was trained with {part}={trained[part]}, this run has {plain[part]}"
            )
