"""Where tiles lie: sizes, offsets and reflected borders, axis by axis, without any network.

A network with valid convolutions turns an input of n voxels into fewer; tiles of its output must
cover a region without gaps. With pooling it commutes only with shifts by multiples of its period
(2 ** number of poolings): a tile at any other offset pools other groups of voxels and predicts
other values. So tiles step by multiples of the period, counted from the region's first voxel, and
the last tile sticks out of the region instead of being shifted back into it.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError

__all__ = ["Size3", "TileableNetwork", "reflected_indices", "tile_offsets", "tile_sizes"]

Size3 = tuple[int, int, int]
"""Voxels along z, y and x."""


class TileableNetwork(Protocol):
    """What a network must tell about one axis, the same for all three."""

    @property
    def period(self) -> int:
        """Shifts by multiples of this number of voxels commute with the network."""

    def output_size(self, input_size: int, /) -> int:
        """Voxels of the output; ValueError if the network cannot take this input size."""

    def valid_input_sizes(self, minimum: int, maximum: int, /) -> list[int]:
        """All input sizes in [minimum, maximum] that the network can take."""


def tile_offsets(region_size: int, tile_output: int, period: int) -> list[int]:
    """First output voxel of each tile along one axis, relative to the region.

    Args:
        region_size: voxels to cover.
        tile_output: voxels that one tile predicts.
        period: offsets are multiples of it.

    Returns:
        Ascending offsets, from 0; the last tile may reach beyond the region.

    Raises:
        ConfigError: several tiles are needed, and a tile is shorter than the period.
    """
    if tile_output >= region_size:
        return [0]
    step = tile_output // period * period
    if step == 0:
        raise ConfigError(
            f"a tile predicts {tile_output} voxels, fewer than the network's period {period}, and"
            f" cannot be moved without a gap over {region_size} voxels; take a larger tile"
        )
    return list(range(0, region_size - tile_output + step, step))


def tile_sizes(
    network: TileableNetwork,
    region_shape: Size3,
    maximum_input: int | Size3,
    *,
    margin: int = 0,
) -> tuple[Size3, Size3]:
    """The tile that covers a region with the fewest computed voxels.

    Voxels computed = product over the axes of (tiles along it) × (input size), so that every axis
    is chosen alone. Among equals the smaller tile is taken, as it needs less memory.

    Args:
        network: see ``TileableNetwork``.
        region_shape: voxels to predict along z, y, x.
        maximum_input: largest input size that fits into memory, for all axes or for each.
        margin: output voxels to discard at either side; for networks with "same" padding, whose
            output is wrong near the border.

    Returns:
        (tile_input, tile_output): sizes along z, y, x of a tile's input, and of its prediction
        without the margins.

    Raises:
        ConfigError: no input size up to the maximum can cover the region.
    """
    limits = (maximum_input,) * 3 if isinstance(maximum_input, int) else maximum_input
    axes = [
        _cheapest_tile(network, size, limit, margin)
        for size, limit in zip(region_shape, limits, strict=True)
    ]
    (z_in, z_out), (y_in, y_out), (x_in, x_out) = axes
    return (z_in, y_in, x_in), (z_out, y_out, x_out)


def reflected_indices(start: int, stop: int, size: int) -> npt.NDArray[np.intp]:
    """Where the voxels start..stop-1 of an axis lie once the axis is continued by reflection.

    As ``numpy.pad(mode="reflect")``: the outermost voxel is not repeated, and where the axis is
    shorter than the padding, the reflection is reflected again. An axis of one voxel repeats it.

    Args:
        start: first voxel, may be negative.
        stop: one past the last voxel, may exceed ``size``.
        size: voxels that exist.

    Returns:
        Indices (stop - start), all in [0, size).
    """
    if size == 1:
        return np.zeros(stop - start, dtype=np.intp)
    folded = np.arange(start, stop, dtype=np.intp) % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)


def _cheapest_tile(
    network: TileableNetwork, region_size: int, maximum_input: int, margin: int
) -> tuple[int, int]:
    best: tuple[int, int, int] | None = None
    for input_size in network.valid_input_sizes(1, maximum_input):
        output_size = network.output_size(input_size) - 2 * margin
        if output_size < 1 or (output_size < region_size and output_size < network.period):
            continue
        tiles = len(tile_offsets(region_size, output_size, network.period))
        best = min(
            best or (tiles * input_size, input_size, output_size),
            (tiles * input_size, input_size, output_size),
        )
    if best is None:
        raise ConfigError(
            f"no input of up to {maximum_input} voxels lets the network predict {region_size}"
            f" voxels (margin {margin}); valid sizes: {network.valid_input_sizes(1, maximum_input)}"
        )
    return best[1], best[2]
