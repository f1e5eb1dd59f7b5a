"""What networks and the paper's runs take: arithmetic, counted, and time, from measured rates."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from psc.config.compose import from_plain
from psc.config.schema import TrainConfig
from psc.errors import CheckpointError, ConfigError
from psc.networks.build import build_network_on_meta, forward_flops
from psc.paper.experiments import read_experiment, table_names
from psc.paper.records import read_records
from psc.paper.text import markdown_table
from psc.training.records import Record


@dataclass(frozen=True)
class Cost:
    """Of a network and the forward pass of one training sample."""

    parameters: int  # learnable ones
    # MACs; None where this code builds another network than the recorded one
    multiply_adds: int | None
    input_shape: tuple[int, ...] | None = None  # (1, C, D, H, W) of the sample; None likewise

    @property
    def flops(self) -> int | None:
        """Two per multiply-add."""
        return None if self.multiply_adds is None else 2 * self.multiply_adds


_KNOWN: dict[str, Cost] = {}  # counting takes most of the time of a table


def network_cost(config: TrainConfig) -> Cost:
    """The cost of a configuration's network, counted once on the meta device."""
    key = repr((config.backbone, config.block, config.recipe))
    if key not in _KNOWN:
        network = build_network_on_meta(config.backbone, config.block)
        shape = config.recipe.sample_shape(network)
        parameters = sum(p.numel() for p in network.parameters())
        _KNOWN[key] = Cost(parameters, forward_flops(network, shape) // 2, shape)
    return _KNOWN[key]


def recorded_cost(record: Record) -> Cost:
    """The cost of a record's network, which is built again.

    Of one that this code does not know, or builds otherwise, only the parameters are told.
    """
    try:
        cost = network_cost(from_plain(record.config, Path(record.run)))
    except (CheckpointError, ConfigError):
        cost = None
    if cost is None or cost.parameters != record.parameters:
        return Cost(record.parameters, None)
    return cost


def costs_markdown(root: Path) -> str:
    """What one run of every row of every table takes, as a Markdown table, and how to read it."""
    rows = []
    on_gpu = False
    for name in table_names(root):
        experiment = read_experiment(root / name)
        runs = read_records(experiment)
        for planned in experiment.protocols[0].rows:
            multiply_adds = network_cost(planned.config).multiply_adds
            assert multiply_adds is not None  # of a network that this code builds
            recipe = planned.config.recipe
            samples = recipe.iterations * recipe.batch_size
            flops = 2 * multiply_adds * 3 * samples  # forward; gradients of input and weights
            found: dict[str, list[float]] = {}
            for run in runs:
                rate = run.record.throughput.get("achieved_gflop_per_second")
                if rate is not None and run.planned.row.name == planned.row.name:
                    found.setdefault(_device(run.record.hardware), []).append(rate)
                    on_gpu |= run.record.hardware.get("accelerator") != "cpu"
            rates = {device: mean(measured) for device, measured in found.items()}
            hours = [flops / (rate * 1e9) / 3600 for rate in rates.values()]
            rows.append(
                (
                    name,
                    planned.row.label,
                    f"{recipe.iterations:,} × {recipe.batch_size}",
                    f"{flops / 1e15:,.0f}",
                    "; ".join(f"{rate:.0f} GFLOP/s, {device}" for device, rate in rates.items())
                    or "not measured",
                    "; ".join(f"{h:.1f} hours" if h < 48 else f"{h / 24:,.0f} days" for h in hours)
                    or "unknown",
                )
            )
    note = (
        "Of one run at the paper's protocol, training only. PFLOP (10¹⁵ operations) are counted:"
        " three forward passes for each training sample. The rate is that of records of the same"
        " row at smaller protocols, the time the one divided by the other."
        f"{'' if on_gpu else ' No GPU has been measured.'}"
    )
    header = ("table", "row", "iterations × batch", "PFLOP", "measured rate", "extrapolated")
    return f"{markdown_table(header, rows)}\n\n{note}"


def _device(hardware: Mapping[str, Any]) -> str:
    name, threads = str(hardware["device"]), hardware.get("torch_threads")
    if hardware.get("accelerator") != "cpu":
        return name
    return f"{name}, {threads} thread{'' if threads == 1 else 's'}"
