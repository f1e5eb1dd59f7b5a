"""Consecutive convolutions as one: Eq. 4 of the paper.

Kernels are weights of ``nn.Conv3d`` (out, in, kD, kH, kW). PyTorch's convolution is a
cross-correlation; two of them in a row are one whose kernel is the true convolution of both. This
holds for valid padding; with zero padding only where no kernel reaches the border. ConfigError is
raised for what is no 3D kernel, or does not read what the one before it writes.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from psc.block.convolution import AXES, Triple
from psc.errors import ConfigError

FIRST_SPATIAL = 2


def compose(first: Tensor, second: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
    """The kernel of a convolution by ``first`` and then by ``second``, of the product of strides.

    (M, in, kD, kH, kW) and (out, M, lD, lH, lW) → (out, in, kD + sD (lD - 1), ...), s the stride of
    the first convolution: the second one's taps lie that far apart in the input.
    """
    for kernel in (first, second):
        if kernel.ndim != FIRST_SPATIAL + AXES:
            raise ConfigError(f"a kernel must be (out, in, kD, kH, kW); got {tuple(kernel.shape)}")
    if second.shape[1] != first.shape[0]:
        raise ConfigError(
            f"the second kernel reads {second.shape[1]} channels, the first writes {first.shape[0]}"
        )
    second = spread(second, stride)
    padding = [size - 1 for size in second.shape[FIRST_SPATIAL:]]
    composed = F.conv3d(first.transpose(0, 1), second.flip(2, 3, 4), padding=padding)
    return composed.transpose(0, 1)


def compose_chain(weights: Sequence[Tensor], strides: Sequence[Triple]) -> Tensor:
    """The kernel of consecutive convolutions, first to last, of stride ∏ strides."""
    whole = weights[0]
    so_far: Triple = (1, 1, 1)
    for weight, (d, h, w) in zip(weights[1:], strides, strict=False):
        so_far = (so_far[0] * d, so_far[1] * h, so_far[2] * w)
        whole = compose(whole, weight, so_far)
    return whole


def spread(kernel: Tensor, stride: Sequence[int]) -> Tensor:
    """Zeros between the taps of a kernel (out, in, spatial...), so that they lie apart so far."""
    if all(step == 1 for step in stride):
        return kernel
    sizes = kernel.shape[FIRST_SPATIAL:]
    spaced = [step * (size - 1) + 1 for step, size in zip(stride, sizes, strict=True)]
    wide = kernel.new_zeros(*kernel.shape[:FIRST_SPATIAL], *spaced)
    taps = wide
    for axis, step in enumerate(stride, start=FIRST_SPATIAL):
        taps = taps.unfold(axis, 1, step).squeeze(-1)  # a view of every step-th
    taps.copy_(kernel)
    return wide
