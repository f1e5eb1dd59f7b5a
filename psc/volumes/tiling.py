"""Dense prediction over a volume, tile by tile, equal to one pass over the whole.

The context that a network with valid convolutions consumes is read from the volume, also beyond
the predicted region, and reflected only beyond the volume itself. With pooling such a network
commutes only with shifts by multiples of its period (2 ** number of poolings): a tile at any other
offset pools other groups of voxels and predicts other values. So tiles step by multiples of the
period, counted from the region's first voxel, and the last tile sticks out of the region instead
of being shifted back into it.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from psc.errors import ConfigError, DataError
from psc.volumes.metadata import Size3, size3

_Float32 = npt.NDArray[np.float32]
_Box = tuple[slice, slice, slice]


class TileableNetwork(Protocol):
    """What a network must tell about one axis, the same for all three."""

    @property
    def period(self) -> int:
        """Shifts by multiples of this number of voxels commute with the network."""

    def output_size(self, input_size: int, /) -> int:
        """Voxels of the output; ValueError if the network cannot take this input size."""

    def valid_input_sizes(self, minimum: int, maximum: int, /) -> list[int]:
        """All input sizes in [minimum, maximum] that the network can take."""


def size_triple(size: int | Sequence[int], name: str) -> Size3:
    """A patch size as (z, y, x), given as such or as one number for all."""
    sizes = tuple(size) if isinstance(size, Sequence) else (size,) * 3
    if len(sizes) != 3 or not all(type(n) is int and n > 0 for n in sizes):
        raise ConfigError(f"{name}={size}: must be one or three positive integers (z, y, x)")
    return size3(sizes)


def tile_offsets(region_size: int, tile_output: int, period: int) -> list[int]:
    """First output voxel of each tile along an axis, from 0; the last tile may stick out."""
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
    network: TileableNetwork, region_shape: Size3, maximum_input: int, *, margin: int = 0
) -> tuple[Size3, Size3]:
    """The tiles that cover a region with the fewest computed voxels: tiles times input voxels.

    They take the region's form: a slab gets flat, wide tiles. Among equals the smaller tile is
    taken, as it needs less memory. ``maximum_input`` is the edge of the largest cube that fits into
    memory; tiles of other forms have no more voxels, and are at most twice as long. ``margin``
    output voxels are discarded at either side, for networks with "same" padding, whose output is
    wrong near the border. Returns a tile's input, and its prediction without the margins.
    """
    choices = [_tile_choices(network, size, 2 * maximum_input, margin) for size in region_shape]
    best: tuple[int, int, tuple[_Choice, ...]] | None = None
    for axes in itertools.product(*choices):
        voxels = math.prod(axis.input_size for axis in axes)
        if voxels <= maximum_input**3:
            computed = voxels * math.prod(axis.tiles for axis in axes)
            best = min(best or (computed, voxels, axes), (computed, voxels, axes))
    if best is None:
        raise ConfigError(
            f"no input of up to {maximum_input} voxels lets the network predict {region_shape}"
            f" voxels (margin {margin}); valid sizes: {network.valid_input_sizes(1, maximum_input)}"
        )
    return size3(axis.input_size for axis in best[2]), size3(axis.output_size for axis in best[2])


class _Choice(NamedTuple):
    """So many tiles of a size along one axis."""

    tiles: int
    input_size: int
    output_size: int


def _tile_choices(
    network: TileableNetwork, region_size: int, maximum_input: int, margin: int
) -> list[_Choice]:
    """The smallest tile for each number of tiles that can cover an axis."""
    choices: list[_Choice] = []
    for input_size in network.valid_input_sizes(1, maximum_input):
        output_size = network.output_size(input_size) - 2 * margin
        if output_size < 1 or (output_size < region_size and output_size < network.period):
            continue
        tiles = len(tile_offsets(region_size, output_size, network.period))
        if not choices or tiles < choices[-1].tiles:
            choices.append(_Choice(tiles, input_size, output_size))
    return choices


def reflected_indices(start: int, stop: int, size: int) -> npt.NDArray[np.intp]:
    """Where voxels start..stop-1 of an axis of ``size`` lie once it is continued by reflection.

    As ``numpy.pad(mode="reflect")``: the outermost voxel is not repeated, and where the axis is
    shorter than the padding, the reflection is reflected again. An axis of one voxel repeats it.
    """
    if size == 1:
        return np.zeros(stop - start, dtype=np.intp)
    folded = np.arange(start, stop, dtype=np.intp) % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)


def read_reflected(raw: Any, start: Size3, shape: Size3) -> npt.NDArray[Any]:
    """A window (…, *shape) of a volume, continued beyond its border by ``reflected_indices``.

    One contiguous box is read, whatever the reflection: files are slow at anything else. Of an
    array in memory the window is a view where it lies inside.
    """
    wanted = [
        reflected_indices(first, first + length, extent)
        for first, length, extent in zip(start, shape, raw.shape[-3:], strict=True)
    ]
    box = tuple(slice(int(w.min()), int(w.max()) + 1) for w in wanted)
    window = np.asarray(raw[(..., *box)])
    for axis, (indices, part) in enumerate(zip(wanted, box, strict=True), start=-3):
        if not np.array_equal(indices, np.arange(part.start, part.stop)):
            window = window.take(indices - part.start, axis=axis)
    return window


def predict_volume(
    predict: Callable[[Tensor], Tensor],
    raw: Any,
    *,
    tile_input: Size3,
    tile_output: Size3,
    period: int,
    region: _Box | None = None,
    prepare: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> _Float32:
    """Predict every voxel of a region of a volume.

    The result does not depend on the tile size: it equals, up to rounding, the prediction of the
    whole region at once, provided that the network's output depends on its input alone (valid
    convolutions, or "same" padding with ``tile_output`` small enough to drop what padding spoils)
    and commutes with shifts by ``period``. The period counts from the region's first voxel.

    Args:
        predict: (N, C, *tile_input) float32 on ``device`` → (N, K, d, h, w). If d, h, w exceed
            ``tile_output``, the centre is taken. Put a module into evaluation mode first; apply
            the sigmoid and autocast inside.
        raw: volume (D, H, W) or (C, D, H, W): an array, or anything that slices like one, such as
            an HDF5 dataset; it is read tile by tile.
        tile_input: z, y, x voxels that enter the network.
        tile_output: z, y, x voxels that are used of its output; see ``tile_sizes``.
        period: 2 ** number of poolings of the network; 1 without pooling.
        region: slices along z, y, x of what to predict, without steps; None = all.
        prepare: applied to every tile's input (C, *tile_input), in the dtype of ``raw``, such as
            ``lambda tile: tile / np.float32(255)``. None is for volumes that are floats already.
        device: where the network is.
        batch_size: N, tiles per call.
        progress: called after every batch with the numbers of finished and of all tiles.

    Returns:
        float32 (K, *region).

    Raises:
        DataError: the volume has other dimensions, the region is not inside it, or integers come
            without ``prepare``.
        ConfigError: sizes are impossible, or the network returns others than promised.
    """
    _check_sizes(tile_input, tile_output, period, batch_size)
    if len(raw.shape) not in (3, 4) or 0 in raw.shape:
        raise DataError(f"raw must have shape (D, H, W) or (C, D, H, W), found {raw.shape}")
    if prepare is None and np.dtype(raw.dtype).kind != "f":
        raise DataError(
            f"raw is {raw.dtype}, and nothing says how it becomes what the network was trained on;"
            " pass prepare=, such as lambda tile: tile / np.float32(255)"
        )
    bounds = _bounds(region, raw.shape[-3:])
    tiles = _tiles(bounds, tile_input, tile_output, period)
    result: _Float32 | None = None
    done = 0
    for first in range(0, len(tiles), batch_size):
        batch = tiles[first : first + batch_size]
        windows = []
        for tile in batch:
            window = read_reflected(raw, size3(start for start, _ in tile), tile_input)
            window = window[np.newaxis] if window.ndim == 3 else window
            windows.append(window if prepare is None else prepare(window))
        inputs = np.stack(windows, dtype=np.float32, casting="unsafe")
        with torch.inference_mode():
            outputs = predict(torch.from_numpy(inputs).to(device))
            predicted = _centre(outputs, len(batch), tile_output).float().cpu().numpy()
        if result is None:  # only now is it known how many channels there are
            sizes = (stop - start for start, stop in bounds)
            result = np.empty((predicted.shape[1], *sizes), np.float32)
        for tile, values in zip(batch, predicted, strict=True):
            d, h, w = (target.stop - target.start for _, target in tile)
            result[(slice(None), *(target for _, target in tile))] = values[:, :d, :h, :w]
        done += len(batch)
        if progress is not None:
            progress(done, len(tiles))
    assert result is not None  # there is a tile
    return result


def _check_sizes(tile_input: Size3, tile_output: Size3, period: int, batch_size: int) -> None:
    if period < 1 or batch_size < 1:
        raise ConfigError(
            f"period and batch_size must be at least 1, found {period} and {batch_size}"
        )
    pairs = list(zip(tile_input, tile_output, strict=True))
    if len(pairs) != 3 or any(o < 1 or i < o or (i - o) % 2 for i, o in pairs):
        raise ConfigError(
            "tile_input must exceed tile_output by the same number of voxels on both sides of each"
            f" of three axes, found {tile_input} and {tile_output}"
        )


def _bounds(region: _Box | None, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and one past the last voxel of the region along each axis."""
    axes = region or (slice(None),) * 3
    if len(axes) != 3:
        raise DataError(f"region must be three slices (z, y, x), found {region}")
    bounds = []
    for axis, size in zip(axes, shape, strict=True):
        start = 0 if axis.start is None else axis.start
        stop = size if axis.stop is None else axis.stop
        if axis.step not in (None, 1) or not 0 <= start < stop <= size:
            raise DataError(
                f"region {region} is not a block of voxels inside the volume {tuple(shape)}"
            )
        bounds.append((start, stop))
    return bounds


def _tiles(
    bounds: list[tuple[int, int]], tile_input: Size3, tile_output: Size3, period: int
) -> list[tuple[tuple[int, slice], ...]]:
    """By axis: where a tile's input begins in the volume, and what it fills of the result."""
    axes = []
    for (start, stop), size_in, size_out in zip(bounds, tile_input, tile_output, strict=True):
        offsets = tile_offsets(stop - start, size_out, period)
        context = (size_in - size_out) // 2
        # Outputs may overlap, by less than a period; each voxel is written once.
        ends = [*offsets[1:], stop - start]
        targets = map(slice, offsets, ends)
        axes.append([(start + part.start - context, part) for part in targets])
    return list(itertools.product(*axes))


def _centre(outputs: Tensor, tiles: int, tile_output: Size3) -> Tensor:
    """The middle (N, K, *tile_output) of what the network returned."""
    surplus = [got - used for got, used in zip(outputs.shape[2:], tile_output, strict=False)]
    if outputs.ndim != 5 or outputs.shape[0] != tiles or any(s < 0 or s % 2 for s in surplus):
        raise ConfigError(
            f"the network returned {tuple(outputs.shape)} for {tiles} tiles; expected (tiles, K,"
            f" d, h, w) with d, h, w equal to tile_output {tile_output} or larger by the same"
            " number of voxels on both sides"
        )
    for axis, (extra, used) in enumerate(zip(surplus, tile_output, strict=True), start=2):
        outputs = outputs.narrow(axis, extra // 2, used)
    return outputs
