"""One kernel as a sum of separable kernels: HOSVD (Section 3.1, Figure 2a), Eq. 2 and Eq. 3.

A kernel is A (J1, J2, J3, C): three spatial axes and the channels that it reads; those of an
``nn.Conv3d`` are ``weight.movedim(1, -1)``, (out, kD, kH, kW, in). Only the spatial axes are
transformed. Any leading axes are a batch, so that a whole layer is taken at once.

The sub-tensor S^{α,β} lives on the β-th slice of the core along the α-th spatial axis. Slices of
different axes cross, so which sub-tensor an entry of S belongs to is a choice. Here it is: a
*selection* is an integer tensor (..., T, 2) of pairs (axis, index), both from 0, and an entry
belongs to the FIRST pair on whose slice it lies. So, for any selection in any order, the
sub-tensors have disjoint supports. Its leading axes are those of the core (each output channel has
a selection of its own) or none.

What no pair owns is a box of the core: the product, over the axes, of the indices that are not
selected. So the error of dropping it depends on the set of pairs, not on their order, and vanishes
for a general kernel only once all slices of one axis are selected.

Below, a kernel is (..., J1, J2, J3, C), its core (..., I1, I2, I3, C), ``sizes`` are (I1, I2, I3),
and ``axes`` are the orientations that may be chosen. ConfigError is raised for what is no kernel,
and for axes, slices and numbers of terms that a core lacks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from psc.block.convolution import AXES, Triple
from psc.errors import ConfigError

_TENSOR_AXES = AXES + 1  # spatial ones and channels
_ALL_AXES = (0, 1, 2)


@dataclass(frozen=True)
class HOSVD:
    """A = S ×₁ U⁽¹⁾ ×₂ U⁽²⁾ ×₃ U⁽³⁾, S in the paper the singular value tensor.

    Its slices along one spatial axis are orthogonal to each other; their norms are that axis'
    singular values.
    """

    core: Tensor  # S (..., I1, I2, I3, C)
    factors: tuple[Tensor, ...]  # U⁽ᵏ⁾ (..., J_k, I_k) per spatial axis, columns orthonormal
    singular_values: tuple[Tensor, ...]  # (..., I_k) per spatial axis, descending

    def reconstruct(self) -> Tensor:
        """A (..., J1, J2, J3, C) again."""
        return _transform(self.core, self.factors)


def hosvd(kernel: Tensor) -> HOSVD:
    """Decompose kernels by one thin SVD per spatial axis (De Lathauwer et al. 2000).

    I_k is J_k, or less where a kernel is so long and thin that its unfolding has fewer columns than
    rows. Differentiable where singular values differ from each other and from zero. Results are of
    the kernel's dtype and on its device; half precision is computed in float32.
    """
    work = checked_kernel(kernel, _TENSOR_AXES, "(..., J1, J2, J3, C)")
    factors: list[Tensor] = []
    singular_values: list[Tensor] = []
    for axis in range(AXES):
        unfolded = work.movedim(axis - _TENSOR_AXES, -_TENSOR_AXES).flatten(-AXES)
        left, values, _ = torch.linalg.svd(unfolded, full_matrices=False)
        factors.append(left)
        singular_values.append(values)
    core = _transform(work, [factor.mT for factor in factors])
    dtype = kernel.dtype
    u, s = (tuple(part.to(dtype) for part in parts) for parts in (factors, singular_values))
    return HOSVD(core.to(dtype), u, s)


def checked_kernel(kernel: Tensor, smallest_dimension: int, meaning: str) -> Tensor:
    """A kernel in the precision to decompose it in: half precision in float32, for lack of an SVD.

    ``meaning`` are its axes, for the message.
    """
    if kernel.ndim < smallest_dimension or kernel.numel() == 0:
        raise ConfigError(f"a kernel must be {meaning}, none of them 0; got {tuple(kernel.shape)}")
    if not kernel.is_floating_point():
        raise ConfigError(
            f"a kernel must be of floating-point numbers, got {kernel.dtype}; dequantise it first"
        )
    if not bool(torch.isfinite(kernel).all()):
        raise ConfigError("a kernel holds values that are not finite: its training has diverged")
    return kernel if kernel.dtype in (torch.float32, torch.float64) else kernel.float()


def _mode_product(tensor: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """×_axis: (..., J1, J2, J3, C) and a matrix (..., I, J_axis) → I in place of J_axis."""
    lines = tensor.movedim(axis - _TENSOR_AXES, -1)
    product = lines.flatten(-_TENSOR_AXES, -2) @ matrix.mT
    product = product.reshape(*lines.shape[:-1], matrix.shape[-2])
    return product.movedim(-1, axis - _TENSOR_AXES)


def _transform(tensor: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Times one matrix along every spatial axis, ×₁ M⁽¹⁾ ×₂ M⁽²⁾ ×₃ M⁽³⁾."""
    for axis, matrix in enumerate(matrices):
        tensor = _mode_product(tensor, matrix, axis)
    return tensor


@dataclass(frozen=True)
class Orientation:
    """One bracket of Eq. 3: separable kernels whose 1D parts lie along the same axis."""

    axis: int  # k of Eq. 3, from 0
    lines: Tensor  # A^{l,(k)} (..., T, J_axis), the 1D kernels
    planes: Tensor  # the 2D kernels (..., T, J_p, J_q, C); p < q are the other axes

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
    """Which entries of the core belong to which sub-tensor of a selection: (..., T, I1, I2, I3).

    Every entry is owned at most once; a pair that comes a second time owns nothing.
    """
    if selection.ndim < 2 or selection.shape[-1] != 2 or selection.is_floating_point():
        raise ConfigError(
            "a selection must be an integer tensor (..., T, 2) of pairs (axis, index); got "
            f"{selection.dtype} {tuple(selection.shape)}"
        )
    axis, index = selection.unbind(-1)
    limit = torch.tensor(sizes, device=selection.device)[axis.clamp(0, AXES - 1).long()]
    wrong = (axis < 0) | (axis >= AXES) | (index < 0) | (index >= limit)
    if bool(wrong.any()):
        pair = tuple(selection[wrong][0].tolist())
        raise ConfigError(f"no sub-tensor (axis, index) = {pair} in a core of sizes {sizes}")
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
    """The sub-tensors S^{α,β} of Eq. 2: (..., T, I1, I2, I3, C).

    Term l is zero off slice β_l along α_l. They sum to S where the selection holds all slices of
    one axis.
    """
    owned = ownership(selection.to(core.device), core_sizes(core))
    return core.unsqueeze(-5) * owned[..., None]


def separable_terms(
    decomposition: HOSVD, selection: Tensor
) -> tuple[Orientation, Orientation, Orientation]:
    """The separable kernels of a selection, one group per axis k of their 1D part (Eq. 3).

    Each has I_k terms in the order of β; a term that the selection lacks is zero. The sum of their
    ``kernel()`` is the kernel, without the entries of the core that no pair owns.
    """
    core, factors = decomposition.core, decomposition.factors
    selection = selection.to(core.device)
    owned = ownership(selection, core_sizes(core))

    def group(axis: int) -> Orientation:
        of_axis = (selection[..., 0] == axis)[..., None, None, None]
        planes = core * (owned & of_axis).any(-AXES - 1)[..., None]
        for other in range(AXES):
            if other != axis:
                planes = _mode_product(planes, factors[other], other)
        return Orientation(axis, factors[axis].mT, planes.movedim(axis - 4, -4))

    return group(0), group(1), group(2)


def core_sizes(core: Tensor) -> Triple:
    """(I1, I2, I3) of a core (..., I1, I2, I3, C)."""
    i1, i2, i3 = core.shape[-4:-1]
    return i1, i2, i3


def all_sub_tensors(sizes: Triple, axes: Sequence[int] = _ALL_AXES) -> Tensor:
    """Every pair (axis, index) in the order of the axes: (number of pairs, 2), int64.

    The first axis takes all entries of the core.
    """
    if not axes or len(set(axes)) < len(axes) or not set(axes) <= set(_ALL_AXES):
        raise ConfigError(f"axes must be distinct ones of 0, 1, 2 (D, H, W); got {list(axes)}")
    return torch.tensor([(axis, index) for axis in axes for index in range(sizes[axis])])


def dropped_energy(core: Tensor, selection: Tensor) -> Tensor:
    """Energy (sum of squares) of the core's entries that no sub-tensor of a selection owns, (...).

    The factors U are isometries and the sub-tensors have disjoint supports, so this IS the squared
    error of the truncated sum, kernel by kernel.
    """
    owned = ownership(selection.to(core.device), core_sizes(core))
    return (core.square().sum(-1) * ~owned.any(-AXES - 1)).sum((-3, -2, -1))


def greedy_selection(core: Tensor, terms: int, axes: Sequence[int] = _ALL_AXES) -> Tensor:
    """Take, ``terms`` times, the sub-tensor with the most energy among entries not yet taken.

    (..., T, 2) int64, a selection per kernel; its first t pairs are the greedy selection of t
    terms. Not the best set of that size in general.
    """
    sizes = core_sizes(core)
    candidates = all_sub_tensors(sizes, axes).to(core.device)
    if not 1 <= terms <= len(candidates):
        raise ConfigError(f"the number of terms must be 1 to {len(candidates)}, got {terms}")
    energy = core.detach().square().sum(-1)
    chosen = []
    for _ in range(terms):
        others = [[other - AXES for other in range(AXES) if other != axis] for axis in axes]
        gains = torch.cat([energy.sum(dims) for dims in others], -1)  # of every slice
        pair = candidates[gains.argmax(-1)]
        chosen.append(pair)
        energy = energy * ~ownership(pair[..., None, :], sizes).squeeze(-AXES - 1)
    return torch.stack(chosen, -2)
