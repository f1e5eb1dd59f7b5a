"""The numbers of Figure 2: a real kernel as a sum of separable kernels (Section 3.1, Eqs. 2, 3)."""

from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn

from psc.backbones import UNet
from psc.convolutions import AXES
from psc.decomposition import HOSVD, hosvd, ownership, separable_terms, split_core
from psc.decomposition.separable import core_sizes
from psc.segments import make_segment


@dataclass(frozen=True)
class Term:
    """One sub-tensor of the core, and the separable kernel that it leads to.

    Attributes:
        axis: α, along which the kernel separates: 0, 1 or 2 (D, H, W).
        index: β, from 0.
        core: S^{α,β} (J1, J2, J3), zero elsewhere (Eq. 2).
        owned: bool (J1, J2, J3), the entries of S that it holds.
        rod: A^{l,(α)} (J_α,), of norm 1.
        plane: A^l's other factor, over the other two axes in their order.
        kernel: A^l (J1, J2, J3), the product of the two (Eq. 3).
        energy: its share of the kernel's sum of squares.
    """

    axis: int
    index: int
    core: Tensor
    owned: Tensor
    rod: Tensor
    plane: Tensor
    kernel: Tensor
    energy: float


@dataclass(frozen=True)
class Decomposition:
    """A kernel of one channel (J1, J2, J3), its HOSVD, and terms whose sum is the kernel."""

    kernel: Tensor
    hosvd: HOSVD
    terms: tuple[Term, ...]


def first_kernel(seed: int = 0) -> Tensor:
    """The first kernel of the EM application's U-Net as a training begins, float64 (3, 3, 3).

    Its first convolution reads one channel, so that C = 1, as in the paper's Figure 2b.

    Args:
        seed: of the initialisation; the caller's random state is left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = UNet(make_segment("conv3d"), depth=1)
    convolution = next(m for m in network.modules() if isinstance(m, nn.Conv3d))
    return convolution.weight.detach()[0, 0].double()


def decompose(kernel: Tensor) -> Decomposition:
    """HOSVD of a kernel, and sub-tensors of the core along D, H and W in turn.

    In this order the three orientations share the core, and slices of large singular values come
    first. It ends when the slices of one axis are all taken: then the terms' sum is the kernel.

    Args:
        kernel: (J1, J2, J3), floating point.

    Raises:
        ConfigError: if it has not three axes, is empty, or is not of finite floating-point numbers.
    """
    found = hosvd(kernel.unsqueeze(-1))
    sizes = core_sizes(found.core)
    pairs: list[tuple[int, int]] = []
    for t in count():
        axis, index = t % AXES, t // AXES
        if index < sizes[axis]:
            pairs.append((axis, index))
            if index == sizes[axis] - 1:
                break
    selection = torch.tensor(pairs)
    cores, owned = split_core(found.core, selection), ownership(selection, sizes)
    groups = separable_terms(found, selection)
    total = float(kernel.square().sum()) or 1.0
    terms = tuple(
        Term(
            axis=axis,
            index=index,
            core=cores[t, ..., 0],
            owned=owned[t],
            rod=groups[axis].lines[index],
            plane=groups[axis].planes[index, ..., 0],
            kernel=groups[axis].kernels()[index, ..., 0],
            energy=float(cores[t].square().sum()) / total,
        )
        for t, (axis, index) in enumerate(pairs)
    )
    return Decomposition(kernel, found, terms)
