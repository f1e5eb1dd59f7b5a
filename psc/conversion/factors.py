"""From the weights of Conv3d to those of the separable module in their place, and back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from psc.block.block import Merge, stream_channels
from psc.block.convolution import Triple, triple
from psc.conversion.layers import Geometry, SeparableConv3d, exact_widths, uninitialised
from psc.conversion.watching import Link
from psc.decomposition import Factorisation, StreamFactors, compose_chain, factorise_chain
from psc.decomposition.streams import checked_layer, stream_of, unfold_layer
from psc.errors import ConfigError

Initialisation = Literal["svd", "random"]


def separable(
    layers: Sequence[nn.Conv3d],
    links: Sequence[Link],
    widths: Sequence[int],
    *,
    init: Initialisation,
    merge: Merge,
    sweeps: int,
    activation: Callable[[], nn.Module] | None,
) -> SeparableConv3d:
    """The module in place of consecutive Conv3d, with the first one's dtype, device and mode.

    ``init="svd"`` is the nearest kernel of these widths (each group by itself, as groups are
    separate layers), bias included; of several layers the nearest to their composition, with the
    affine maps of ``links`` in place of what stood between. Filters beyond the kernel's rank start
    with a random plane and a line of zeros: they change nothing yet, but learn. ``init="random"``
    is PyTorch's own and needs no links.
    """
    first, last = layers[0], layers[-1]
    module = SeparableConv3d(
        first.in_channels,
        last.out_channels,
        [Geometry.of(layer) for layer in layers],
        widths=widths,
        # What stands between layers gives even those without a bias a constant to add.
        bias=first.bias is not None or len(layers) > 1,
        merge=merge,
        activation=activation,
        device=first.weight.device,
        dtype=first.weight.dtype,
        initialise=init == "random",
    )
    if init == "svd":
        _fill(module, first, composed_layers(layers, links), sweeps)
    learns = any(layer.weight.requires_grad for layer in layers)
    for name, parameter in module.named_parameters():
        alone = first.bias if len(layers) == 1 and name.endswith("line.bias") else None
        parameter.requires_grad_(learns if alone is None else alone.requires_grad)
    return module.train(first.training)


@dataclass(frozen=True)
class ComposedLayers:
    """Consecutive layers, with affine maps in place of what stands between them.

    Each weight (out, in / groups, kD, kH, kW), float32 or float64, also does what the map before it
    does; ``bias`` (out,) is that of all together, away from padded borders.
    """

    weights: tuple[Tensor, ...]
    strides: tuple[Triple, ...]
    bias: Tensor | None

    def error(self, module: SeparableConv3d) -> float:
        """‖W − the module's kernel‖ / ‖W‖ as stored, rounding included; activations are ignored."""
        weight = compose_chain(self.weights, self.strides)
        difference = (weight - composed_weight(module)).norm()
        return float(difference / weight.norm()) if weight.any() else float(difference)


@torch.no_grad()
def composed_layers(layers: Sequence[nn.Conv3d], links: Sequence[Link]) -> ComposedLayers:
    """Fold the maps from each layer to the next into the weights after them."""
    weights = [_in_full(layer.weight) for layer in layers]
    biases = [None if layer.bias is None else _in_full(layer.bias) for layer in layers]
    constant = biases[0]
    for i, link in enumerate(links, start=1):
        slope, offset = link.slope.to(weights[i]), link.offset.to(weights[i])
        entering = offset if constant is None else slope * constant + offset
        constant = weights[i].sum((2, 3, 4)) @ entering
        if (own := biases[i]) is not None:
            constant = constant + own
        weights[i] = weights[i] * slope[:, None, None, None]
    return ComposedLayers(tuple(weights), tuple(triple(layer.stride) for layer in layers), constant)


@torch.no_grad()
def composed_weight(module: SeparableConv3d) -> Tensor:
    """The kernel (out, in / groups, kD, kH, kW) that a module of ``convert`` has.

    Activations between its convolutions are ignored; of a module for several layers it is the
    kernel away from padded borders. Half precision is computed, and returned, in float32.
    """
    strides = tuple(layer.stride for layer in module.layers)
    weights = []
    for axis in range(len(module.widths)):
        convolutions = (*module.planes(axis), module.line(axis))
        of_groups = zip(
            *(_in_full(conv.weight).chunk(module.groups) for conv in convolutions), strict=True
        )
        parts = [StreamFactors(axis, tuple(own[:-1]), own[-1], strides) for own in of_groups]
        weights.append(torch.cat([part.weight() for part in parts]))
    if module.channel_order is not None:
        return torch.cat(weights)[module.channel_order]
    return torch.stack(weights).sum(0)


def merged(module: SeparableConv3d) -> nn.Conv3d:
    """The Conv3d that a linear module for one layer equals."""
    plane, lines = module.planes(0)[0], [module.line(s) for s in range(len(module.widths))]
    (layer,), bias = module.layers, None
    biases = [line.bias.detach() for line in lines if line.bias is not None]
    if biases:
        bias = torch.cat(biases)
        bias = bias if module.channel_order is None else bias[module.channel_order]
    conv = uninitialised(
        module.in_channels,
        module.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=bias is not None,
        padding_mode=layer.padding_mode,
        device=plane.weight.device,
        dtype=plane.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(composed_weight(module))
        conv.weight.requires_grad_(plane.weight.requires_grad)
        if conv.bias is not None and bias is not None and lines[0].bias is not None:
            conv.bias.copy_(bias)
            conv.bias.requires_grad_(lines[0].bias.requires_grad)
    return conv.train(module.training)


@torch.no_grad()
def _fill(module: SeparableConv3d, first: nn.Conv3d, composed: ComposedLayers, sweeps: int) -> None:
    m, merge, groups = len(module.widths), module.merge, module.groups
    if not all(bool(torch.isfinite(weight).all()) for weight in composed.weights):
        raise ConfigError("a kernel holds values that are not finite: its training has diverged")
    per_group = module.out_channels // groups
    counts = stream_channels(per_group, m, merge)
    exact = exact_widths(first, m, merge)[: 1 if merge == "sum" else m]
    wide = zip(module.widths, exact, strict=False)
    if module.n == 1 and all(width >= most for width, most in wide):
        kernels = composed.weights[0].chunk(groups)
        parts = [_exact_factors(checked_layer(kernel), counts, merge) for kernel in kernels]
    else:
        fit = partial(factorise_chain, strides=composed.strides, merge=merge, sweeps=sweeps)
        of_groups = zip(*(w.chunk(groups) for w in composed.weights), strict=True)
        parts = [fit(weights, m, max(module.widths)) for weights in of_groups]
    for s in range(m):
        # None where a sum is exact without this stream.
        factors = [part.streams[s] for part in parts if s < len(part.streams)]
        _copy(module.planes(s), module.line(s), factors, groups)
    if module.channel_order is not None:
        shared = [torch.split(part.order, counts) for part in parts]  # by group, then by stream
        order = [shared[g][s] + g * per_group for s in range(m) for g in range(groups)]
        module.channel_order.copy_(torch.cat(order).argsort())
    bias = composed.bias
    if bias is not None and module.channel_order is not None:
        bias = bias[module.channel_order.argsort()]
    for line in (module.line(s) for s in range(m)):
        if line.bias is not None:
            line.bias.copy_(line.bias.new_zeros(()) if bias is None else bias[: line.out_channels])
            bias = None if bias is None else bias[line.out_channels :]


def _copy(
    planes: Sequence[nn.Conv3d], line: nn.Conv3d, factors: Sequence[StreamFactors], groups: int
) -> None:
    """Copy a stream's filters by group; missing ones stay random in planes, zero in the line."""
    for i, plane in enumerate(planes):
        if not factors or factors[0].planes[i].shape[:2] != plane.weight.chunk(groups)[0].shape[:2]:
            plane.reset_parameters()
        for filters, factor in zip(plane.weight.chunk(groups), factors, strict=False):
            known, channels = factor.planes[i].shape[:2]
            filters[:known, channels:] = 0
            filters[:known, :channels] = factor.planes[i]
        if plane.bias is not None:
            plane.bias.zero_()
    line.weight.zero_()
    for lines, factor in zip(line.weight.chunk(groups), factors, strict=False):
        lines[:, : factor.line.shape[1]] = factor.line


def _exact_factors(kernel: Tensor, counts: Sequence[int], merge: Merge) -> Factorisation:
    """Streams wide enough for the whole kernel, to the last bit and without an SVD.

    The longer side of the unfolding (``psc.decomposition.streams``) is one factor, the other
    copies. Any sharing out of channels is exact; where streams are summed, the first does it all.
    """
    shares = [kernel] if merge == "sum" else list(torch.split(kernel, list(counts)))
    streams = []
    for axis, share in enumerate(shares):
        rows = unfold_layer(share, axis).flatten(0, 1)  # (out · k, in · plane)
        wide = rows.shape[0] <= rows.shape[1]
        identity = torch.eye(min(rows.shape), dtype=kernel.dtype, device=kernel.device)
        filters, lines = (rows, identity) if wide else (identity, rows)
        streams.append(stream_of(axis, filters, lines, share.shape))
    order = torch.arange(kernel.shape[0], device=kernel.device)
    return Factorisation(tuple(streams), merge, order, kernel.new_zeros(()))


def _in_full(weight: Tensor) -> Tensor:
    """A parameter's values in float32 or float64, without gradient."""
    weight = weight.detach()
    return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
