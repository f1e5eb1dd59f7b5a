"""What a training begins with: weights of another run, or the state its own run was left in."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from psc.checkpoint_network import check_fits, conversion_of, load_into
from psc.checkpoints import load_checkpoint, load_network_weights, stored_config, weights_digest
from psc.config.plain import from_plain
from psc.config.schema import TrainConfig
from psc.conversion.arguments import ConversionArguments
from psc.errors import CheckpointError
from psc.run_folder import RunFolder

__all__ = ["InitialWeights", "first_step", "initial_weights"]

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
        """See ``psc.checkpoints.weights_digest``."""
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
