"""What will become of each of a network's 3D convolutions, decided before any work is done."""

from collections.abc import Mapping
from typing import Literal

from torch import nn

from psc.conversion.observation import Observation
from psc.conversion.selection import Selection
from psc.conversion.support import convolutions, sharing, why_not
from psc.errors import ConfigError
from psc.streams import Merge

Unsupported = Literal["refuse", "skip"]


class Plan:
    """The layers to convert, and those that are kept or refused, each with its reason.

    Args:
        model: any module.
        selection: which layers are asked for.

    Attributes:
        layers: every 3D convolution by name.
        kept: why some stay as they are, as asked for or as documented.
        refused: why some that were asked for cannot be converted.

    Raises:
        ConfigError: if the network has no 3D convolution.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self._model = model
        self.layers = dict(convolutions(model))
        self.kept: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        for name, layer in self.layers.items():
            reason = selection.reason_against(name, layer.kernel_size)  # type: ignore[arg-type]
            if reason is not None:
                self.kept[name] = reason

    @property
    def chosen(self) -> dict[str, nn.Conv3d]:
        """The layers to convert."""
        left = self.layers.keys() - self.kept.keys() - self.refused.keys()
        return {n: part for n, part in self.layers.items() if n in left}  # type: ignore[misc]

    def refuse_unsupported(self, m: int, merge: Merge, *, needs_values: bool) -> None:
        """Refuse what ``psc.conversion.support`` finds."""
        shared = sharing(self._model)
        for name in self.layers.keys() - self.kept.keys():
            layer = self.layers[name]
            reason = why_not(layer, m, merge, needs_values=needs_values) or shared.get(id(layer))
            if reason is not None:
                self.refused[name] = reason

    def refuse_unwatched(self, observation: Observation) -> None:
        """Refuse layers that a forward pass did not call, or whose weights it used otherwise."""
        for name in self.chosen:
            if name in observation.used_elsewhere:
                self.refused[name] = "its parameters are also used outside of its own forward pass"
            elif not observation.calls.get(name):
                self.refused[name] = (
                    "example_input never calls it in evaluation mode: it is idle, or its "
                    "parameters are used otherwise"
                )

    def settle(self, unsupported: Unsupported) -> None:
        """Go on without the refused layers, or not at all.

        Raises:
            ConfigError: naming all refused layers, unless they may be skipped.
        """
        if self.refused and unsupported == "refuse":
            raise ConfigError(refusal(self._in_order(self.refused)))

    def _in_order(self, reasons: Mapping[str, str]) -> dict[str, str]:
        return {name: reasons[name] for name in self.layers if name in reasons}


def refusal(reasons: Mapping[str, str]) -> str:
    """The message that lists layers with reasons and says what can be done."""
    lines = [f"  {name or '(the network)'}: {reason}" for name, reason in reasons.items()]
    count = "1 layer" if len(lines) == 1 else f"{len(lines)} layers"
    return "\n".join(
        [
            f"{count} cannot be converted:",
            *lines,
            "Leave them as they are with unsupported='skip', or choose others by include, exclude "
            "or kernel_sizes",
        ]
    )
