"""A kernel as a sum of separable kernels, grouped by orientation (Eq. 2 and 3, Figure 2b and 2c).

The sub-tensor S^{α,β} lives on the β-th slice of the core along the α-th spatial axis. Slices of
different axes cross, so which sub-tensor an entry of S belongs to is a choice. Here it is: a
*selection* is a list of pairs (α, β), and an entry belongs to the FIRST pair of the list on whose
slice it lies. So, for any selection in any order, the sub-tensors have disjoint supports.

A selection is an integer tensor (..., T, 2) of pairs (axis, index), both counted from 0; its
leading axes are those of the core (each output channel has a selection of its own) or none.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from psc.convolutions import AXES, Triple
from psc.decomposition.hosvd import HOSVD, mode_product
from psc.errors import ConfigError


@dataclass(frozen=True)
class Orientation:
    """One bracket of Eq. 3: separable kernels whose 1D parts lie along the same axis.

    Attributes:
        axis: 0, 1 or 2: k of Eq. 3, from 0.
        lines: A^{l,(k)} (..., T, J_axis), the 1D kernels.
        planes: the 2D kernels with all channels (..., T, J_p, J_q, C); p < q are the other axes.
    """

    axis: int
    lines: Tensor
    planes: Tensor

    def kernels(self) -> Tensor:
        """Every separable kernel by itself (..., T, J1, J2, J3, C)."""
        shape = [1, 1, 1, 1]
        shape[self.axis] = self.lines.shape[-1]
        lines = self.lines.reshape(*self.lines.shape[:-1], *shape)
        return lines * self.planes.unsqueeze(self.axis - len(shape))

    def kernel(self) -> Tensor:
        """Their sum (..., J1, J2, J3, C)."""
        total = self.lines.mT @ self.planes.flatten(-AXES)
        total = total.reshape(*total.shape[:-1], *self.planes.shape[-AXES:])
        return total.movedim(-AXES - 1, self.axis - 4)


def ownership(selection: Tensor, sizes: Triple) -> Tensor:
    """Which entries of the core belong to which sub-tensor of a selection.

    Args:
        selection: (..., T, 2), pairs (axis, index).
        sizes: (I1, I2, I3) of the core.

    Returns:
        bool (..., T, I1, I2, I3). Every entry is owned at most once; a pair that comes a second
        time owns nothing.

    Raises:
        ConfigError: if a pair names an axis or slice that the core lacks.
    """
    check_selection(selection, sizes)
    axis, index = selection.unbind(-1)
    on_slice = torch.zeros(*axis.shape, *sizes, dtype=torch.bool, device=selection.device)
    for a, size in enumerate(sizes):
        indices = torch.arange(size, device=selection.device)
        hit = (axis == a)[..., None] & (index[..., None] == indices)
        shape = [1, 1, 1]
        shape[a] = size
        on_slice = on_slice | hit.reshape(*axis.shape, *shape)
    # Cumulative count 1 and a hit: this is the first pair on whose slice the entry lies.
    return on_slice & (on_slice.cumsum(-AXES - 1) == 1)


def split_core(core: Tensor, selection: Tensor) -> Tensor:
    """The sub-tensors S^{α,β} of Eq. 2.

    Args:
        core: S (..., I1, I2, I3, C).
        selection: (..., T, 2), pairs (axis, index).

    Returns:
        (..., T, I1, I2, I3, C); term l is zero off slice β_l along α_l. They sum to S where the
        selection holds all slices of one axis.

    Raises:
        ConfigError: if a pair names an axis or slice that the core lacks.
    """
    owned = ownership(selection.to(core.device), core_sizes(core))
    return core.unsqueeze(-5) * owned[..., None]


def separable_terms(
    decomposition: HOSVD, selection: Tensor
) -> tuple[Orientation, Orientation, Orientation]:
    """The separable kernels of a selection, grouped by the axis of their 1D part (Eq. 3).

    Args:
        decomposition: of kernels (..., J1, J2, J3, C).
        selection: (..., T, 2), pairs (axis, index).

    Returns:
        One group per axis k, each with I_k terms in the order of β; a term that the selection lacks
        is zero. The sum of their ``kernel()`` is the kernel, without the entries of the core that
        no pair owns.

    Raises:
        ConfigError: if a pair names an axis or slice that the core lacks.
    """
    core, factors = decomposition.core, decomposition.factors
    selection = selection.to(core.device)
    owned = ownership(selection, core_sizes(core))
    groups = []
    for axis in range(AXES):
        of_axis = (selection[..., 0] == axis)[..., None, None, None]
        planes = core * (owned & of_axis).any(-AXES - 1)[..., None]
        for other in range(AXES):
            if other != axis:
                planes = mode_product(planes, factors[other], other)
        lines = factors[axis].mT
        groups.append(Orientation(axis, lines, planes.movedim(axis - 4, -4)))
    first, second, third = groups
    return first, second, third


def core_sizes(core: Tensor) -> Triple:
    """(I1, I2, I3) of a core (..., I1, I2, I3, C)."""
    i1, i2, i3 = core.shape[-4:-1]
    return i1, i2, i3


def check_selection(selection: Tensor, sizes: Triple) -> None:
    """Refuse what is no selection of sub-tensors of a core with these sizes.

    Raises:
        ConfigError: naming the first pair that no core of these sizes has.
    """
    if selection.ndim < 2 or selection.shape[-1] != 2 or selection.is_floating_point():
        raise ConfigError(
            "a selection must be an integer tensor (..., T, 2) of pairs (axis, index); got "
            f"{selection.dtype} {tuple(selection.shape)}"
        )
    axis, index = selection.unbind(-1)
    known = (axis >= 0) & (axis < AXES)
    limit = torch.tensor(sizes, device=selection.device)[axis.clamp(0, AXES - 1).long()]
    wrong = ~(known & (index >= 0) & (index < limit))
    if bool(wrong.any()):
        pair = tuple(selection[wrong][0].tolist())
        raise ConfigError(f"no sub-tensor (axis, index) = {pair} in a core of sizes {sizes}")
