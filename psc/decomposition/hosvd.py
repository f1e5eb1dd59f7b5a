"""Which sub-tensors of the core to keep, by energy, and the error of dropping the others.

The energy of a tensor is the sum of its squares. The factors U are isometries and the sub-tensors
have disjoint supports, so the squared error of a truncated sum IS the dropped energy.

What no pair of a selection owns is a box of the core: the product, over the three axes, of the
indices that are not selected. So the error depends on the set of pairs, not on their order, and
vanishes for a general kernel only once all slices of one axis are selected.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from psc.block.stream import AXES, Triple
from psc.decomposition.parallel import HOSVD, mode_product
from psc.errors import ConfigError

# ----------------------------------------
# A kernel as a sum of separable kernels, grouped by orientation (Eq. 2 and 3, Figure 2b and 2c).
#
# The sub-tensor S^{α,β} lives on the β-th slice of the core along the α-th spatial axis. Slices of
# different axes cross, so which sub-tensor an entry of S belongs to is a choice. Here it is: a
# *selection* is a list of pairs (α, β), and an entry belongs to the FIRST pair of the list on whose
# slice it lies. So, for any selection in any order, the sub-tensors have disjoint supports.
#
# A selection is an integer tensor (..., T, 2) of pairs (axis, index), both counted from 0; its
# leading axes are those of the core (each output channel has a selection of its own) or none.


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


_ALL_AXES = (0, 1, 2)


def all_sub_tensors(sizes: Triple, axes: Sequence[int] = _ALL_AXES) -> Tensor:
    """Every pair (axis, index), axis by axis: (number of pairs, 2), int64.

    Args:
        sizes: (I1, I2, I3) of the core.
        axes: orientations, in this order; the first takes all entries of the core.

    Raises:
        ConfigError: if an axis is none of 0, 1, 2, or comes twice.
    """
    _check_axes(axes)
    return torch.tensor([(axis, index) for axis in axes for index in range(sizes[axis])])


def dropped_energy(core: Tensor, selection: Tensor) -> Tensor:
    """Energy of the core's entries that no sub-tensor of a selection owns.

    Args:
        core: (..., I1, I2, I3, C).
        selection: (..., T, 2), pairs (axis, index).

    Returns:
        (...), the squared Frobenius error of the truncated sum, kernel by kernel.

    Raises:
        ConfigError: if a pair names an axis or slice that the core lacks.
    """
    sizes = core_sizes(core)
    selection = selection.to(core.device)
    check_selection(selection, sizes)
    energy = core.square().sum(-1)
    return (energy * ~ownership(selection, sizes).any(-AXES - 1)).sum((-3, -2, -1))


def truncation_error(core: Tensor, selection: Tensor) -> Tensor:
    """Frobenius error of the sum of a selection's separable kernels, (...); see dropped_energy."""
    return dropped_energy(core, selection).sqrt()


def greedy_selection(core: Tensor, terms: int, axes: Sequence[int] = _ALL_AXES) -> Tensor:
    """Take, ``terms`` times, the sub-tensor with the most energy among entries not yet taken.

    Its first t pairs are the greedy selection of t terms. Not the best set of that size in general.

    Args:
        core: (..., I1, I2, I3, C).
        terms: T, 1 to the number of all sub-tensors.
        axes: orientations to choose from.

    Returns:
        (..., T, 2) int64, pairs (axis, index), a selection per kernel.

    Raises:
        ConfigError: for a number of terms or an axis that there is not.
    """
    sizes = core_sizes(core)
    candidates = all_sub_tensors(sizes, axes).to(core.device)
    _check_terms(terms, len(candidates))
    energy = core.detach().square().sum(-1)
    chosen = []
    for _ in range(terms):
        gains = torch.cat([_slice_energies(energy, axis) for axis in axes], -1)
        pair = candidates[gains.argmax(-1)]
        chosen.append(pair)
        energy = energy * ~ownership(pair[..., None, :], sizes).squeeze(-AXES - 1)
    return torch.stack(chosen, -2)


def orientation_selection(core: Tensor, axis: int, terms: int) -> Tensor:
    """The ``terms`` sub-tensors of one orientation with the most energy.

    For the core of an HOSVD these are the first ones, and no kernel that is a sum of that many
    separable terms of this orientation is nearer (Eckart and Young 1936).

    Args:
        core: (..., I1, I2, I3, C).
        axis: 0, 1 or 2.
        terms: at least 1; more than the axis has slices are as good as all of them.

    Returns:
        (..., min(terms, I_axis), 2) int64.

    Raises:
        ConfigError: for a number of terms below 1 or an axis that there is not.
    """
    _check_axes((axis,))
    _check_terms(terms, None)
    energies = _slice_energies(core.detach().square().sum(-1), axis)
    index = energies.topk(min(terms, energies.shape[-1]), -1).indices
    return torch.stack([torch.full_like(index, axis), index], -1)


def best_orientation_selection(core: Tensor, terms: int, axes: Sequence[int] = _ALL_AXES) -> Tensor:
    """The best sub-tensors of the orientation that suits each kernel best.

    Args:
        core: (..., I1, I2, I3, C).
        terms: T, at least 1.
        axes: orientations to choose from.

    Returns:
        (..., T, 2) int64, all pairs of one kernel along one axis; where that axis has fewer than T
        slices, the last pair is repeated and owns nothing.

    Raises:
        ConfigError: for a number of terms below 1 or an axis that there is not.
    """
    _check_axes(axes)
    options, errors = [], []
    for axis in axes:
        selection = orientation_selection(core, axis, terms)
        errors.append(dropped_energy(core.detach(), selection))
        missing = terms - selection.shape[-2]
        last = selection[..., -1:, :]
        options.append(torch.cat([selection, *[last] * missing], -2))
    best = torch.stack(errors, -1).argmin(-1)
    stacked = torch.stack(options, -3)  # (..., orientations, T, 2)
    index = best[..., None, None, None].expand(*best.shape, 1, terms, 2)
    return stacked.gather(-3, index).squeeze(-3)


def _slice_energies(energy: Tensor, axis: int) -> Tensor:
    """(..., I1, I2, I3) → (..., I_axis): the energy on each slice along an axis."""
    return energy.sum([other - AXES for other in range(AXES) if other != axis])


def _check_axes(axes: Sequence[int]) -> None:
    if not axes or len(set(axes)) < len(axes) or not set(axes) <= set(_ALL_AXES):
        raise ConfigError(f"axes must be distinct ones of 0, 1, 2 (D, H, W); got {list(axes)}")


def _check_terms(terms: int, most: int | None) -> None:
    if terms < 1 or (most is not None and terms > most):
        limit = "at least 1" if most is None else f"1 to {most}"
        raise ConfigError(f"the number of terms must be {limit}, got {terms}")
