"""What the paper's runs take: arithmetic, counted, and time, extrapolated from measured rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from psc.config.schema import TrainConfig
from psc.networks.build import build_network_on_meta, forward_flops, sample_shape
from psc.paper.experiments import Experiment, PlannedRow, read_experiment, table_names
from psc.paper.network_summary import markdown_table
from psc.paper.records import RecordedRun, read_records

# ----------------------------------------
# Parameters and multiply-adds of a row's network.


@dataclass(frozen=True)
class Cost:
    """Of a network.

    Attributes:
        parameters: learnable ones.
        multiply_adds: MACs of the forward pass of one training sample; None where this version of
            the code builds another network than the recorded one.
    """

    parameters: int
    multiply_adds: int | None


@dataclass
class Costs:
    """Costs of networks, each counted once; on the meta device, without memory or arithmetic."""

    known: dict[str, Cost] = field(default_factory=dict)

    def of(self, config: TrainConfig) -> Cost:
        """The cost of a configuration's network and training sample."""
        key = repr((config.backbone, config.block, config.recipe))
        if key not in self.known:
            network = build_network_on_meta(config.backbone, config.block)
            flops = forward_flops(network, sample_shape(config.recipe, network))
            parameters = sum(p.numel() for p in network.parameters())
            self.known[key] = Cost(parameters, flops // 2)
        return self.known[key]


COSTS = Costs()
"""Those of this process."""


_BACKWARD = 2  # times the forward pass: a gradient of the input and one of the weights
_COLUMNS = ("table", "row", "iterations × batch", "PFLOP", "measured rate", "extrapolated")


@dataclass(frozen=True)
class Rate:
    """How fast a device has trained a network.

    Attributes:
        device: its name, and a CPU's threads.
        on_gpu: whether it is a GPU.
        gflop_per_second: mean over the records.
    """

    device: str
    on_gpu: bool
    gflop_per_second: float


@dataclass(frozen=True)
class RunCost:
    """One run of a row at the paper's protocol, training only.

    Attributes:
        planned: the row.
        flops: of forward and backward passes, biases, normalisation and losses not counted.
        rates: at which the same row was trained at smaller protocols, by device.
    """

    planned: PlannedRow
    flops: int
    rates: tuple[Rate, ...]

    def hours(self, rate: Rate) -> float:
        """Time that it would take at a rate; larger tensors usually run faster."""
        return self.flops / (rate.gflop_per_second * 1e9) / 3600


def run_costs(experiment: Experiment, runs: Sequence[RecordedRun]) -> list[RunCost]:
    """Costs of all rows of a table at the paper's protocol."""
    costs = []
    for planned in experiment.protocols[0].rows:
        multiply_adds = COSTS.of(planned.config).multiply_adds
        assert multiply_adds is not None  # of a network that this code builds
        recipe = planned.config.recipe
        samples = recipe.iterations * recipe.batch_size
        flops = 2 * multiply_adds * (1 + _BACKWARD) * samples
        same = [run for run in runs if run.planned.row.name == planned.row.name]
        costs.append(RunCost(planned, flops, _rates(same)))
    return costs


def costs_markdown(root: Path) -> str:
    """A Markdown table of every row of every table, and how to read it."""
    rows = []
    on_gpu = False
    for name in table_names(root):
        experiment = read_experiment(root / name)
        for cost in run_costs(experiment, read_records(experiment)):
            recipe = cost.planned.config.recipe
            rates = [f"{r.gflop_per_second:.0f} GFLOP/s, {r.device}" for r in cost.rates]
            on_gpu |= any(rate.on_gpu for rate in cost.rates)
            times = [_time(cost.hours(rate)) for rate in cost.rates]
            rows.append(
                (
                    name,
                    cost.planned.row.label,
                    f"{recipe.iterations:,} × {recipe.batch_size}",
                    f"{cost.flops / 1e15:,.0f}",
                    "; ".join(rates) or "not measured",
                    "; ".join(times) or "unknown",
                )
            )
    note = (
        "Of one run at the paper's protocol, training only. PFLOP (10¹⁵ operations) are counted:"
        " three forward passes for each training sample. The rate is that of records of the same"
        " row at smaller protocols, the time the one divided by the other."
        f"{'' if on_gpu else ' No GPU has been measured.'}"
    )
    return f"{markdown_table(_COLUMNS, rows)}\n\n{note}"


def _rates(runs: Sequence[RecordedRun]) -> tuple[Rate, ...]:
    found: dict[tuple[str, bool], list[float]] = {}
    for run in runs:
        rate = run.record.throughput.get("achieved_gflop_per_second")
        if rate is not None:
            found.setdefault(_device(run.record.hardware), []).append(rate)
    return tuple(Rate(*device, mean(rates)) for device, rates in found.items())


def _device(hardware: Mapping[str, Any]) -> tuple[str, bool]:
    """Name, and whether it is a GPU."""
    name, threads = str(hardware["device"]), hardware.get("torch_threads")
    if hardware.get("accelerator") != "cpu":
        return name, True
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}", False


def _time(hours: float) -> str:
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.0f} days"
