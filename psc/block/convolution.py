"""One convolution: with its normalisation and activation, by kernels fast and right on a CPU.

PyTorch (to 2.14: ``ConvParams::use_mkldnn``) computes many of a separable network's convolutions
with a kernel of its own (vol2col and a matrix product, and channels first whatever the input) where
oneDNN's would be several times faster, and oneDNN (3.12) has a gradient that is wrong in bfloat16.
``conv3d`` asks for the same convolution in other words where that happens: the same numbers,
layouts and gradients.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psc.errors import ConfigError

Padding = Literal["same", "valid"]
Triple = tuple[int, int, int]

AXES = 3
"""Spatial axes: D (z, or time), H (y), W (x). Stream s runs its 1D convolution along axis s."""

_BATCHED = 5
"""Dimensions of (N, C, D, H, W); without a batch there are four."""

_SMALL = 20_480
"""PyTorch gives a single float32 volume with at most so many channels · D · H to its own kernel."""

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

_as_asked = False  # see ``as_asked``

_CAST = (torch.float32, torch.bfloat16, torch.float16)
"""What autocast casts."""


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


@dataclass(frozen=True)
class ConvolutionOptions:
    """What every convolution of a unit has in common.

    Attributes:
        kernel_size: extent d of the 3D filter that is realised or replaced; odd.
        padding: "same" (zero padding, size kept at stride 1) or "valid" (none).
        norm: builds a normalisation for a number of channels; it follows every convolution (or,
            with ``pre_activation``, precedes it).
        activation: builds the non-linearity that follows every convolution, 2D and 1D alike.
        final_activation: whether it follows the unit's last convolution too (a residual block
            adds its shortcut first).
        pre_activation: norm and activation come before each convolution (DenseNet) instead of
            after it; ``final_activation`` then has no meaning and nothing follows the last one.
        final_norm: False leaves out the normalisation, too, where ``final_activation`` leaves out
            the activation: the unit then ends in a raw convolution (DenseNet's first three).
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
        for name, made in (("norm", self.norm), ("activation", self.activation)):
            if isinstance(made, nn.Module):
                raise ConfigError(f"{name} must make a module, as nn.ReLU does, not be one: {made}")
        if not isinstance(self.kernel_size, SupportsIndex):
            raise ConfigError(f"kernel_size must be one whole number, got {self.kernel_size!r}")
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd and positive, got {self.kernel_size}")
        if self.padding not in ("same", "valid"):
            raise ConfigError(f"padding must be 'same' or 'valid', got {self.padding!r}")


class Unit(nn.Module):
    """Base of both kinds of unit: a module that knows how far it looks."""

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
        options: of the unit.
        last: whether the convolution is the unit's last.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    norm = _norm(options, last)
    if norm is not None:
        layers["norm"] = norm(channels)
    if options.activation is not None and _is_active(options, last):
        activation: Any = options.activation()
        passes = isinstance(layers.get("norm", nn.Identity()), nn.Identity)
        if options.pre_activation and passes and hasattr(activation, "inplace"):
            activation.inplace = False  # it is given the block's input, which others read, too
        layers["activation"] = activation
    return layers


def has_bias(options: ConvolutionOptions, *, last: bool) -> bool:
    """Whether a convolution has a bias; ``last``: the unit's last one."""
    if options.bias is not None:
        return options.bias
    return options.pre_activation or not has_norm(options, last=last)


def has_norm(options: ConvolutionOptions, *, last: bool) -> bool:
    """Whether a normalisation stands beside a convolution; ``last``: the unit's last one."""
    return _norm(options, last) is not None


def _norm(options: ConvolutionOptions, last: bool) -> Callable[[int], nn.Module] | None:
    return options.norm if options.final_norm or _is_active(options, last) else None


def _is_active(options: ConvolutionOptions, last: bool) -> bool:
    return options.pre_activation or options.final_activation or not last


def check_positive(in_channels: int, out_channels: int, **values: int) -> None:
    """Refuse sizes below 1."""
    values = {"in_channels": in_channels, "out_channels": out_channels, **values}
    for name, value in values.items():
        if not isinstance(value, SupportsIndex):
            raise ConfigError(f"{name} must be one whole number, got {value!r}")
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def conv3d(*args: Any, **options: Any) -> nn.Conv3d:
    """``nn.Conv3d(...)``, that a CPU computes fast and rightly; (N, C, D, H, W) or (C, D, H, W)."""
    return _Conv3d(*args, **options)


class _Conv3d(nn.Conv3d):  # private: accounts of a network name the first public class
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = symmetric_padding(self)
        if padding is None or self.padding_mode != "zeros" or not _is_for_onednn(x):
            y: Tensor = super()._conv_forward(x, weight, bias)
            return y
        stride, dilation = triple(self.stride), triple(self.dilation)
        return _conv3d(x, weight, bias, stride, padding, dilation, self.groups)


@contextmanager
def as_asked() -> Iterator[None]:
    """Convolutions in PyTorch's own words, for a count: the others may compute what they drop."""
    global _as_asked
    before, _as_asked = _as_asked, True
    try:
        yield
    finally:
        _as_asked = before


def _is_for_onednn(x: Tensor) -> bool:
    """Whether oneDNN may compute on x: neither elsewhere, nor later in a program made of this."""
    return (
        isinstance(x, Tensor)  # torch.fx traces with proxies
        and x.device.type == "cpu"
        and x.layout == torch.strided
        and _HAS_ONEDNN
        and not _as_asked
        and not torch.compiler.is_exporting()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    )


def _computed_in(x: Tensor) -> torch.dtype:
    """The type that a convolution of x on a CPU is computed in."""
    if torch.is_autocast_enabled("cpu") and x.dtype in _CAST:
        return torch.get_autocast_dtype("cpu")
    return x.dtype


def _conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Triple,
    padding: Triple,
    dilation: Triple,
    groups: int,
) -> Tensor:
    """``F.conv3d``, in words with which PyTorch on a CPU calls kernels that are fast and right.

    - Along a short axis (``_is_short``), oneDNN's gradients with a stride read and write beyond
      their memory. We compute every voxel, and leave out what the stride would.
    - In bfloat16 and float16, its kernels take in memory that nobody wrote, in results and in
      gradients of weights, depending on the processor, where an axis is short or channels are
      grouped. Such convolutions are small: float32 does it.
    - (k, 1, 1) and 1×1×1 go to PyTorch's own kernel on one thread, unless they are strided or
      dilated. Along an axis where the kernel has one tap, dilation changes nothing.
    - So does any kernel (but for groups, or more than three taps along H and W) on a single volume
      of at most ``_SMALL`` channels · D · H. Across an axis along which the kernel has one tap, a
      volume can be cut, and its parts are a batch.

    They are operations that PyTorch differentiates, transforms and compiles like any other. What
    oneDNN does wrong is in docs/pytorch-findings.md.
    """
    kernel = weight.shape[2:]
    axes = zip(x.shape[-3:], kernel, stride, padding, dilation, strict=True)
    short = [_is_short(*axis) for axis in axes]
    for axis in range(3):
        if short[axis] and stride[axis] > 1:
            step = triple([*stride[:axis], 1, *stride[axis + 1 :]])
            y = _conv3d(x, weight, bias, step, padding, dilation, groups)
            return _every(stride[axis], y, axis - 3)
    dtype = _computed_in(x)
    if dtype in (torch.bfloat16, torch.float16) and (groups > 1 or any(short)):
        with torch.autocast("cpu", enabled=False):
            bias = None if bias is None else bias.float()
            y = _conv3d(x.float(), weight.float(), bias, stride, padding, dilation, groups)
        return y.to(dtype)
    if dtype != torch.float32:
        return F.conv3d(x, weight, bias, stride, padding, dilation, groups)
    pointwise = kernel[1] == kernel[2] == 1
    free = (dilation[0], 2, 2) if pointwise else dilation
    small = x.dim() == _BATCHED and x.shape[0] == 1 and x.shape[1:4].numel() <= _SMALL
    if not small or groups > 1:
        return F.conv3d(x, weight, bias, stride, padding, free, groups)
    for axis in range(3):
        size = x.shape[2 + axis]
        if kernel[axis] == stride[axis] == 1 and padding[axis] == 0 and size > 1:
            parts = next(n for n in range(2, size + 1) if size % n == 0)
            batch = torch.cat(x.chunk(parts, 2 + axis))
            y = F.conv3d(batch, weight, bias, stride, padding, free)
            return torch.cat(y.chunk(parts), 2 + axis)
    return F.conv3d(x, weight, bias, stride, padding, dilation)


def _is_short(size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether an axis is no longer than a kernel that is padded along it, or leaves one voxel."""
    extent = dilation * (kernel - 1) + 1
    return kernel > 1 and (size + 2 * padding < extent + stride or (padding > 0 and size <= extent))


def _every(step: int, y: Tensor, axis: int) -> Tensor:
    """Each ``step``-th slice along the axis (from the end), in the layout of a convolution's y."""
    kept = torch.arange(0, y.shape[axis], step)
    if y.is_contiguous():
        return y.index_select(axis, kept)
    return y.movedim(-4, -1).index_select(axis - 1, kept).movedim(-1, -4)  # channels last


def symmetric_padding(layer: nn.Conv3d) -> Triple | None:
    """Voxels that a convolution pads on each side along D, H and W.

    None where "same" pads one more on one side, as it does for even kernels.
    """
    if not isinstance(layer.padding, str):
        return triple(layer.padding)
    if layer.padding == "valid":
        return 0, 0, 0
    d, h, w = (s * (k - 1) for s, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return None if d % 2 or h % 2 or w % 2 else (d // 2, h // 2, w // 2)


def triple(values: Sequence[int]) -> Triple:
    """Three numbers, which the types of ``nn.Conv3d`` leave open."""
    d, h, w = values
    return d, h, w
