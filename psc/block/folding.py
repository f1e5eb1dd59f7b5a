"""How a stream's 2D and 1D convolutions are computed: the same numbers, at different speed.

"plain" hands ``nn.Conv3d`` kernels such as (1, 3, 3) and (5, 1, 1) to PyTorch. On a CPU in float32
PyTorch then often takes its slow path (vol2col and a matrix product) instead of oneDNN: always for
(5, 1, 1) on one thread, and for any kernel where batch · channels · D · H is at most 20,480. The
separable network is slower than its multiply-adds say, sometimes than the 3D network.

"folded" computes the same convolutions in 2D. With channels last in memory and the stream's axis
first, a volume (N, C, L, P, Q) *is* a batch of N·L images (P, Q) for the 2D convolutions, and a
batch of N images (L, P·Q) for the 1D convolution: views, no copies, and oneDNN takes both. Only the
streams whose axis is not D copy their input once, to bring that axis to the front.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from psc.errors import ConfigError

Formulation = Literal["auto", "plain", "folded"]

FORMULATIONS: tuple[Formulation, ...] = ("auto", "plain", "folded")

_CHANNELS = -4  # of (N, C, D, H, W), and of (C, D, H, W), which nn.Conv3d takes too
_FIRST_SPATIAL = 2  # (N, C, spatial...)
_DIMENSIONS = 5
_FEW_VOXELS = 512


def check_formulation(formulation: str) -> None:
    """Refuse what is not in ``FORMULATIONS``.

    Raises:
        ConfigError: with those that are.
    """
    if formulation not in FORMULATIONS:
        known = ", ".join(FORMULATIONS)
        raise ConfigError(f"formulation must be one of {known}; got {formulation!r}")


def folds(x: Tensor | fx.Proxy, formulation: Formulation = "auto") -> bool:
    """Whether a stream computes on folded views of its input x (N, C, D, H, W).

    "auto" folds on the CPU in float32 only. Elsewhere (GPUs; bfloat16, which PyTorch always gives
    to oneDNN; the meta device) plain 3D calls are the fastest or the only sensible form. So they
    are in training where a whole batch has no more than 512 voxels, as in the last stage of a
    ResNet: oneDNN's weight gradients over tiny images are slow (measured: up to 1.6 times). And so
    they are in a program that is exported or traced, which may run elsewhere and on other sizes.

    Volumes without a batch (C, D, H, W) are never folded, nor are the stand-ins for tensors with
    which ``torch.fx`` traces: of them nothing is known.
    """
    if isinstance(x, fx.Proxy) or x.dim() != _DIMENSIONS:
        return False
    if formulation != "auto":
        return formulation == "folded"
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if torch.is_grad_enabled() and x.shape[0] * x.shape[2:].numel() <= _FEW_VOXELS:
        return False
    return (
        x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    )


def fold(x: Tensor, axis: int) -> Tensor:
    """Bring a stream's axis to the front and the channels to the end of memory.

    Args:
        x: (N, C, D, H, W).
        axis: 0, 1 or 2, the axis of the stream's 1D convolution.

    Returns:
        (N, C, L, P, Q), ``channels_last_3d`` in memory; L is the stream's axis, P and Q its plane
        in the order that they had. A view where x has that layout already.
    """
    if axis > 0:
        x = x.movedim(_FIRST_SPATIAL + axis, _FIRST_SPATIAL)
    return _channels_last(x)


def unfold(x: Tensor, axis: int) -> Tensor:
    """Undo ``fold`` logically, as a view: (N, C, L, P, Q) → (N, C, D, H, W)."""
    return x.movedim(_FIRST_SPATIAL, _FIRST_SPATIAL + axis) if axis > 0 else x


def concatenate(volumes: Sequence[Tensor], *, folded: bool) -> Tensor:
    """Concatenate the streams' results (N, C_s, D, H, W) or (C_s, D, H, W) over channels.

    Results of folded streams lie in memory in different orders of D, H and W, all with channels
    last. ``torch.cat`` over dim 1 would give them channels first, ten times slower.
    """
    if not folded:
        return torch.cat(list(volumes), dim=_CHANNELS)
    return torch.cat([x.movedim(1, -1) for x in volumes], dim=-1).movedim(-1, 1)


def add(volumes: Sequence[Tensor]) -> Tensor:
    """Sum of the streams' results (N, C, D, H, W), in the first one's memory order.

    Those of folded streams differ in the order of D, H and W, but all have the channels last, along
    which an elementwise sum runs: bringing them into one order first takes longer (measured).
    """
    total = volumes[0]
    for volume in volumes[1:]:
        total = total + volume  # not in place: on a view, that makes the backward pass copy
    return total


def folded_plane_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """2D convolution of every (P, Q) plane.

    Args:
        x: (N, C, L, P, Q), channels last.
        weight: (C', C, kP, kQ).
        bias: (C',) or None.
        stride: along P and along Q.
        padding: zeros on each side of P, and of Q.
        activation: elementwise, applied to the result before it is viewed as a volume: in place on
            a view, it would make the backward pass copy.

    Returns:
        (N, C', L, P', Q'), channels last.
    """
    batch, channels, length, p, q = x.shape
    images = x.transpose(1, 2).reshape(batch * length, channels, p, q)
    y = _convolve(images, weight, bias, stride, padding)
    if activation is not None:
        y = activation(y)
    return y.view(batch, length, *y.shape[1:]).transpose(1, 2)


def folded_axis_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """1D convolution along L.

    Args:
        x: (N, C, L, P, Q), channels last.
        weight: (C', C, k).
        bias: (C',) or None.
        stride: along L.
        padding: zeros on each side of L.
        activation: as in ``folded_plane_convolution``.

    Returns:
        (N, C', L', P, Q), channels last.
    """
    p, q = x.shape[3:]
    images = x.flatten(3)
    learns = torch.is_grad_enabled() and weight.requires_grad
    # More zeros than the kernel reaches over have no convolution as their gradient.
    usual = stride == 1 and padding < weight.shape[2]
    lowered = torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)
    if learns and usual and not lowered:
        y: Tensor = _AxisConvolution.apply(images, weight, bias, padding)
    else:
        y = _convolve(images, weight[..., None], bias, (stride, 1), (padding, 0))
    if activation is not None:
        y = activation(y)
    return y.view(*y.shape[:3], p, q)


def _convolve(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """2D convolution, channels last in and out.

    PyTorch takes the layout to compute in from the strides of input and kernel. Those of an axis of
    size one are arbitrary after slicing, and then misread: the kernel's are set anew.
    """
    filters, channels, *size = weight.shape
    flat = weight.permute(0, 2, 3, 1).reshape(-1)
    weight = flat.view(filters, *size, channels).permute(0, 3, 1, 2)
    return _channels_last(F.conv2d(images, weight, bias, stride, padding))


def _channels_last(x: Tensor) -> Tensor:
    """(N, C, ...) with the channels at the end of memory.

    Not by ``memory_format``, which ``torch.func.vmap`` does not know. Where nothing is to be done
    the result is no view: see ``activation`` of ``folded_plane_convolution``.
    """
    last = x.movedim(1, -1)
    return x if last.is_contiguous() else last.contiguous().movedim(-1, 1)


class _AxisConvolution(torch.autograd.Function):
    """``_convolve`` at stride 1 whose weight gradient is k matrix products.

    oneDNN's own weight gradient reaches a fifth to a half of a matrix product's speed for these
    kernels (measured: AVX2, one thread). Channels last, tap t of the gradient is one product of the
    input, shifted by t, with the gradient of the output: no copy is made.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(images: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        return _convolve(images, weight[..., None], bias, (1, 1), (padding, 0))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        images, weight, _, ctx.padding = inputs
        ctx.save_for_backward(images, weight)
        ctx.save_for_forward(images, weight)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (images, weight), (of_images, of_weight, of_bias, _) = ctx.saved_tensors, tangents
        padding = (ctx.padding, 0)
        if of_images is None:
            of_images = torch.zeros_like(images)
        tangent = _convolve(of_images, weight[..., None], of_bias, (1, 1), padding)
        if of_weight is not None:
            tangent = tangent + _convolve(images, of_weight[..., None], None, (1, 1), padding)
        return tangent

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        gradient = _channels_last(gradient)
        wants_input, wants_weight, wants_bias, _ = ctx.needs_input_grad
        of_images = of_weight = of_bias = None
        if wants_input:
            # The gradient of a convolution is the convolution with the reversed kernel.
            reversed_weight = weight.flip(2).transpose(0, 1)
            outside = weight.shape[2] - 1 - ctx.padding
            of_images = _convolve(gradient, reversed_weight[..., None], None, (1, 1), (outside, 0))
        if wants_weight:
            of_weight = _axis_weight_gradient(images, gradient, weight.shape[2], ctx.padding)
        if wants_bias:
            of_bias = gradient.sum((0, 2, 3))
        return of_images, of_weight, of_bias, None


def _axis_weight_gradient(images: Tensor, gradient: Tensor, taps: int, padding: int) -> Tensor:
    """(C', C, k) from the input (N, C, L, PQ) and the gradient (N, C', L', PQ) of the output."""
    length, out_length = images.shape[2], gradient.shape[2]
    seen_channels, filters = images.shape[1], gradient.shape[1]
    products = []
    for tap in range(taps):
        shift = tap - padding  # output l sees input l + shift through this tap
        start, stop = max(0, -shift), min(out_length, length - shift)
        if start >= stop:
            products.append(gradient.new_zeros(filters, seen_channels))
            continue
        seen = images[:, :, start + shift : stop + shift].flatten(2)  # (N, C, V)
        used = gradient[:, :, start:stop].flatten(2)  # (N, C', V)
        # The wider one on the right: with few columns the product is up to ten times slower.
        if filters >= seen_channels:
            product = (seen @ used.transpose(1, 2)).transpose(1, 2)
        else:
            product = used @ seen.transpose(1, 2)
        products.append(product.sum(0))
    return torch.stack(products, dim=2)
