"""What a conversion did, layer by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn
from torch.nn.parameter import is_lazy

from psc.block.block import Merge
from psc.block.convolution import Triple
from psc.conversion.factors import Initialisation, composed_layers
from psc.conversion.layers import SeparableConv3d
from psc.conversion.plan import Chain, Plan
from psc.conversion.watching import Observation

Status = Literal["converted", "merged", "kept", "skipped"]


@dataclass(frozen=True)
class LayerReport:
    """One 3D convolution of the network.

    "merged": its block stands at an earlier layer, n > 1; "kept": not asked for, or nothing to
    separate; "skipped": it cannot be converted.
    """

    name: str  # its path, the first where it has several; "" if it is the network itself
    status: Status
    reason: str | None  # for what is not converted
    kernel_size: Triple
    groups: int
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]  # M of every stream, in filters per group; empty unless converted
    # ‖W − its replacement‖ / ‖W‖, with n > 1 of the composed kernel of all layers that the block
    # replaces; None unless converted, on the meta device, for runs without an example input
    relative_error: float | None
    parameters: tuple[int, int]  # before and after; the first layer's of a run are those of all
    multiply_adds: tuple[int, int] | None  # likewise; None without an example input


@dataclass(frozen=True)
class ConversionReport:
    """All 3D convolutions of a network, and the network's totals."""

    m: int
    n: int
    merge: Merge
    init: Initialisation
    layers: tuple[LayerReport, ...]  # in the order of the network's modules
    parameters: tuple[int, int]  # of the whole network, before and after
    multiply_adds: tuple[int, int] | None  # of the example input's forward pass; None without
    elsewhere: tuple[int, int] = (0, 0)  # of these, what is no layer's, such as attention's
    uncounted: tuple[str, ...] = ()  # operations that multiply and are in no number
    # of every block for n > 1 layers, the modules that it replaces in the order of the data, and
    # in parentheses what stays between them
    runs: tuple[tuple[str, ...], ...] = ()

    @property
    def converted(self) -> tuple[LayerReport, ...]:
        """The layers that were replaced."""
        return tuple(layer for layer in self.layers if layer.status == "converted")

    @property
    def plan(self) -> dict[str, Any]:
        """Arguments of ``convert``, as JSON can hold them, that do the same to a network anew.

        ``convert(network, **plan)`` gives one that a state_dict of the converted network can be
        loaded into, without an example input; give ``activation`` again if there was one.
        """
        taken = [row.name for row in self.layers if row.status in ("converted", "merged")]
        return {
            "m": self.m,
            "n": self.n,
            "merge": self.merge,
            "init": "random",
            "include": taken,
            "width": {row.name: list(row.widths) for row in self.converted},
            "runs": [list(run) for run in self.runs] if self.n > 1 else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """A table with a line per layer and the totals."""
        head = ("layer", "kernel", "channels", "M", "error", "parameters", "MACs")
        done = sum(layer.status in ("converted", "merged") for layer in self.layers)
        total = f"total, {done} of {len(self.layers)} converted"
        last = (total, "", "", "", "", _change(self.parameters), _change(self.multiply_adds))
        rows = [head, *map(_row, self.layers), last]
        sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"P{self.m}SC{self.n}, {self.merge}, init={self.init}"]
        for row in rows:
            cells = (cell.ljust(size) for cell, size in zip(row, sizes, strict=True))
            lines.append("  ".join(cells).rstrip())
        if any(self.elsewhere):
            lines.append(f"MACs outside of layers (attention, say): {_change(self.elsewhere)}")
        if self.uncounted:
            lines.append(f"multiplied, but not counted: {', '.join(self.uncounted)}")
        return "\n".join(lines)


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


def report_rows(
    plan: Plan,
    chains: Sequence[Chain],
    blocks: Mapping[str, SeparableConv3d],
    before: Observation | None,
    after: Observation | None,
) -> tuple[LayerReport, ...]:
    """One row per 3D convolution of the network; ``blocks`` by the first layer of their chain."""
    chain_of = {name: chain for chain in chains for name in chain.layers}
    rows = []
    for name, layer in plan.layers.items():
        chain, block, error = chain_of.get(name), None, None
        reason = plan.refused.get(name) or plan.kept.get(name)
        status: Status = "skipped" if name in plan.refused else "kept"
        together: Sequence[str] = (name,)
        if chain is not None and name == chain.layers[0]:
            status, together, block = "converted", chain.layers, blocks[name]
            layers: list[nn.Conv3d] = [plan.layers[each] for each in together]
            if not layers[0].weight.is_meta and len(chain.links) + 1 == len(layers):
                error = composed_layers(layers, chain.links).error(block)
        elif chain is not None:
            status, together, reason = "merged", (), f"into the block at {chain.layers[0]}"
        count = sum(parameter_count(plan.layers[each]) for each in together)
        left = count if block is None else parameter_count(block)
        work = None
        if before is not None and after is not None:
            work = (sum(map(before.within, together)), sum(map(after.within, together)))
        shape = (layer.kernel_size, layer.groups, layer.in_channels, layer.out_channels)
        widths = () if block is None else block.widths
        rows.append(LayerReport(name, status, reason, *shape, widths, error, (count, left), work))
    return tuple(rows)


def parameter_count(module: nn.Module) -> int:
    """Learnable numbers, shared ones once; those of lazy modules do not exist yet."""
    return sum(p.numel() for p in module.parameters() if not is_lazy(p))
