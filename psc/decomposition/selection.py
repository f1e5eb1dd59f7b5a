"""Which sub-tensors of the core to keep, by energy, and the error of dropping the others.

The energy of a tensor is the sum of its squares. The factors U are isometries and the sub-tensors
have disjoint supports, so the squared error of a truncated sum IS the dropped energy.

What no pair of a selection owns is a box of the core: the product, over the three axes, of the
indices that are not selected. So the error depends on the set of pairs, not on their order, and
vanishes for a general kernel only once all slices of one axis are selected.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from psc.convolutions import AXES, Triple
from psc.decomposition.separable import check_selection, core_sizes, ownership
from psc.errors import ConfigError

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
