"""What a conversion did, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn
from torch.nn.parameter import is_lazy

from psc.block.stream import Merge, Triple
from psc.conversion.factors import Initialisation, composed_layers, kernel_error, run_error
from psc.conversion.following import Run
from psc.conversion.layers import ParallelStreams, SeparableConv3d, SeparableRun3d
from psc.conversion.observation import Observation
from psc.conversion.plan import Plan

Status = Literal["converted", "merged", "kept", "skipped"]


@dataclass(frozen=True)
class LayerReport:
    """One 3D convolution of the network.

    Attributes:
        name: its path; "" if it is the network itself.
        status: "merged": its block stands at an earlier layer, n > 1; "kept": not asked for, or
            nothing to separate; "skipped": it cannot be converted.
        reason: for what is not converted.
        kernel_size, groups, in_channels, out_channels: of the Conv3d.
        widths: M of every stream, in filters per group; empty unless converted.
        relative_error: ‖W − its replacement‖ / ‖W‖ of the kernel, with n > 1 of the composed kernel
            of all layers that the block replaces; None unless converted, on the meta device, and
            for runs without an example input.
        parameters: before and after; the first layer's of a run are those of all its layers.
        multiply_adds: likewise; None without an example input.
    """

    name: str
    status: Status
    reason: str | None
    kernel_size: Triple
    groups: int
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    relative_error: float | None
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int] | None


@dataclass(frozen=True)
class ConversionReport:
    """All 3D convolutions of a network, and the network's totals.

    Attributes:
        m, n, merge, init: as asked for.
        layers: in the order of the network's modules.
        parameters: of the whole network, before and after.
        multiply_adds: MACs of a forward pass of the example input, before and after; None without.
        runs: of every block for n > 1 layers, the names of the modules that it replaces, in the
            order of the data; ``convert`` takes them as ``runs``.
    """

    m: int
    n: int
    merge: Merge
    init: Initialisation
    layers: tuple[LayerReport, ...]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int] | None
    runs: tuple[tuple[str, ...], ...] = ()

    @property
    def converted(self) -> tuple[LayerReport, ...]:
        """The layers that were replaced."""
        return tuple(layer for layer in self.layers if layer.status == "converted")

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """A table with a line per layer and the totals."""
        title = f"P{self.m}SC{self.n}, {self.merge}, init={self.init}"
        head = ("layer", "kernel", "channels", "M", "error", "parameters", "MACs")
        rows = [_row(layer) for layer in self.layers]
        done = sum(layer.status in ("converted", "merged") for layer in self.layers)
        total = f"total, {done} of {len(self.layers)} converted"
        last = (total, "", "", "", "", _change(self.parameters), _change(self.multiply_adds))
        return "\n".join([title, *_aligned([head, *rows, last])])


def _row(layer: LayerReport) -> tuple[str, ...]:
    groups = f" /{layer.groups}" if layer.groups > 1 else ""
    error = "" if layer.relative_error is None else f"{layer.relative_error:.3g}"
    what = layer.status if layer.reason is None else f"{layer.status}: {layer.reason}"
    return (
        layer.name or "(the network)",
        "×".join(map(str, layer.kernel_size)),
        f"{layer.in_channels}→{layer.out_channels}{groups}",
        "+".join(map(str, layer.widths)),
        error,
        "" if layer.status == "merged" else _change(layer.parameters),
        _change(layer.multiply_adds) if layer.status == "converted" else what,
    )


def _change(pair: tuple[int, int] | None) -> str:
    if pair is None:
        return "–"
    before, after = pair
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    sizes = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True)).rstrip()
        for row in rows
    ]


# ----------------------------------------
# The rows of a conversion's report.


def report_rows(
    plan: Plan,
    runs: Sequence[Run],
    blocks: Mapping[str, ParallelStreams],
    before: Observation | None,
    after: Observation | None,
) -> tuple[LayerReport, ...]:
    """One row per 3D convolution of the network.

    Args:
        plan: what was to be converted.
        runs: layers that have a block in common.
        blocks: by the name of the (first) layer that they replace.
        before: the network as it was; None without an example input.
        after: the converted network; None without an example input.
    """
    first = {run.layers[0]: run for run in runs}
    merged = {name: run.layers[0] for run in runs for name in run.layers[1:]}
    rows = []
    for name, layer in plan.layers.items():
        block = blocks.get(name)
        error, reason = None, plan.refused.get(name) or plan.kept.get(name)
        status: Status = "skipped" if name in plan.refused else "kept"
        together: Sequence[str] = (name,)
        if name in merged:
            status, together, reason = "merged", (), f"into the block at {merged[name]}"
        elif block is not None:
            status = "converted"
            together = first[name].layers if name in first else together
            error = _error(plan, first.get(name), layer, block)
        count = sum(parameter_count(plan.layers[n]) for n in together)
        left = count if block is None else parameter_count(block)
        work = None
        if before is not None and after is not None:
            work = (sum(map(before.within, together)), sum(map(after.within, together)))
        rows.append(
            LayerReport(
                name,
                status,
                reason,
                layer.kernel_size,  # type: ignore[arg-type]
                layer.groups,  # type: ignore[arg-type]
                layer.in_channels,  # type: ignore[arg-type]
                layer.out_channels,  # type: ignore[arg-type]
                () if block is None else block.widths,
                error,
                (count, left),
                work,
            )
        )
    return tuple(rows)


def parameter_count(module: nn.Module) -> int:
    """Learnable numbers, shared ones once; those of lazy modules do not exist yet."""
    return sum(p.numel() for p in module.parameters() if not is_lazy(p))


def _error(plan: Plan, run: Run | None, layer: nn.Module, block: ParallelStreams) -> float | None:
    """Of the kernel; None where there are no values to compare."""
    assert isinstance(layer, nn.Conv3d)
    if layer.weight.is_meta:
        return None
    if run is None:
        assert isinstance(block, SeparableConv3d)
        return kernel_error(layer, block)
    if not run.links:
        return None
    assert isinstance(block, SeparableRun3d)
    layers = [plan.layers[name] for name in run.layers]
    return run_error(composed_layers(layers, run.links), block)  # type: ignore[arg-type]
