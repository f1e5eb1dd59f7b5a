"""``FactorizedConv.from_conv`` of tensorly-torch, the peer of ``psc.convert``, at a given size.

What is done for it here, and a user would have to do too (tensorly-torch 0.5.0):

* Ranks. Its rule "same" gives up to 5 % more parameters than the convolution has (CP, Tucker), or a
  quarter of them (TT, with an error of 0.9), so ranks are chosen here: CP's is the largest that
  fits; those of Tucker and TT are cut down from the exact ones, always where the singular values of
  the kernel say that it costs least. That choice is not part of its time.
* ``from_conv`` takes the stride of the first axis for all. ``from_factorization`` does not, and
  gives the same weights another implementation.
* CP starts from random numbers beyond the kernel's own sizes; they get a seed.
* Its warnings about that start are not shown.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from psc.errors import ConfigError

__all__ = [
    "FACTORIZATIONS",
    "IMPLEMENTATIONS",
    "Factorization",
    "Ranks",
    "composed_kernel",
    "factorise",
    "in_implementation",
    "khatri_rao_bytes",
    "largest_ranks",
    "require",
    "stored_numbers",
]

Factorization = Literal["CP", "Tucker", "TT"]
Ranks = tuple[int, ...]

FACTORIZATIONS: tuple[Factorization, ...] = get_args(Factorization)

IMPLEMENTATIONS: Mapping[Factorization, tuple[str, ...]] = {
    "CP": ("factorized", "mobilenet", "reconstructed"),
    "Tucker": ("factorized", "reconstructed"),
    "TT": ("factorized", "reconstructed"),
}
"""How each can run: factor by factor; the three spatial ones as a depthwise 3D convolution (CP); or
as one 3D convolution whose kernel is put together at every call. ``from_conv`` takes the last
unless told otherwise."""


def require() -> None:
    """Refuse to go on without the peer.

    Raises:
        ConfigError: with the command that installs it.
    """
    try:
        import tltorch  # noqa: F401
    except ImportError:
        raise ConfigError(
            "tensorly-torch is not installed: pip install tensorly tensorly-torch, or leave it out "
            "with --parts speed"
        ) from None


def stored_numbers(factorization: Factorization, shape: Sequence[int], ranks: Ranks) -> int:
    """Parameters of a factorised kernel.

    Args:
        factorization: its kind.
        shape: (out, in, kD, kH, kW).
        ranks: CP: (R,); Tucker: one per axis of the shape; TT: the four inner ones, where the axes
            are (in, kD, kH, kW, out).
    """
    if factorization == "CP":
        return ranks[0] * (1 + sum(shape))
    if factorization == "Tucker":
        return math.prod(ranks) + sum(n * r for n, r in zip(shape, ranks, strict=True))
    train = (1, *ranks, 1)
    sizes = _train_order(shape)
    return sum(train[i] * n * train[i + 1] for i, n in enumerate(sizes))


def largest_ranks(factorization: Factorization, kernel: Tensor, budget: int) -> Ranks:
    """Ranks with at most ``budget`` parameters, such that one more on any axis is too many.

    Args:
        factorization: its kind.
        kernel: (out, in, kD, kH, kW).
        budget: parameters.

    Raises:
        ConfigError: if the smallest one has more.
    """
    shape = tuple(kernel.shape)
    if factorization == "CP":
        ranks: Ranks = (budget // (1 + sum(shape)),)
    else:
        energies = [torch.linalg.svdvals(m).square() for m in _unfoldings(factorization, kernel)]
        ranks = _cut_down(energies, lambda r: stored_numbers(factorization, shape, r), budget)
    if min(ranks) < 1 or stored_numbers(factorization, shape, ranks) > budget:
        raise ConfigError(f"no {factorization} of a kernel {shape} has at most {budget} parameters")
    return ranks


def _cut_down(energies: Sequence[Tensor], stored: Callable[[Ranks], int], budget: int) -> Ranks:
    """From the exact ranks to those that fit, dropping the least energy per parameter saved."""
    values = [energy.tolist() for energy in energies]
    full = [len(energy) for energy in values]
    ranks = list(full)

    def changed(axis: int, by: int) -> Ranks:
        return (*ranks[:axis], ranks[axis] + by, *ranks[axis + 1 :])

    while (surplus := stored(tuple(ranks)) - budget) > 0:
        cost = {
            axis: values[axis][ranks[axis] - 1] / min(surplus, saved)
            for axis in range(len(ranks))
            if ranks[axis] > 1
            # Saving more than is too much is worth nothing.
            and (saved := stored(tuple(ranks)) - stored(changed(axis, -1))) > 0
        }
        if not cost:
            break
        ranks[min(cost, key=cost.__getitem__)] -= 1
    while gain := {
        axis: values[axis][ranks[axis]]
        for axis in range(len(ranks))
        if ranks[axis] < full[axis] and stored(changed(axis, 1)) <= budget
    }:
        ranks[max(gain, key=gain.__getitem__)] += 1
    return tuple(ranks)


def _unfoldings(factorization: Factorization, kernel: Tensor) -> list[Tensor]:
    """The matrices whose ranks Tucker and TT limit."""
    if factorization == "Tucker":
        return [kernel.movedim(axis, 0).flatten(1) for axis in range(kernel.ndim)]
    train = kernel.movedim(0, -1)
    return [train.flatten(axis).flatten(0, axis - 1) for axis in range(1, kernel.ndim)]


def khatri_rao_bytes(shape: Sequence[int], ranks: Ranks) -> int:
    """Size of the largest matrix that CP's alternating least squares builds, in float32."""
    return 4 * ranks[0] * math.prod(shape) // min(shape)


def factorise(
    layer: nn.Conv3d, factorization: Factorization, ranks: Ranks, *, iterations: int, seed: int
) -> nn.Module:
    """``FactorizedConv.from_conv``, to run factor by factor.

    Args:
        layer: without bias or groups.
        factorization: its kind.
        ranks: see ``stored_numbers``.
        iterations: at most, of the alternating least squares of CP and Tucker.
        seed: of CP's start.
    """
    from tltorch import FactorizedConv

    options: dict[str, Any] = {}
    if factorization != "TT":  # which is a sequence of SVDs
        options = {"n_iter_max": iterations, "random_state": seed}
    rank = {"CP": ranks[0], "Tucker": ranks, "TT": (1, *ranks, 1)}[factorization]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="tensorly")
        factorised: nn.Module = FactorizedConv.from_conv(
            layer,
            rank=rank,
            factorization=factorization,
            implementation="factorized",
            decomposition_kwargs=options,
        )
    return factorised


def in_implementation(factorised: nn.Module, layer: nn.Conv3d, implementation: str) -> nn.Module:
    """The same weights, with the stride of the layer, in one of ``IMPLEMENTATIONS``."""
    from tltorch import FactorizedConv

    module: nn.Module = FactorizedConv.from_factorization(
        factorised.weight,
        implementation=implementation,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
    )
    return module


@torch.no_grad()
def composed_kernel(factorization: Factorization, factorised: nn.Module) -> Tensor:
    """The kernel (out, in, kD, kH, kW) that a factorised one stands for."""
    weight: Any = factorised.weight
    kernel: Tensor = weight.to_tensor()
    return kernel.movedim(-1, 0) if factorization == "TT" else kernel


def _train_order(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape[1:], shape[0])
