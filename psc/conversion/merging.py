"""The inverse of a conversion: streams without a non-linearity composed to one Conv3d again."""

import torch
from torch import nn

from psc.conversion.factors import composed_bias, composed_weight
from psc.conversion.layer import SeparableConv3d, uninitialised
from psc.conversion.replacement import replaced
from psc.conversion.run_layer import SeparableRun3d
from psc.errors import ConfigError


def merge_linear(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Compose every separable layer of a converted network to the Conv3d that it equals.

    For proofs, and to deploy where one 3D convolution runs faster than its parts. After an exact
    conversion (``width=None``) the weights are the original ones.

    Args:
        model: a result of ``convert``, trained since or not.
        inplace: replace in the network itself; False returns a copy.

    Returns:
        The network with plain ``nn.Conv3d`` under the same names, dtype, device, mode, hooks and
        ``requires_grad`` kept.

    Raises:
        ConfigError: if there is no separable layer, or one has a non-linearity between its 2D and
            1D convolutions and is no convolution at all, or stands for several layers; all such
            layers are named.
    """
    runs = [n for n, part in model.named_modules() if isinstance(part, SeparableRun3d)]
    if runs:
        raise ConfigError(
            f"merge_linear: {', '.join(runs)}: a block that stands for several layers pads between "
            "its 2D convolutions, which no single Conv3d does; psc.conversion.composed_run_weight "
            "is its kernel away from the borders"
        )
    layers = {n: part for n, part in model.named_modules() if isinstance(part, SeparableConv3d)}
    if not layers:
        raise ConfigError("merge_linear: the network has no layer that psc.convert made")
    if bent := [name for name, layer in layers.items() if not layer.is_linear]:
        raise ConfigError(
            f"merge_linear: a non-linearity stands between the convolutions of {', '.join(bent)}; "
            "no single Conv3d equals them"
        )
    return replaced(model, {n: merged(part) for n, part in layers.items()}, inplace=inplace)


def merged(layer: SeparableConv3d) -> nn.Conv3d:
    """The Conv3d that a separable layer without activation equals."""
    plane, line = layer.convolutions()[0]
    bias = composed_bias(layer)
    conv = uninitialised(
        layer.in_channels,
        layer.out_channels,
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
        conv.weight.copy_(composed_weight(layer))
        if conv.bias is not None and bias is not None:
            conv.bias.copy_(bias)
    conv.weight.requires_grad_(plane.weight.requires_grad)
    if conv.bias is not None and line.bias is not None:
        conv.bias.requires_grad_(line.bias.requires_grad)
    return conv.train(layer.training)
