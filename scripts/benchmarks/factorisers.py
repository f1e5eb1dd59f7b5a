"""Who factorises a layer: ``psc.convert`` in all its forms, tensorly-torch at the same sizes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from benchmarks import tensorly_peer as peer
from psc.block.stream import Merge
from psc.conversion import SeparableConv3d, composed_weight, convert
from psc.errors import ConfigError

__all__ = ["FACTORIZED", "PLAIN", "Entry", "entries_for"]

PLAIN = "nn.Conv3d"
"""The layer itself, with which all are compared."""

FACTORIZED = "factorized"
"""The implementation that computes with the factors: tensorly's name, and the only one of ours."""

_FORMS: Sequence[tuple[int, Merge]] = (
    (1, "concatenate"),
    (2, "concatenate"),
    (3, "concatenate"),
    (2, "sum"),
    (3, "sum"),
)

Implementations = Mapping[str, Callable[[nn.Module], nn.Module]]
_AS_IT_IS: Implementations = {FACTORIZED: lambda module: module}


@dataclass(frozen=True, eq=False)
class Entry:
    """A way to factorise one layer.

    Attributes:
        name: as the table has it.
        rank: M of every stream, or the ranks.
        parameters: of the factorised kernel.
        factorise: the work that is timed.
        kernel: the 3D kernel that the result stands for.
        implementations: the forms in which the result runs, by name.
        failure: why it cannot be tried.
    """

    name: str
    rank: str = ""
    parameters: int | None = None
    factorise: Callable[[], nn.Module] | None = None
    kernel: Callable[[nn.Module], Tensor] | None = None
    implementations: Implementations = field(default_factory=dict)
    failure: str | None = None


def entries_for(conv: nn.Conv3d, iterations: int, memory: float, seed: int) -> dict[Entry, int]:
    """Everyone, with the number of parameters that all of a group may have.

    Args:
        conv: the layer; without bias or groups.
        iterations: at most, of tensorly's alternating least squares.
        memory: gigabytes that the largest matrix of tensorly's CP may take.
        seed: of CP's start.

    Returns:
        The layer itself; then, from many parameters to few, our forms that have as many, and the
        peers with at most as many.
    """
    count = conv.weight.numel()
    plain = Entry(PLAIN, "", count, lambda: conv, lambda c: c.get_parameter("weight"), _AS_IT_IS)
    ours = [_ours(conv, m, merge) for m, merge in _FORMS]
    entries = {plain: count}
    for budget in sorted({entry.parameters or 0 for entry in ours}, reverse=True):
        entries |= {entry: budget for entry in ours if entry.parameters == budget}
        for factorization in peer.FACTORIZATIONS:
            entries[_tensorly(conv, factorization, budget, iterations, memory, seed)] = budget
    return entries


def _ours(conv: nn.Conv3d, m: int, merge: Merge) -> Entry:
    (row,) = convert(conv, m, merge=merge, init="random").report.layers
    joined = "" if m == 1 else (", summed" if merge == "sum" else ", concatenated")

    def kernel(module: nn.Module) -> Tensor:
        assert isinstance(module, SeparableConv3d)
        return composed_weight(module)

    return Entry(
        f"psc m={m}{joined}",
        "+".join(map(str, row.widths)),
        row.parameters[1],
        lambda: convert(conv, m, merge=merge).model,
        kernel,
        _AS_IT_IS,
    )


def _tensorly(
    conv: nn.Conv3d,
    factorization: peer.Factorization,
    budget: int,
    iterations: int,
    memory: float,
    seed: int,
) -> Entry:
    name, shape = f"tensorly {factorization}", tuple(conv.weight.shape)
    try:
        ranks = peer.largest_ranks(factorization, conv.weight, budget)
    except ConfigError as error:
        return Entry(name, failure=str(error))
    rank = "×".join(map(str, ranks))
    stored = peer.stored_numbers(factorization, shape, ranks)
    size = peer.khatri_rao_bytes(shape, ranks) / 1e9
    if factorization == "CP" and size > memory:
        reason = f"left out: its Khatri-Rao product takes {size:.1f} GB, more than {memory:g}"
        return Entry(name, rank, stored, failure=reason)
    return Entry(
        name,
        rank,
        stored,
        partial(peer.factorise, conv, factorization, ranks, iterations=iterations, seed=seed),
        partial(peer.composed_kernel, factorization),
        {
            implementation: partial(
                peer.in_implementation, layer=conv, implementation=implementation
            )
            for implementation in peer.IMPLEMENTATIONS[factorization]
        },
    )
