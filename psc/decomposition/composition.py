"""Consecutive convolutions as one: Eq. 4 of the paper.

Kernels are weights of ``nn.Conv3d`` (out, in, kD, kH, kW). PyTorch's convolution is a
cross-correlation; two of them in a row are one whose kernel is the true convolution of both. This
holds for valid padding and stride 1; with zero padding only where no kernel reaches the border.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from psc.convolutions import AXES
from psc.errors import ConfigError

_FIRST_SPATIAL = 2


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The kernel of a convolution by ``first`` and then by ``second``.

    Args:
        first: (M, in, kD, kH, kW).
        second: (out, M, lD, lH, lW).

    Returns:
        (out, in, kD+lD-1, kH+lH-1, kW+lW-1).

    Raises:
        ConfigError: if they are not 3D kernels, or ``second`` does not read what ``first`` writes.
    """
    for kernel in (first, second):
        if kernel.ndim != _FIRST_SPATIAL + AXES:
            raise ConfigError(f"a kernel must be (out, in, kD, kH, kW); got {tuple(kernel.shape)}")
    if second.shape[1] != first.shape[0]:
        raise ConfigError(
            f"the second kernel reads {second.shape[1]} channels, the first writes {first.shape[0]}"
        )
    padding = [size - 1 for size in second.shape[_FIRST_SPATIAL:]]
    composed = F.conv3d(first.transpose(0, 1), second.flip(2, 3, 4), padding=padding)
    return composed.transpose(0, 1)


@dataclass(frozen=True)
class SeparableConvolution:
    """A layer that is separable along one axis, with ONE line for all of its channels.

    Attributes:
        axis: 0, 1 or 2 (D, H, W).
        line: A⁽¹⁾ (J_axis,).
        plane: A^{(2,3,4)} of every output channel (out, in, J_p, J_q); p < q are the other axes.
    """

    axis: int
    line: Tensor
    plane: Tensor

    def weight(self) -> Tensor:
        """The 3D kernel (out, in, kD, kH, kW), their outer product."""
        shape = [1, 1, 1]
        shape[self.axis] = len(self.line)
        return self.plane.unsqueeze(_FIRST_SPATIAL + self.axis) * self.line.reshape(shape)


def compose_separable(
    first: SeparableConvolution, second: SeparableConvolution
) -> SeparableConvolution:
    """Eq. 4: planes with planes and lines with lines, which gives one separable convolution.

    That the first line may pass the second plane needs it to be the same for all channels. Lines
    that mix channels, as those of P_mSC_n do, do not pass.

    Raises:
        ConfigError: if their axes differ, or ``second`` does not read what ``first`` writes.
    """
    if first.axis != second.axis:
        raise ConfigError(
            f"axes {first.axis} and {second.axis} differ: a composition of convolutions that are "
            "separable along different axes is not separable"
        )
    axis = _FIRST_SPATIAL + first.axis
    plane = compose(first.plane.unsqueeze(axis), second.plane.unsqueeze(axis)).squeeze(axis)
    line = compose(first.line[None, None, :, None, None], second.line[None, None, :, None, None])
    return SeparableConvolution(first.axis, line.flatten(), plane)
