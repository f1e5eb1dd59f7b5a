"""M of every stream of one layer: Eq. 5 for kernels of any shape, a number, or exact."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from psc.convolutions import AXES
from psc.errors import ConfigError
from psc.streams import Merge, stream_channels
from psc.widths import MINIMUM_WIDTH, stream_width

Width = int | Literal["eq5"] | Callable[[str, nn.Conv3d], int] | None


def layer_widths(
    name: str,
    layer: nn.Conv3d,
    m: int,
    merge: Merge,
    width: Width,
    *,
    maximum: int | None,
    linear: bool,
) -> tuple[int, ...]:
    """M of each stream, in filters per group of the layer.

    Args:
        name: the layer's, handed to a callable ``width``.
        layer: what is converted.
        m: number of streams.
        merge: how they are merged.
        width: "eq5"; a number; a function of name and layer; or None, for as many filters as make
            the stream exact.
        maximum: cap of what Eq. 5 gives.
        linear: whether nothing stands between 2D and 1D convolution. Then filters beyond the exact
            number would be zero for good, and are left out.

    Raises:
        ConfigError: if a given width is no whole number from 1 on.
    """
    exact = exact_widths(layer, m, merge)
    if width is None:
        return exact
    chosen = _chosen(name, layer, layer.out_channels, m, width, maximum)
    return tuple(min(chosen, most) if linear else chosen for most in exact)


def run_width(
    names: Sequence[str],
    layers: Sequence[nn.Conv3d],
    m: int,
    width: Width,
    *,
    maximum: int | None,
) -> int:
    """M of all 2D convolutions of a block that stands for several layers.

    By Eq. 5 it is that of one layer from the first one's input to the last one's output, as in
    ``psc.segments``.

    Args:
        names: of the layers; a callable ``width`` is handed the first one and its layer.
        layers: first to last, each with one group.
        m: number of streams.
        width: "eq5", a number, or a function of name and layer.
        maximum: cap of what Eq. 5 gives.

    Raises:
        ConfigError: for None, and if a given width is no whole number from 1 on.
    """
    if width is None:
        raise ConfigError(
            "width=None, exact, is for n=1: several layers together have no width of which a "
            "block is exact, give 'eq5' or a number"
        )
    return _chosen(names[0], layers[0], layers[-1].out_channels, m, width, maximum)


def _chosen(
    name: str,
    layer: nn.Conv3d,
    out_channels: int,
    m: int,
    width: int | Literal["eq5"] | Callable[[str, nn.Conv3d], int],
    maximum: int | None,
) -> int:
    if width == "eq5":
        return _eq5(layer, out_channels, m, maximum)
    given = width(name, layer) if callable(width) else width
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise ConfigError(f"width must be a whole number from 1 on, got {given!r} for {name}")
    return given


def exact_widths(layer: nn.Conv3d, m: int, merge: Merge) -> tuple[int, ...]:
    """The M per group from which on each stream has any kernel for its channels exactly."""
    volume = _volume(layer)
    channels, per_group = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    counts = stream_channels(per_group, m, merge)
    return tuple(
        min(channels * volume // layer.kernel_size[s], layer.kernel_size[s] * counts[s])
        for s in range(m)
    )


def _eq5(layer: nn.Conv3d, out_channels: int, m: int, maximum: int | None) -> int:
    """Eq. 5 by ``psc.widths`` for cubic kernels without groups; its idea for the others.

    The idea: one stream has as many weights as the 3D layer (of one group). Where the kernel is
    not cubic that depends on the axis, and we take the mean of the m axes. Groups have no smallest
    width: with the published 3, a depthwise layer would have more weights than before.
    """
    sizes = layer.kernel_size
    channels, filters = layer.in_channels // layer.groups, out_channels // layer.groups
    if layer.groups == 1 and len(set(sizes)) == 1:
        return stream_width(channels, filters, m, kernel_size=sizes[0], maximum=maximum)
    volume = _volume(layer)
    axes = range(min(m, AXES))
    per_filter = sum(channels * volume // sizes[a] + sizes[a] * filters for a in axes)
    least = MINIMUM_WIDTH if layer.groups == 1 else 1
    width = max(least, volume * channels * filters * len(axes) // per_filter) // m
    return max(1, width if maximum is None else min(width, maximum))


def _volume(layer: nn.Conv3d) -> int:
    d, h, w = layer.kernel_size
    return d * h * w
