"""One convolution with its normalisation and activation: what blocks and segments are made of."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from psc.errors import ConfigError
from psc.formulations import Formulation, check_formulation

Padding = Literal["same", "valid"]
Triple = tuple[int, int, int]

AXES = 3
"""Spatial axes: D (z, or time), H (y), W (x). Stream s runs its 1D convolution along axis s."""


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


@dataclass(frozen=True)
class ConvolutionOptions:
    """What every convolution of a segment has in common.

    Attributes:
        kernel_size: extent d of the 3D filter that is realised or replaced; odd.
        padding: "same" (zero padding, size kept at stride 1) or "valid" (none).
        norm: builds a normalisation for a number of channels; it follows every convolution (or,
            with ``pre_activation``, precedes it).
        activation: builds the non-linearity that follows every convolution, 2D and 1D alike.
        final_activation: whether it follows the segment's last convolution too (a residual block
            adds its shortcut first).
        pre_activation: norm and activation come before each convolution (DenseNet) instead of
            after it; ``final_activation`` then has no meaning and nothing follows the last one.
        final_norm: False leaves out the normalisation, too, where ``final_activation`` leaves out
            the activation: the segment then ends in a raw convolution (DenseNet's first three).
        bias: whether convolutions have one; None: those that no normalisation follows directly.
    """

    kernel_size: int = 3
    padding: Padding = "same"
    norm: Callable[[int], nn.Module] | None = None
    activation: Callable[[], nn.Module] | None = _relu
    final_activation: bool = True
    pre_activation: bool = False
    final_norm: bool = True
    bias: bool | None = None
    formulation: Formulation = "auto"

    def __post_init__(self) -> None:
        """Refuse what no convolution of ours can do."""
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd and positive, got {self.kernel_size}")
        if self.padding not in ("same", "valid"):
            raise ConfigError(f"padding must be 'same' or 'valid', got {self.padding!r}")
        check_formulation(self.formulation)


class Segment(nn.Module):
    """Base of both kinds of segment: a module that knows how far it looks."""

    receptive_field: Triple
    """Extent of the input, in voxels along (D, H, W), that one output voxel depends on."""


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: Triple,
    stride: Triple,
    options: ConvolutionOptions,
    *,
    last: bool,
    build: Callable[..., nn.Conv3d] = nn.Conv3d,
) -> nn.Sequential:
    """One convolution with its normalisation and activation, in the order that options say."""
    same = options.padding == "same"
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2) if same else (0, 0, 0)
    bias = has_bias(options, last=last)
    convolution = build(in_channels, out_channels, kernel, stride, padding, bias=bias)
    channels = in_channels if options.pre_activation else out_channels
    layers = norm_and_activation(channels, options, last=last)
    layers["conv"] = convolution
    if not options.pre_activation:
        layers.move_to_end("conv", last=False)
    return nn.Sequential(layers)


def norm_and_activation(
    channels: int, options: ConvolutionOptions, *, last: bool
) -> OrderedDict[str, nn.Module]:
    """What stands beside a convolution, in its order: "norm" and "activation", or less.

    Args:
        channels: that leave the convolution; with ``pre_activation`` those that enter it.
        options: of the segment.
        last: whether the convolution is the segment's last.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    norm = _norm(options, last)
    if norm is not None:
        layers["norm"] = norm(channels)
    if options.activation is not None and _is_active(options, last):
        layers["activation"] = options.activation()
    return layers


def has_bias(options: ConvolutionOptions, *, last: bool) -> bool:
    """Whether a convolution has a bias; ``last``: the segment's last one."""
    if options.bias is not None:
        return options.bias
    return options.pre_activation or _norm(options, last) is None


def _norm(options: ConvolutionOptions, last: bool) -> Callable[[int], nn.Module] | None:
    return options.norm if options.final_norm or _is_active(options, last) else None


def _is_active(options: ConvolutionOptions, last: bool) -> bool:
    return options.pre_activation or options.final_activation or not last


def check_positive(in_channels: int, out_channels: int, **values: int) -> None:
    """Refuse sizes below 1.

    Raises:
        ConfigError: naming the first.
    """
    values = {"in_channels": in_channels, "out_channels": out_channels, **values}
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
