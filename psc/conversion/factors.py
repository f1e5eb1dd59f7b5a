"""From a Conv3d's weights to those of the separable module, and back to one kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from psc.block.convolution import triple
from psc.block.stream import Merge, Triple, stream_channels
from psc.conversion.following import Link
from psc.conversion.layers import Geometry, SeparableConv3d, SeparableRun3d, exact_widths
from psc.decomposition import (
    Factorisation,
    StreamFactors,
    compose_chain,
    factorise_chain,
    factorise_streams,
    factorise_sum,
)
from psc.decomposition.streams import checked_layer, unfold_layer
from psc.errors import ConfigError

Initialisation = Literal["svd", "random"]


def separable_layer(
    layer: nn.Conv3d,
    widths: Sequence[int],
    *,
    init: Initialisation,
    merge: Merge,
    sweeps: int,
    activation: Callable[[], nn.Module] | None,
) -> SeparableConv3d:
    """The separable module in place of a Conv3d, with its options, dtype, device and mode.

    ``init="svd"`` is the nearest kernel of these widths (each group by itself, as groups are
    separate layers), bias included. Filters beyond the kernel's rank start with a random plane and
    a line of zeros: they change nothing yet, but learn. ``init="random"`` is PyTorch's own.

    Raises:
        ConfigError: if the kernel holds values that are not finite.
    """
    module = SeparableConv3d(
        layer.in_channels,
        layer.out_channels,
        triple(layer.kernel_size),
        widths=widths,
        stride=triple(layer.stride),
        padding=layer.padding if isinstance(layer.padding, str) else triple(layer.padding),
        dilation=triple(layer.dilation),
        groups=layer.groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        merge=merge,
        activation=activation,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
        initialise=init == "random",
    )
    if init == "svd":
        _fill(module, layer, sweeps)
    for name, parameter in module.named_parameters():
        if name.endswith("line.bias"):
            assert layer.bias is not None
            parameter.requires_grad_(layer.bias.requires_grad)
        elif name.endswith(("plane.weight", "line.weight")):
            parameter.requires_grad_(layer.weight.requires_grad)
    return module.train(layer.training)


@torch.no_grad()
def composed_weight(module: SeparableConv3d) -> Tensor:
    """The kernel (out, in / groups, kD, kH, kW) that a separable module without activation has.

    Half precision is computed, and returned, in float32.
    """
    weights = []
    for axis, pair in enumerate(module.convolutions()):
        plane, line = (in_full(conv.weight).chunk(module.groups) for conv in pair)
        parts = zip(plane, line, strict=True)
        weights.append(torch.cat([StreamFactors(axis, (p,), q).weight() for p, q in parts]))
    if module.channel_order is not None:
        return torch.cat(weights)[module.channel_order]
    total = weights[0]
    for weight in weights[1:]:
        total = total + weight
    return total


def composed_bias(module: SeparableConv3d) -> Tensor | None:
    """(out,) in the result's order of channels, or None."""
    biases = [line.bias for _, line in module.convolutions() if line.bias is not None]
    if not biases:
        return None
    bias = torch.cat([b.detach() for b in biases])
    return bias if module.channel_order is None else bias[module.channel_order]


@torch.no_grad()
def kernel_error(layer: nn.Conv3d, module: SeparableConv3d) -> float:
    """‖W − its replacement‖ / ‖W‖ as stored, rounding included; what stands between is ignored."""
    return relative_difference(in_full(layer.weight), composed_weight(module))


def relative_difference(weight: Tensor, other: Tensor) -> float:
    """‖weight − other‖ / ‖weight‖; without the division if that is zero."""
    difference = (weight - other).norm()
    return float(difference / weight.norm()) if weight.any() else float(difference)


@torch.no_grad()
def _fill(module: SeparableConv3d, layer: nn.Conv3d, sweeps: int) -> None:
    m, groups = len(module.widths), module.groups
    per_group = module.out_channels // groups
    counts = stream_channels(per_group, m, module.merge)
    kernels = layer.weight.detach().chunk(groups)
    exact = exact_widths(layer, m, module.merge)[: 1 if module.merge == "sum" else m]
    if all(width >= most for width, most in zip(module.widths, exact, strict=False)):
        parts = [_exact_factors(checked_layer(kernel), counts, module.merge) for kernel in kernels]
    else:
        width = max(module.widths)
        parts = [_factorise(kernel, m, width, module.merge, sweeps) for kernel in kernels]
    for s, (plane, line) in enumerate(module.convolutions()):
        factors = [part.streams[s] for part in parts if s < len(part.streams)]
        _copy_filters(plane, line, factors, groups, module.widths[s])
    if module.channel_order is not None:
        shared = [torch.split(part.order, counts) for part in parts]  # by group, then by stream
        order = [shared[g][s] + g * per_group for s in range(m) for g in range(groups)]
        module.channel_order.copy_(torch.cat(order).argsort())
    bias = None if layer.bias is None else layer.bias.detach()
    share_bias([line for _, line in module.convolutions()], bias, module.channel_order)


@torch.no_grad()
def share_bias(lines: Sequence[nn.Conv3d], bias: Tensor | None, order: Tensor | None) -> None:
    """Give every 1D convolution that has a bias its channels' part of the layer's.

    Args:
        lines: of all streams.
        bias: (out,) in the layer's order of channels; None: 0.
        order: ``ParallelStreams.channel_order``.
    """
    if bias is not None and order is not None:
        bias = bias[order.argsort()]
    for line in lines:
        if line.bias is None:
            continue
        if bias is None:
            line.bias.zero_()
        else:
            line.bias.copy_(bias[: line.out_channels])
            bias = bias[line.out_channels :]


def _factorise(kernel: Tensor, m: int, width: int, merge: Merge, sweeps: int) -> Factorisation:
    if merge == "sum":
        return factorise_sum(kernel, m, width, sweeps)
    return factorise_streams(kernel, m, width)


def _exact_factors(kernel: Tensor, counts: Sequence[int], merge: Merge) -> Factorisation:
    """Streams wide enough for the whole kernel, to the last bit and without an SVD.

    The longer side of the unfolding (``psc.decomposition.parallel``) is one factor, the other
    copies. Any sharing out of channels is exact; where streams are summed, the first does it all.
    """
    shares = [kernel] if merge == "sum" else list(torch.split(kernel, list(counts)))
    streams = []
    for axis, share in enumerate(shares):
        out, channels = share.shape[:2]
        taps = share.shape[2 + axis]
        rows = unfold_layer(share, axis).flatten(0, 1)  # (out · k, in · plane)
        wide = rows.shape[0] <= rows.shape[1]
        identity = torch.eye(min(rows.shape), dtype=kernel.dtype, device=kernel.device)
        filters, lines = (rows, identity) if wide else (identity, rows)
        plane_shape, line_shape = list(share.shape[2:]), [1, 1, 1]
        plane_shape[axis], line_shape[axis] = 1, taps
        plane = filters.reshape(-1, channels, *plane_shape)
        line = lines.reshape(out, taps, -1).mT.reshape(out, -1, *line_shape)
        streams.append(StreamFactors(axis, (plane,), line))
    order = torch.arange(kernel.shape[0], device=kernel.device)
    return Factorisation(tuple(streams), merge, order, kernel.new_zeros(()))


def _copy_filters(
    plane: nn.Conv3d, line: nn.Conv3d, factors: Sequence[StreamFactors], groups: int, width: int
) -> None:
    """Copy every group's filters; a group's missing ones stay random in the plane, zero in 1D."""
    if not factors or factors[0].plane.shape[0] < width:
        plane.reset_parameters()
    line.weight.zero_()
    parts = (plane.weight.chunk(groups), line.weight.chunk(groups), factors)
    for filters, lines, factor in zip(*parts, strict=False):  # none: a stream that a sum needs not
        known = factor.plane.shape[0]
        filters[:known] = factor.plane
        lines[:, :known] = factor.line


def in_full(weight: Tensor) -> Tensor:
    """A parameter's values in float32 or float64, without gradient."""
    weight = weight.detach()
    return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()


# ----------------------------------------
# From the weights of consecutive Conv3d to those of the one block in their place.


@dataclass(frozen=True)
class ComposedLayers:
    """Consecutive layers, with affine maps in place of what stands between them.

    Attributes:
        weights: (out, in, kD, kH, kW) of each, float32 or float64; each but the first also does
            what the map before it does.
        strides: of each.
        bias: (out,) of all together, away from padded borders; None without any.
    """

    weights: tuple[Tensor, ...]
    strides: tuple[Triple, ...]
    bias: Tensor | None


@torch.no_grad()
def composed_layers(layers: Sequence[nn.Conv3d], links: Sequence[Link]) -> ComposedLayers:
    """Fold the maps between layers into the weights after them.

    Args:
        layers: first to last.
        links: from each layer but the last to the next.
    """
    weights = [in_full(layer.weight) for layer in layers]
    biases = [None if layer.bias is None else in_full(layer.bias) for layer in layers]
    constant = biases[0]
    for i, link in enumerate(links, start=1):
        slope, offset = link.slope.to(weights[i]), link.offset.to(weights[i])
        entering = offset if constant is None else slope * constant + offset
        constant = weights[i].sum((2, 3, 4)) @ entering
        if (own := biases[i]) is not None:
            constant = constant + own
        weights[i] = weights[i] * slope[:, None, None, None]
    strides = tuple(triple(layer.stride) for layer in layers)
    return ComposedLayers(tuple(weights), strides, constant)


def separable_run(
    layers: Sequence[nn.Conv3d],
    links: Sequence[Link],
    widths: Sequence[int],
    *,
    init: Initialisation,
    merge: Merge,
    sweeps: int,
    activation: Callable[[], nn.Module] | None,
) -> SeparableRun3d:
    """The block in place of consecutive Conv3d, with the first one's dtype, device and mode.

    ``init="svd"`` starts from the layers' composition (``factorise_chain``), with the affine maps
    of ``links`` in place of what stood between them. ``init="random"`` is PyTorch's own and needs
    no links.

    Raises:
        ConfigError: if a kernel holds values that are not finite.
    """
    first, last = layers[0], layers[-1]
    module = SeparableRun3d(
        first.in_channels,
        last.out_channels,
        [Geometry.of(layer) for layer in layers],
        widths=widths,
        # A norm between the layers gives even layers without a bias a constant to add.
        bias=any(layer.bias is not None for layer in layers) or bool(links),
        merge=merge,
        activation=activation,
        device=first.weight.device,
        dtype=first.weight.dtype,
        initialise=init == "random",
    )
    if init == "svd":
        _fill_run_factors(module, composed_layers(layers, links), sweeps)
    for parameter in module.parameters():
        parameter.requires_grad_(any(layer.weight.requires_grad for layer in layers))
    return module.train(first.training)


@torch.no_grad()
def composed_run_weight(module: SeparableRun3d) -> Tensor:
    """The kernel (out, in, kD, kH, kW) of a block without activation, away from padded borders.

    Half precision is computed, and returned, in float32.
    """
    strides = tuple(layer.stride for layer in module.layers)
    weights = []
    for axis in range(len(module.widths)):
        planes = tuple(in_full(plane.weight) for plane in module.planes(axis))
        line = in_full(module.line(axis).weight)
        weights.append(StreamFactors(axis, planes, line, strides).weight())
    if module.channel_order is not None:
        return torch.cat(weights)[module.channel_order]
    return torch.stack(weights).sum(0)


def run_error(composed: ComposedLayers, module: SeparableRun3d) -> float:
    """‖W − the block's kernel‖ / ‖W‖ of the composed kernel; activations are ignored."""
    whole = compose_chain(composed.weights, composed.strides)
    return relative_difference(whole, composed_run_weight(module))


@torch.no_grad()
def _fill_run_factors(module: SeparableRun3d, composed: ComposedLayers, sweeps: int) -> None:
    if not all(bool(torch.isfinite(link).all()) for link in composed.weights):
        raise ConfigError(
            "the composition with the layers that follow it holds values that are not finite"
        )
    found = factorise_chain(
        composed.weights,
        len(module.widths),
        module.widths[0],
        strides=composed.strides,
        merge=module.merge,
        sweeps=sweeps,
    )
    for s, factors in enumerate(found.streams):
        _copy_stack(module.planes(s), module.line(s), factors)
    if module.channel_order is not None:
        module.channel_order.copy_(found.order.argsort())
    lines = [module.line(s) for s in range(len(module.widths))]
    share_bias(lines, composed.bias, module.channel_order)


def _copy_stack(planes: Sequence[nn.Conv3d], line: nn.Conv3d, factors: StreamFactors) -> None:
    """Copy a stream's filters; missing ones stay random, and nothing reads them yet."""
    for plane, weight in zip(planes, factors.planes, strict=True):
        filters, channels = weight.shape[:2]
        if plane.weight.shape[:2] != weight.shape[:2]:
            plane.reset_parameters()
        plane.weight[:filters, channels:] = 0
        plane.weight[:filters, :channels] = weight
        if plane.bias is not None:
            plane.bias.zero_()
    line.weight.zero_()
    line.weight[:, : factors.line.shape[1]] = factors.line
