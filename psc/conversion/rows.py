"""The rows of a conversion's report."""

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.parameter import is_lazy

from psc.conversion.factors import kernel_error
from psc.conversion.layer import SeparableConv3d
from psc.conversion.observation import Observation
from psc.conversion.parallel_streams import ParallelStreams
from psc.conversion.plan import Plan
from psc.conversion.report import LayerReport, Status
from psc.conversion.run_factors import composed_layers, run_error
from psc.conversion.run_layer import SeparableRun3d
from psc.conversion.runs import Run


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
