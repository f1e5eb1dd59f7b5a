"""Kernels of psc.convert beside tensorly-torch's at equal parameters: error, time, forward pass.

    python experiments/conversion/peers.py --threads 1 --csv peers.csv [--checkpoint best.ckpt]

Kernels are factorised by ``psc.convert`` at the M of Eq. 5, and by ``FactorizedConv.from_conv`` of
tensorly-torch (CP, Tucker, tensor train) at the ranks that give as many parameters, or as few less
as they can. The error is that of the kernel, ‖W − W'‖ / ‖W‖. Everything runs in fp32.

Forward times are of one layer, without gradients, each contestant in its fastest layout, as ratios
to the plain ``nn.Conv3d`` in its fastest; a column counts convolutions that PyTorch gives to its
slow kernels on a CPU. tensorly-torch runs factor by factor ("factorized"); two more columns have
its other implementations: the three spatial factors as a depthwise 3D convolution ("mobilenet"),
and one 3D convolution whose kernel is put together at every call ("reconstructed", which
``from_conv`` takes unless told otherwise; ``psc.merge_linear`` does that once, for ours).

What is done for tensorly-torch 0.5.0 here, and a user would have to do too:

* Ranks. Its rule "same" gives up to 5 % more parameters than the convolution has (CP, Tucker), or a
  quarter of them (TT, with an error of 0.9), so ranks are chosen here: CP's is the largest that
  fits; those of Tucker and TT are cut down from the exact ones, always where the singular values of
  the kernel say that it costs least. That choice is not part of its time.
* ``from_conv`` takes the stride of the first axis for all. ``from_factorization`` does not, and
  gives the same weights another implementation.
* CP starts from random numbers beyond the kernel's own sizes; they get a seed. Its warnings about
  that are not shown.
"""

import copy
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import benchmark
import torch
from benchmarks import timing
from benchmarks.networks import choose_levels
from benchmarks.timing import Conditions, Layout, Row, Steps, Timing, ratio
from torch import Tensor, nn

from psc.block.block import Merge
from psc.conversion import composed_weight, convert
from psc.errors import ConfigError
from psc.training.checkpoints import read_checkpoint

Factorization = Literal["CP", "Tucker", "TT"]
Ranks = tuple[int, ...]

FACTORIZED = "factorized"
IMPLEMENTATIONS: Mapping[Factorization, tuple[str, ...]] = {
    "CP": (FACTORIZED, "mobilenet", "reconstructed"),
    "Tucker": (FACTORIZED, "reconstructed"),
    "TT": (FACTORIZED, "reconstructed"),
}
STEM = "stem"
LAYERS = ("24-72", "64-64", "128-128", "256-256", STEM)
"""Of the paper's U-Net and ResNet, 3x3x3, and r3d_18's first: 3 to 64 channels, 3x7x7."""

STEM_INPUT = (16, 64, 64)  # a small clip; r3d_18's own are 16 x 112 x 112
TRAINED_INPUT = (32, 32, 32)
FORMS: tuple[tuple[int, Merge], ...] = (
    *((m, "concatenate") for m in (1, 2, 3)),
    *((m, "sum") for m in (2, 3)),
)
QUICK = 1.0  # seconds; what factorises faster is measured again, in rounds


def run(
    on: Conditions,
    *,
    layers: Sequence[str] = LAYERS,
    checkpoint: Path | None = None,
    iterations: int = 100,
    memory: float = 2.0,
    size: int | None = None,
    layouts: Sequence[Layout] = tuple(timing.LAYOUTS),
    repeats: int = 3,
    seed: int = 0,
) -> timing.Report:
    """How near psc.convert's kernels and tensorly-torch's are, and what they cost.

    Options:
        layers: with random kernels: 64-64, stem, ...
        checkpoint: of train.py, whose trained kernels are compared too.
        iterations: at most, of the alternating least squares of CP and Tucker (100: its default).
        memory: gigabytes; CP is left out where its Khatri-Rao product takes more.
        size: most voxels per axis of a layer's input.
    """
    try:
        import tltorch  # noqa: F401
    except ImportError:
        raise ConfigError("not installed: pip install tensorly tensorly-torch") from None
    kernels = random_layers(layers, on.device, size, seed)
    if checkpoint is not None:
        kernels += trained_layers(checkpoint, on.device, size)
    rows = [
        row
        for layer in kernels
        for row in compare(layer, on, layouts, repeats, iterations, memory, seed)
    ]
    tables = {"at equal parameters": rows, "side by side": side_by_side(rows)}
    return timing.Report(tables, {"device": on.device, "clock": on.clock_name})


@dataclass(frozen=True)
class Layer:
    """A 3D convolution and the size of its input."""

    name: str  # channels ("24-72"), "stem", or its path in the trained network
    kernels: str  # "random" or "trained"
    convolution: nn.Conv3d  # without bias, which no factorisation touches
    shape: tuple[int, ...]  # (N, C, D, H, W) of the input

    def input(self, seed: int) -> Tensor:
        """The same values at every call."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.shape, generator=generator).to(self.convolution.weight.device)


def random_layers(names: Sequence[str], device: str, size: int | None, seed: int) -> list[Layer]:
    """Layers as PyTorch initialises them, same padding, inputs as in the benchmark of the block."""
    if unknown := [name for name in names if name not in LAYERS]:
        raise ConfigError(f"layers {unknown}: there are {', '.join(LAYERS)}")
    torch.manual_seed(seed)
    found = []
    levels = [name for name in names if name != STEM]
    for level in choose_levels(levels, device, size=size, batch_size=1):
        conv = nn.Conv3d(level.in_channels, level.out_channels, 3, padding=1, bias=False)
        found.append(_layer(level.name, "random", conv, level.shape, device, None))
    if STEM in names:
        stem = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
        found.append(_layer(STEM, "random", stem, STEM_INPUT, device, size))
    return found


def trained_layers(checkpoint: Path, device: str, size: int | None) -> list[Layer]:
    """What ``psc.convert`` would convert in a trained network, the first of each kernel's shape."""
    network = read_checkpoint(checkpoint).network()
    first: dict[tuple[int, ...], tuple[str, Tensor]] = {}
    for row in convert(network, init="random").report.converted:
        trained = network.get_parameter(f"{row.name}.weight").detach()
        first.setdefault(tuple(trained.shape), (row.name, trained))
    if not first:
        raise ConfigError(
            f"checkpoint={checkpoint} has no 3D convolution to convert; only networks of block=3d "
            "have"
        )
    layers = []
    for (out, channels, *kernel), (name, weight) in first.items():
        padding: Any = tuple(k // 2 for k in kernel)
        conv = nn.Conv3d(channels, out, tuple(kernel), padding=padding, bias=False)  # type: ignore[arg-type]
        conv.weight.data.copy_(weight)
        layers.append(_layer(name, "trained", conv, TRAINED_INPUT, device, size))
    return layers


def _layer(
    name: str, kernels: str, conv: nn.Conv3d, voxels: Sequence[int], device: str, size: int | None
) -> Layer:
    shape = (1, conv.in_channels, *(min(n, size or n) for n in voxels))
    return Layer(name, kernels, conv.to(device).requires_grad_(False), shape)


@dataclass(frozen=True, eq=False)
class Entry:
    """A way to factorise one layer."""

    name: str  # as the table has it
    at_most: int  # parameters that it may have
    rank: str = ""  # M of every stream, or the ranks
    parameters: int | None = None  # of the factorised kernel
    # the work that is timed; None where it cannot be tried
    factorise: Callable[[], nn.Module] | None = None
    # the 3D kernel that the result stands for
    kernel: Callable[[Any], Tensor] = composed_weight
    # the result in one of these implementations
    implement: Callable[[str, nn.Module], nn.Module] = lambda _, made: made
    implementations: tuple[str, ...] = (FACTORIZED,)
    failure: str | None = None  # why it cannot be tried


def compare(
    layer: Layer,
    on: Conditions,
    layouts: Sequence[Layout],
    repeats: int,
    iterations: int,
    memory: float,
    seed: int,
) -> list[Row]:
    """Factorise one layer by everyone, then run all results in turn.

    Rounds are of factorising too, but for what takes more than a second: that is one run. The first
    row is the layer itself; then come, for each number of parameters that our forms have, from many
    to few, those forms and the peers with at most as many.
    """
    conv = layer.convolution
    count = conv.weight.numel()
    plain = Entry("nn.Conv3d", count, "", count, lambda: conv, lambda c: c.get_parameter("weight"))
    ours = [_ours(conv, m, merge) for m, merge in FORMS]
    entries = [plain]
    for budget in sorted({entry.at_most for entry in ours}, reverse=True):
        entries += [entry for entry in ours if entry.at_most == budget]
        entries += [
            _tensorly(conv, factorization, budget, iterations, memory, seed)
            for factorization in IMPLEMENTATIONS
        ]
    made = _factorise(entries, on, repeats)

    def ready(entry: Entry, implementation: str) -> tuple[nn.Module, Tensor]:
        module = made[entry][0]
        assert module is not None
        # A copy: a layout changes the weights, which implementations share.
        return copy.deepcopy(entry.implement(implementation, module)), layer.input(seed)

    runs = {
        (entry, name, layout): Steps(partial(ready, entry, name), layout, "fp32", on.device)
        for entry, (module, _) in made.items()
        if module is not None
        for name in entry.implementations
        for layout in layouts
    }
    forward = {form: steps.forward for form, steps in runs.items()}
    timings = timing.interleave(forward, repeats, on.finish)

    def fastest(entry: Entry, implementation: str) -> tuple[float | None, Layout | None]:
        found = [
            (seconds, layout)
            for layout in layouts
            if (one := timings.get((entry, implementation, layout)))
            and (seconds := one.median(on.clock)) is not None
        ]
        return min(found, default=(None, None))

    reference, _ = fastest(plain, FACTORIZED)
    rows = []
    for entry in entries:
        module, work = made[entry]
        seconds, layout = fastest(entry, FACTORIZED)
        error = slow = None
        if module is not None:
            error = float((conv.weight - entry.kernel(module)).norm() / conv.weight.norm())
        if layout is not None:
            steps = runs[entry, FACTORIZED, layout]
            slow = timing.slow_convolutions(steps.forward, on.device)
        failures = (t.failure for form, t in timings.items() if form[0] is entry)
        rows.append(
            {
                "kernels": layer.kernels,
                "layer": layer.name,
                "kernel": "x".join(map(str, conv.weight.shape)),
                "input": "x".join(map(str, layer.shape)),
                "at_most": entry.at_most,
                "contestant": entry.name,
                "rank": entry.rank,
                "parameters": entry.parameters,
                "error": error,
                # Of the layer itself nothing is factorised.
                "factorise_seconds": None if entry is plain else work.median(on.clock),
                "factorise_runs": None if entry is plain else len(work.cpu),
                "forward_seconds": seconds,
                "forward_ratio": ratio(seconds, reference),
                "layout": layout,
                "slow_convolutions": slow,
                **{
                    f"{other}_ratio": ratio(fastest(entry, other)[0], reference)
                    for other in ("mobilenet", "reconstructed")
                },
                "fails": work.failure or next((f for f in failures if f is not None), None),
            }
        )
    return rows


def _factorise(
    entries: Sequence[Entry], on: Conditions, repeats: int
) -> dict[Entry, tuple[nn.Module | None, Timing]]:
    """Everyone's result and how long it took; who is quick is measured again, in rounds."""
    made: dict[Entry, tuple[nn.Module | None, Timing]] = {}
    quick = {}
    for entry in entries:
        made[entry] = None, Timing(failure=entry.failure)
        if (work := entry.factorise) is not None:
            results: list[nn.Module] = []
            try:
                call = partial(_keep, work, results)
                cpu, wall = timing.measured(call, finish=on.finish)
            except Exception as error:  # another library's; the others go on
                made[entry] = None, Timing(failure=timing.failure(error))
                continue
            made[entry] = results[0], Timing((cpu,), (wall,))
            if wall < QUICK:
                quick[entry] = work
    rounds = timing.interleave(quick, repeats, on.finish)
    return made | {entry: (made[entry][0], rounds[entry]) for entry in quick}


def _keep(work: Callable[[], nn.Module], results: list[nn.Module]) -> None:
    results.append(work())


def _ours(conv: nn.Conv3d, m: int, merge: Merge) -> Entry:
    (row,) = convert(conv, m, merge=merge, init="random").report.layers
    joined = "" if m == 1 else (", summed" if merge == "sum" else ", concatenated")
    work = partial(convert, conv, m, merge=merge)
    parameters, widths = row.parameters[1], "+".join(map(str, row.widths))
    return Entry(f"psc m={m}{joined}", parameters, widths, parameters, lambda: work().model)


def _tensorly(
    conv: nn.Conv3d,
    factorization: Factorization,
    budget: int,
    iterations: int,
    memory: float,
    seed: int,
) -> Entry:
    name, shape = f"tensorly {factorization}", tuple(conv.weight.shape)
    try:
        ranks = largest_ranks(factorization, conv.weight, budget)
    except ConfigError as error:
        return Entry(name, budget, failure=str(error))
    rank, stored = "×".join(map(str, ranks)), stored_numbers(factorization, shape, ranks)
    # The largest matrix that CP's alternating least squares builds, in float32.
    size = 4 * ranks[0] * math.prod(shape) // min(shape) / 1e9
    if factorization == "CP" and size > memory:
        reason = f"left out: its Khatri-Rao product takes {size:.1f} GB, more than {memory:g}"
        return Entry(name, budget, rank, stored, failure=reason)
    return Entry(
        name,
        budget,
        rank,
        stored,
        partial(factorise, conv, factorization, ranks, iterations=iterations, seed=seed),
        partial(composed_kernel, factorization),
        partial(in_implementation, conv),
        IMPLEMENTATIONS[factorization],
    )


def factorise(
    layer: nn.Conv3d, factorization: Factorization, ranks: Ranks, *, iterations: int, seed: int
) -> nn.Module:
    """``FactorizedConv.from_conv`` of a layer without bias or groups, to run factor by factor."""
    from tltorch import FactorizedConv

    options: dict[str, Any] = {}
    if factorization != "TT":  # which is a sequence of SVDs
        options = {"n_iter_max": iterations, "random_state": seed}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="tensorly")
        factorised: nn.Module = FactorizedConv.from_conv(
            layer,
            rank={"CP": ranks[0], "Tucker": ranks, "TT": (1, *ranks, 1)}[factorization],
            factorization=factorization,
            implementation=FACTORIZED,
            decomposition_kwargs=options,
        )
    return factorised


def in_implementation(layer: nn.Conv3d, implementation: str, factorised: nn.Module) -> nn.Module:
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


def stored_numbers(factorization: Factorization, shape: Sequence[int], ranks: Ranks) -> int:
    """Parameters of a factorised kernel (out, in, kD, kH, kW).

    Ranks: CP: (R,); Tucker: one per axis of the shape; TT: the four inner ones, where the axes are
    (in, kD, kH, kW, out).
    """
    if factorization == "CP":
        return ranks[0] * (1 + sum(shape))
    if factorization == "Tucker":
        return math.prod(ranks) + sum(n * r for n, r in zip(shape, ranks, strict=True))
    train = (1, *ranks, 1)
    return sum(train[i] * n * train[i + 1] for i, n in enumerate((*shape[1:], shape[0])))


def largest_ranks(factorization: Factorization, kernel: Tensor, budget: int) -> Ranks:
    """Ranks with at most ``budget`` parameters, such that one more on any axis is too many."""
    shape = tuple(kernel.shape)
    if factorization == "CP":
        ranks: Ranks = (budget // (1 + sum(shape)),)
    else:  # the matrices whose ranks Tucker and TT limit
        unfolded = [kernel.movedim(axis, 0).flatten(1) for axis in range(kernel.ndim)]
        if factorization == "TT":
            train = kernel.movedim(0, -1)
            unfolded = [train.flatten(i).flatten(0, i - 1) for i in range(1, kernel.ndim)]
        energies = [torch.linalg.svdvals(matrix).square().tolist() for matrix in unfolded]
        ranks = _cut_down(energies, lambda r: stored_numbers(factorization, shape, r), budget)
    if min(ranks) < 1 or stored_numbers(factorization, shape, ranks) > budget:
        raise ConfigError(f"no {factorization} of a kernel {shape} has at most {budget} parameters")
    return ranks


def _cut_down(
    energies: Sequence[Sequence[float]], stored: Callable[[Ranks], int], budget: int
) -> Ranks:
    """From the exact ranks to those that fit, dropping the least energy per parameter saved."""
    full = [len(energy) for energy in energies]
    ranks = list(full)

    def changed(axis: int, by: int) -> Ranks:
        return (*ranks[:axis], ranks[axis] + by, *ranks[axis + 1 :])

    while (surplus := stored(tuple(ranks)) - budget) > 0:
        cost = {
            axis: energies[axis][ranks[axis] - 1] / min(surplus, saved)
            for axis in range(len(ranks))
            if ranks[axis] > 1
            # Saving more than is too much is worth nothing.
            and (saved := stored(tuple(ranks)) - stored(changed(axis, -1))) > 0
        }
        if not cost:
            break
        ranks[min(cost, key=cost.__getitem__)] -= 1
    while gain := {
        axis: energies[axis][ranks[axis]]
        for axis in range(len(ranks))
        if ranks[axis] < full[axis] and stored(changed(axis, 1)) <= budget
    }:
        ranks[max(gain, key=gain.__getitem__)] += 1
    return tuple(ranks)


def side_by_side(rows: Sequence[Row]) -> list[Row]:
    """Error, seconds to factorise, and forward time of each form of ours beside its peers'.

    A row per layer and form of ours; peers have at most its number of parameters. Forward is the
    fastest way to compute with the factors, as a ratio to ``nn.Conv3d``. That everybody's factors
    can be put together to one 3D convolution (ours by ``psc.merge_linear``) is no gain.
    """
    lines = []
    for mine in rows:
        if not mine["contestant"].startswith("psc "):
            continue
        same = ("kernels", "layer", "at_most")
        beside = [row for row in rows if all(row[key] == mine[key] for key in same)]
        contestants = {"psc": mine} | {
            row["contestant"].removeprefix("tensorly "): row
            for row in beside
            if row["contestant"].startswith("tensorly ")
        }
        line: Row = {key: mine[key] for key in ("kernels", "layer", "kernel")}
        line |= {"psc": mine["contestant"].removeprefix("psc "), "parameters": mine["parameters"]}
        line |= {f"{name}_error": row["error"] for name, row in contestants.items()}
        line |= {f"{name}_seconds": row["factorise_seconds"] for name, row in contestants.items()}
        for name, row in contestants.items():
            ratios = [row["forward_ratio"], row["mobilenet_ratio"]]
            line[f"{name}_forward"] = min((r for r in ratios if r is not None), default=None)
        lines.append(line)
    return lines


if __name__ == "__main__":
    sys.exit(benchmark.main(["peers", *sys.argv[1:]], {"peers": run}))
