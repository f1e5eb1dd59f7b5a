"""Which input sizes a network over volumes takes, and what leaves: one axis stands for all three.

Tiling, patch sizes and their checks ask a network these questions before any data is read. Each
network answers for itself how a size passes through it; the rest is the same for all and lies here.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from psc.block.convolution import Padding
from psc.errors import ConfigError


class VolumeNetwork(nn.Module, ABC):
    """A network from volumes to volumes that takes certain sizes only, alike along D, H and W."""

    padding: Padding
    """"same": the border of the result is computed from padded zeros; "valid": none of it is."""

    @property
    @abstractmethod
    def period(self) -> int:
        """Shifts by multiples of this many voxels commute with the network."""

    @property
    @abstractmethod
    def receptive_field(self) -> int:
        """Extent in voxels, along each axis, of the input that one output voxel can depend on.

        The widest over the positions of the output voxel within a period.
        """

    @property
    @abstractmethod
    def _title(self) -> str:
        """What an error calls the network: its name and what decides about sizes."""

    @abstractmethod
    def _trace(self, size: int) -> int | None:
        """Follow one axis of ``size`` voxels through the network; None where it does not fit."""

    @property
    def spoilt_margin(self) -> int:
        """Voxels along each face of a tile that the zeros of "same" padding reach; else 0."""
        return self.receptive_field // 2 if self.padding == "same" else 0

    def unpadded(self) -> "VolumeNetwork":
        """The same network, with the same parameters, as tiles are to be predicted.

        Where padding can be left out (see there), tiles are not computed where zeros would spoil
        them; else it is the network itself, and tiles lose their ``spoilt_margin``.
        """
        return self

    def check_input(self, x: Tensor) -> None:
        """Refuse an input (N, C, D, H, W) of a size that the network cannot take."""
        for size in x.shape[2:]:
            self.output_size(size)

    def output_size(self, input_size: int) -> int:
        """Voxels that leave, along one axis, for ``input_size`` voxels that enter."""
        size = self._trace(input_size)
        if size is None:
            raise ConfigError(
                f"the {self._title} cannot take an input of {input_size} voxels; nearest valid "
                f"sizes: {self._nearest(input_size)}"
            )
        return size

    def fitting(self, key: str, size: int) -> int:
        """A size that the key of a configuration asks for, or its refusal."""
        try:
            self.output_size(size)
        except ConfigError as error:
            raise ConfigError(f"{key}={size}: {error}") from None
        return size

    def valid_input_sizes(self, minimum: int, maximum: int) -> list[int]:
        """All sizes in [minimum, maximum] that the network can take, ascending."""
        return [n for n in range(max(1, minimum), maximum + 1) if self._trace(n) is not None]

    def input_size_for(self, output_size: int) -> int:
        """The smallest valid input size that gives at least ``output_size`` voxels."""
        size = max(1, output_size)
        while (got := self._trace(size)) is None or got < output_size:
            size += 1
        return size

    def _nearest(self, size: int) -> str:
        smallest = self.input_size_for(1)
        sizes = self.valid_input_sizes(smallest, max(size, smallest) + 2 * self.period)
        below = [n for n in sizes if n < size][-1:]
        above = [n for n in sizes if n > size][:1]
        return ", ".join(f"{n} (output {self._trace(n)})" for n in below + above)


def check_at_least(minimum: int, **values: int) -> None:
    """Refuse sizes of a backbone that are too small; keys are its configuration's."""
    for name, value in values.items():
        if value < minimum:
            raise ConfigError(f"backbone.{name} must be at least {minimum}, got {value}")
