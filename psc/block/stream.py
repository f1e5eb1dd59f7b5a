"""One stream of P_mSC_n: 2D convolutions in a plane, then one 1D convolution across it."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from psc.block.folding import (
    Formulation,
    check_formulation,
    fold,
    folded_axis_convolution,
    folded_plane_convolution,
    folds,
    unfold,
)
from psc.errors import ConfigError

# ----------------------------------------
# One convolution with its normalisation and activation: what blocks and segments are made of.


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


Merge = Literal["concatenate", "sum"]
"""What becomes of parallel streams: each gives a part of the channels (the paper's block), or all
of them, which are added up (Eq. 3)."""

MERGES: tuple[Merge, ...] = ("concatenate", "sum")

_IN_PLACE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU)
"""Elementwise activations that may work in place, whatever the shape."""


def stream_channels(out_channels: int, m: int, merge: Merge) -> list[int]:
    """Output channels of each of m streams that together have ``out_channels``.

    Concatenated, each stream gives a part; where m does not divide them, the first streams get one
    channel more. Summed, each gives all.
    """
    if merge == "sum":
        return [out_channels] * m
    return [out_channels // m + (s < out_channels % m) for s in range(m)]


class FoldableStream(nn.Sequential):
    """2D convolutions across an axis and 1D ones along it, and whatever stands between.

    Where ``psc.block.folding.folds`` says so, its convolutions are computed on folded views. That
    takes ``stream_convolution`` with zeros on both sides as padding, without groups and dilation;
    with any other the whole stream is computed plainly.

    Args:
        parts: layers by name, in their order.
        axis: 0, 1 or 2 (D, H, W).
        formulation: how the convolutions are computed; may be set anew.

    Raises:
        ConfigError: for an unknown formulation, also when it is set.
    """

    def __init__(
        self,
        parts: OrderedDict[str, nn.Module],
        axis: int,
        formulation: Formulation = "auto",
    ) -> None:
        super().__init__(parts)
        self._axis = axis
        self.formulation = formulation

    @property
    def formulation(self) -> Formulation:
        """How the convolutions are computed (``psc.block.folding``)."""
        return self._formulation

    @formulation.setter
    def formulation(self, formulation: Formulation) -> None:
        check_formulation(formulation)
        self._formulation = formulation

    def folds(self, x: Tensor) -> bool:
        """Whether it computes the input x (N, C, D, H, W) on folded views."""
        if not folds(x, self.formulation):
            return False
        convolutions = (part for part in self._layers() if isinstance(part, _StreamConv3d))
        return all(part.can_fold(self._axis) for part in convolutions)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W').

        Folded, the result has its channels last in memory.
        """
        if not self.folds(x):
            for layer in self:
                x = layer(x)
            return x
        axis = self._axis
        x = fold(x, axis)
        waiting = list(self._layers())[::-1]
        while waiting:
            layer = waiting.pop()
            if not isinstance(layer, _StreamConv3d):
                x = self._between(layer, x)
                continue
            follows = waiting[-1] if waiting else None
            fused = isinstance(follows, _IN_PLACE) and follows.inplace
            activation = waiting.pop() if fused else None
            x = fold(layer(unfold(x, axis), folded_axis=axis, activation=activation), axis)
        return unfold(x, axis)

    def _layers(self) -> Iterable[nn.Module]:
        """Convolutions and what stands between them, in the order of the data."""
        return self

    def _between(self, layer: nn.Module, x: Tensor) -> Tensor:
        """A layer other than a convolution, on a folded volume.

        It may do anything, so that it is shown the volume as it is.
        """
        return fold(layer(unfold(x, self._axis)), self._axis)


class Stream(FoldableStream):
    """n 2D convolutions (d×d) across ``axis``, then a 1D convolution along it.

    Its parts are named ``plane_1`` … ``plane_n`` and ``axis``, each with its ``conv`` and, as the
    options say, ``norm`` and ``activation``. Parameters are those of ``nn.Conv3d`` whatever
    ``formulation`` computes them, so that checkpoints do not depend on it; it may be set anew.

    Args:
        in_channels: channels that enter.
        width: M, channels of every 2D convolution.
        out_channels: channels that leave.
        axis: 0, 1 or 2 (D, H, W).
        n: number of 2D convolutions.
        stride: in all three axes: the first 2D convolution takes it in the plane, the 1D
            convolution along the axis.
        options: kernel size, padding, normalisation, activation, formulation.
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
            parts[f"plane_{i + 1}"] = convolution(
                channels,
                width,
                _across(axis, d),
                _across(axis, stride if i == 0 else 1),
                options,
                last=False,
                build=stream_convolution,
            )
            channels = width
        parts["axis"] = convolution(
            channels,
            out_channels,
            _along(axis, n * (d - 1) + 1),
            _along(axis, stride),
            line or options,
            last=True,
            build=stream_convolution,
        )
        super().__init__(parts, axis, options.formulation)

    def _layers(self) -> Iterable[nn.Module]:
        """Those of all parts."""
        return [layer for part in self for layer in part.children()]

    def _between(self, layer: nn.Module, x: Tensor) -> Tensor:
        """A norm or an activation; it treats all voxels alike, in whatever order they lie."""
        y: Tensor = layer(x)
        return y


def stream_convolution(*args: Any, **options: Any) -> nn.Conv3d:
    """A convolution of a ``FoldableStream``, with the arguments of ``nn.Conv3d``."""
    return _StreamConv3d(*args, **options)


class _StreamConv3d(nn.Conv3d):  # private: accounts of a network name the first public class
    """``nn.Conv3d`` that also computes a 2D or 1D kernel on folded views."""

    def forward(
        self, x: Tensor, *, folded_axis: int | None = None, activation: nn.Module | None = None
    ) -> Tensor:
        """(N, C, D, H, W) → (N, C', D', H', W'), as ``nn.Conv3d``.

        Args:
            x: the volume; without a copy where it is folded in memory.
            folded_axis: of the stream, to compute on folded views, with such a view as the
                result; ``can_fold`` must allow it.
            activation: follows the folded convolution, elementwise.
        """
        if folded_axis is None:
            return super().forward(x)
        padding = symmetric_padding(self)
        assert padding is not None
        p, q = (a for a in range(AXES) if a != folded_axis)
        x = fold(x, folded_axis)
        if not self._acts_along(folded_axis, padding):
            y = folded_plane_convolution(
                x,
                self.weight.select(2 + folded_axis, 0),
                self.bias,
                (self.stride[p], self.stride[q]),
                (padding[p], padding[q]),
                activation,
            )
        else:
            y = folded_axis_convolution(
                x,
                self.weight.flatten(2),
                self.bias,
                self.stride[folded_axis],
                padding[folded_axis],
                activation,
            )
        return unfold(y, folded_axis)

    def can_fold(self, axis: int) -> bool:
        """Whether folded views compute it: 2D across the axis or 1D along it, and no options."""
        padding = symmetric_padding(self)
        if padding is None or self.padding_mode != "zeros":
            return False
        if self.groups != 1 or any(step != 1 for step in self.dilation):
            return False
        along = [a for a in range(AXES) if self._acts_along(a, padding)]
        return axis not in along or along == [axis]

    def _acts_along(self, axis: int, padding: Triple) -> bool:
        return self.kernel_size[axis] > 1 or self.stride[axis] > 1 or padding[axis] > 0


def symmetric_padding(layer: nn.Conv3d) -> Triple | None:
    """Voxels that a convolution pads on each side along D, H and W.

    None where "same" pads one more on one side, as it does for even kernels.
    """
    if not isinstance(layer.padding, str):
        d, h, w = layer.padding
        return d, h, w
    if layer.padding == "valid":
        return 0, 0, 0
    d, h, w = (s * (k - 1) for s, k in zip(layer.dilation, layer.kernel_size, strict=True))
    return None if d % 2 or h % 2 or w % 2 else (d // 2, h // 2, w // 2)


def _along(axis: int, size: int) -> Triple:
    """``size`` along the axis, 1 along the others: the shape of a 1D kernel."""
    return tuple(size if a == axis else 1 for a in range(AXES))  # type: ignore[return-value]


def _across(axis: int, size: int) -> Triple:
    """1 along the axis, ``size`` along the others: the shape of a 2D kernel."""
    return tuple(1 if a == axis else size for a in range(AXES))  # type: ignore[return-value]
