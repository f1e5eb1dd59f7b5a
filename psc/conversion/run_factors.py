"""From the weights of consecutive Conv3d to those of the one block in their place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from psc.conversion.factors import Initialisation, in_full, relative_difference, share_bias
from psc.conversion.following import Link
from psc.conversion.layer import triple
from psc.conversion.run_layer import Geometry, SeparableRun3d
from psc.convolutions import Triple
from psc.decomposition import StackFactors, compose_run, factorise_run
from psc.errors import ConfigError
from psc.streams import Merge


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

    ``init="svd"`` starts from the layers' composition (``factorise_run``), with the affine maps of
    ``links`` in place of what stood between them. ``init="random"`` is PyTorch's own and needs no
    links.

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
        _fill(module, composed_layers(layers, links), sweeps)
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
        weights.append(StackFactors(axis, planes, line, strides).weight())
    if module.channel_order is not None:
        return torch.cat(weights)[module.channel_order]
    return torch.stack(weights).sum(0)


def run_error(composed: ComposedLayers, module: SeparableRun3d) -> float:
    """‖W − the block's kernel‖ / ‖W‖ of the composed kernel; activations are ignored."""
    whole = compose_run(composed.weights, composed.strides)
    return relative_difference(whole, composed_run_weight(module))


@torch.no_grad()
def _fill(module: SeparableRun3d, composed: ComposedLayers, sweeps: int) -> None:
    if not all(bool(torch.isfinite(link).all()) for link in composed.weights):
        raise ConfigError(
            "the composition with the layers that follow it holds values that are not finite"
        )
    found = factorise_run(
        composed.weights,
        len(module.widths),
        module.widths[0],
        strides=composed.strides,
        combination=module.merge,
        sweeps=sweeps,
    )
    for s, factors in enumerate(found.streams):
        _copy_stack(module.planes(s), module.line(s), factors)
    if module.channel_order is not None:
        module.channel_order.copy_(found.order.argsort())
    lines = [module.line(s) for s in range(len(module.widths))]
    share_bias(lines, composed.bias, module.channel_order)


def _copy_stack(planes: Sequence[nn.Conv3d], line: nn.Conv3d, factors: StackFactors) -> None:
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
