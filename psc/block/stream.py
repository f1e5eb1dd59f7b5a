"""One stream of P_mSC_n: 2D convolutions in a plane, then one 1D convolution across it.

And what it, and every unit of a network, is made of: a convolution with its normalisation and
activation.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from psc.block.convolution import conv3d
from psc.errors import ConfigError

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

    def __post_init__(self) -> None:
        """Refuse what no convolution of ours can do."""
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd and positive, got {self.kernel_size}")
        if self.padding not in ("same", "valid"):
            raise ConfigError(f"padding must be 'same' or 'valid', got {self.padding!r}")


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
) -> nn.Sequential:
    """One convolution with its normalisation and activation, in the order that options say."""
    same = options.padding == "same"
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2) if same else (0, 0, 0)
    bias = has_bias(options, last=last)
    channels = in_channels if options.pre_activation else out_channels
    layers = norm_and_activation(channels, options, last=last)
    layers["conv"] = conv3d(in_channels, out_channels, kernel, stride, padding, bias=bias)
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
        activation: Any = options.activation()
        if options.pre_activation and norm is None and hasattr(activation, "inplace"):
            activation.inplace = False  # it is given the block's input, which others read, too
        layers["activation"] = activation
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
    """Refuse sizes below 1."""
    values = {"in_channels": in_channels, "out_channels": out_channels, **values}
    for name, value in values.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


Merge = Literal["concatenate", "sum"]
"""What becomes of parallel streams: each gives a part of the channels (the paper's block), or all
of them, which are added up (Eq. 3)."""

MERGES: tuple[Merge, ...] = ("concatenate", "sum")


def stream_channels(out_channels: int, m: int, merge: Merge) -> list[int]:
    """Output channels of each of m streams that together have ``out_channels``.

    Concatenated, each stream gives a part; where m does not divide them, the first streams get one
    channel more. Summed, each gives all.
    """
    if merge == "sum":
        return [out_channels] * m
    return [out_channels // m + (s < out_channels % m) for s in range(m)]


class Stream(nn.Sequential):
    """n 2D convolutions (d×d) across ``axis``, then a 1D convolution along it.

    Its parts are named ``plane_1`` … ``plane_n`` and ``axis``, each with its ``conv`` and, as the
    options say, ``norm`` and ``activation``.

    Args:
        in_channels: channels that enter.
        width: M, channels of every 2D convolution.
        out_channels: channels that leave.
        axis: 0, 1 or 2 (D, H, W).
        n: number of 2D convolutions.
        stride: in all three axes: the first 2D convolution takes it in the plane, the 1D
            convolution along the axis.
        options: kernel size, padding, normalisation, activation.
        line: options of the 1D convolution where they are others.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        axis: int,
        n: int,
        stride: int,
        options: ConvolutionOptions,
        line: ConvolutionOptions | None = None,
    ) -> None:
        d = options.kernel_size
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for i in range(n):
            step = _across(axis, stride if i == 0 else 1)
            parts[f"plane_{i + 1}"] = convolution(
                channels, width, _across(axis, d), step, options, last=False
            )
            channels = width
        extent, step = _along(axis, n * (d - 1) + 1), _along(axis, stride)
        parts["axis"] = convolution(
            channels, out_channels, extent, step, line or options, last=True
        )
        super().__init__(parts)


def _along(axis: int, size: int) -> Triple:
    """``size`` along the axis, 1 along the others: the shape of a 1D kernel."""
    return tuple(size if a == axis else 1 for a in range(AXES))  # type: ignore[return-value]


def _across(axis: int, size: int) -> Triple:
    """1 along the axis, ``size`` along the others: the shape of a 2D kernel."""
    return tuple(1 if a == axis else size for a in range(AXES))  # type: ignore[return-value]
