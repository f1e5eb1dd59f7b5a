"""Whole networks: every backbone with every block, beside torchvision's and MONAI's networks.

The U-Net has "same" padding here, so that all blocks and MONAI's network take the same input.
Others' networks get the input of ours and differ in size: compare fractions of a matrix product,
not times. Ratios are to the fastest 3d form of the same backbone and precision. A training step is
forward in training mode, backward from the mean square of the result, and a step of Adam; its FLOPs
count as three forward passes. Throughput is per wall second, whatever clock the ratios are of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.candidates import BACKBONES, Candidate, Input, candidates_for, default_input
from benchmarks.conditions import Conditions, conditions_on
from benchmarks.configurations import BLOCKS, PEER, with_peer
from benchmarks.memory import peak_extra_mb
from benchmarks.report import Report, Row
from benchmarks.steps import Contestant, MatrixProduct, OptimizerSteps, race
from benchmarks.timing import Clock, Timing, failure
from psc.block.folding import Formulation
from psc.errors import ConfigError

__all__ = ["run"]

_MATRIX_SIZE = {"cuda": 8192, "cpu": 1536}
_SHORTEST = 0.1  # seconds
_TRAINING_PASSES = 3  # FLOPs of forward and backward, in forward passes


@dataclass(frozen=True)
class _Entry:
    """A candidate with its input, and with what is known before it runs."""

    candidate: Candidate
    given: Input
    parameters: int | None = None
    flops: int | None = None
    failure: str | None = None
    """Why it cannot run at all."""


@dataclass(frozen=True)
class _Measurement:
    """What one entry did in one layout and precision, and what a matrix product did beside it.

    Attributes:
        entry: who.
        layout: a name of ``LAYOUTS``.
        timings: of its forward pass and of its training step.
        matrix: FLOPs per second of the matrix product, beside the one and beside the other.
        peak_mb: of a training step.
    """

    entry: _Entry
    layout: str
    timings: tuple[Timing, Timing]
    matrix: tuple[float | None, float | None]
    peak_mb: float | None


def run(
    *,
    backbones: Sequence[str] = BACKBONES,
    blocks: Sequence[str] = BLOCKS,
    formulation: Formulation = "auto",
    size: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precisions: Sequence[str] | None = None,
    layouts: Sequence[str] = ("channels_last_3d",),
    clock: Clock | None = None,
    repeats: int = 3,
    seed: int = 0,
) -> Report:
    """Time forward passes and training steps of all networks.

    Args:
        backbones: names of ``configs/backbone``.
        blocks: names of ``configs/block``; 3d is always among them.
        formulation: of the blocks; see ``psc.block.folding``.
        size: voxels, or frames, along each axis of an input; None = the paper's inputs on a GPU,
            smaller ones on a CPU (``benchmarks.candidates``).
        batch_size: None = 1, but 4 for DenseNet and 8 for the ResNets on a GPU.
        device: "cuda" or "cpu"; None = a GPU if there is one.
        precisions: of "fp32", "tf32" (GPU) and "bf16"; None = all that the device has
            instructions for.
        layouts: of "contiguous" and "channels_last_3d".
        clock: "cpu" or "wall"; None = wall seconds on a GPU, CPU seconds on a CPU.
        repeats: rounds per contestant.
        seed: of weights and inputs.

    Returns:
        Times, throughput, memory, speed as a fraction of a matrix product's, ratios to 3D.

    Raises:
        ConfigError: for a name that does not exist, a precision or GPU that is not there, or an
            input that a network of ours cannot take.
    """
    conditions = conditions_on(device, precisions, layouts, clock)
    entries = {}  # all before any of them runs: what cannot work is refused at once
    for backbone in dict.fromkeys(backbones):
        given = default_input(backbone, conditions.device, size=size, batch_size=batch_size)
        candidates = candidates_for(backbone, with_peer(blocks), formulation)
        entries[backbone] = [_enter(candidate, given) for candidate in candidates]
    rows: list[Row] = []
    matrix: list[Row] = []
    for backbone, of_backbone in entries.items():
        for precision in conditions.precisions:
            measured = [
                measurement
                for layout in conditions.layouts
                for measurement in _measure(
                    of_backbone, layout, precision, conditions, repeats, seed
                )
            ]
            rows += [_row(m, measured, precision, conditions) for m in measured]
            matrix += _matrix_rows(backbone, measured, precision)
    settings = {
        "device": conditions.device,
        "unet_padding": "same",
        "formulation": formulation,
        "precisions": list(conditions.precisions),
        "layouts": list(conditions.layouts),
        "repeats": repeats,
        "seed": seed,
        "cudnn_benchmark": True,
        "matrix_size": _MATRIX_SIZE[conditions.device],
        "ratios_of": conditions.clock_name,
        "throughput": "per wall second",
    }
    return Report("networks", settings, {"networks": rows, "matrix product": matrix})


def _enter(candidate: Candidate, given: Input) -> _Entry:
    try:
        parameters, flops = candidate.cost(given.shape)
    except Exception as error:
        if candidate.block is not None:  # what a network of ours refuses, the user has to change
            raise
        message = str(error) if isinstance(error, ConfigError) else failure(error)
        return _Entry(candidate, given, failure=message)
    return _Entry(candidate, given, parameters, flops)


def _measure(
    entries: Sequence[_Entry],
    layout: str,
    precision: str,
    conditions: Conditions,
    repeats: int,
    seed: int,
) -> list[_Measurement]:
    device = conditions.device
    product = MatrixProduct(_MATRIX_SIZE[device], precision, device)
    contestants: dict[Candidate | None, OptimizerSteps] = {
        entry.candidate: OptimizerSteps(
            partial(entry.candidate.ready, entry.given.shape, device, seed),
            layout,
            precision,
            device,
        )
        for entry in entries
        if entry.failure is None
    }
    everybody: dict[Candidate | None, Contestant] = {None: product, **contestants}
    timings = race(everybody, conditions, repeats, _SHORTEST)
    beside_forward, beside_training = (t[None].median(conditions.clock) for t in timings)
    matrix = (
        _per_second(product.flops, beside_forward),
        _per_second(product.flops, beside_training),
    )
    found = []
    for entry in entries:
        steps = contestants.get(entry.candidate)
        if steps is None:
            found.append(_Measurement(entry, layout, (Timing(), Timing()), matrix, None))
            continue
        forward, training = (t[entry.candidate] for t in timings)
        peak = None if training.failure else peak_extra_mb(steps.train, device)
        found.append(_Measurement(entry, layout, (forward, training), matrix, peak))
    return found


def _row(
    mine: _Measurement, measured: Sequence[_Measurement], precision: str, conditions: Conditions
) -> Row:
    entry, clock = mine.entry, conditions.clock
    peers = [m for m in measured if m.entry.candidate.block == PEER]
    unit, units = entry.given.units
    row: Row = {
        "network": entry.candidate.network,
        "block": entry.candidate.block,
        "input": "x".join(map(str, entry.given.shape[1:])),
        "batch_size": entry.given.shape[0],
        "precision": precision,
        "layout": mine.layout,
        "parameters": entry.parameters,
        "forward_gflops": entry.flops and entry.flops / 1e9,
        "flop_ratio": _ratio(entry.flops, peers[0].entry.flops),
    }
    for kind, what, passes in ((0, "forward", 1), (1, "training", _TRAINING_PASSES)):
        timing = mine.timings[kind]
        seconds = timing.median(clock)
        peer = [s for m in peers if (s := m.timings[kind].median(clock)) is not None]
        speed = _per_second(entry.flops and passes * entry.flops, seconds)
        row |= {
            f"{what}_seconds": seconds,
            f"{what}_time_ratio": _ratio(seconds, min(peer, default=None)),
            f"{what}_throughput": _per_second(units, timing.wall_median),
            f"{what}_fraction_of_matrix_product": _ratio(speed, mine.matrix[kind]),
        }
    return row | {
        "throughput_of": unit,
        "training_peak_extra_mb": mine.peak_mb,
        "threads": torch.get_num_threads(),
        "clock": conditions.clock_name,
        "fails": entry.failure or mine.timings[1].failure,
    }


def _matrix_rows(backbone: str, measured: Sequence[_Measurement], precision: str) -> list[Row]:
    """The yardstick of each layout's race: its own speed."""
    by_layout = {m.layout: m.matrix for m in measured}
    return [
        {
            "beside": backbone,
            "precision": precision,
            "layout": layout,
            "forward_gflops_per_second": forward and forward / 1e9,
            "training_gflops_per_second": training and training / 1e9,
        }
        for layout, (forward, training) in by_layout.items()
    ]


def _per_second(count: float | None, seconds: float | None) -> float | None:
    return count / seconds if count is not None and seconds else None


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    return mine / theirs if mine is not None and theirs else None
