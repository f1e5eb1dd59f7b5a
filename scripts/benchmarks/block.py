"""P_mSC_n against plain 3D convolutions: is bf16 right, and is fewer FLOPs less time?

Compared are the segments (two consecutive 3D convolutions, or what replaces them) at the widths of
the paper's U-Net and ResNet, in every layout and in two formulations: "auto", ours, and "plain",
what a user would write by hand with nn.Conv3d. Times include what a training step pays beside the
kernels: autocast's casts of the weights, and the launches from Python.

Everything is compared with the FASTEST 3D form of its level and precision. On a CPU, PyTorch gives
some fp32 convolutions to slow kernels, by their sizes and the number of threads: a column counts
them, those of the peer too.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.conditions import LAYOUTS, Conditions, conditions_on
from benchmarks.configurations import BLOCKS, PEER, with_peer
from benchmarks.memory import peak_extra_mb
from benchmarks.report import Report, Row
from benchmarks.rounding import bf16_errors
from benchmarks.segments import NETWORKS, Level, build_level, choose_levels
from benchmarks.slow_kernels import slow_convolutions
from benchmarks.steps import BackwardSteps, race
from benchmarks.summary import fastest_layouts
from benchmarks.timing import Clock, Timing
from psc.block.folding import Formulation
from psc.block.stream import Padding
from psc.errors import ConfigError

__all__ = ["run"]

_SHORTEST = 0.02  # seconds; kernels of the last level take microseconds


class Form(NamedTuple):
    """A contestant at one level and precision."""

    block: str
    formulation: Formulation
    layout: str


Flops = dict[str, tuple[int, int]]
"""Block → FLOPs of its forward pass, and of forward and backward."""


def run(
    *,
    segments: Sequence[str] = NETWORKS,
    blocks: Sequence[str] = BLOCKS,
    formulations: Sequence[Formulation] = ("auto", "plain"),
    size: int | None = None,
    batch_size: int | None = None,
    padding: Padding = "same",
    device: str | None = None,
    precisions: Sequence[str] | None = None,
    layouts: Sequence[str] = tuple(LAYOUTS),
    clock: Clock | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> Report:
    """Check and time every kind of segment at every level.

    Args:
        segments: networks ("unet", "resnet") or single levels by their channels ("24-72").
        blocks: names of ``configs/block``; 3d is always among them.
        formulations: of the blocks; see ``psc.block.folding``.
        size: most voxels per axis of an input; None = those of ``benchmarks.segments``.
        batch_size: None = 1, but 8 for the ResNet's levels on a GPU.
        padding: "same" keeps the sizes of all segments equal; "valid" is the published U-Net's (the
            ResNet's levels keep "same").
        device: "cuda" or "cpu"; None = a GPU if there is one.
        precisions: of "fp32", "tf32" (GPU) and "bf16", those that are timed; None = all that the
            device has instructions for. A CPU without them takes up to 100 times longer in bf16.
        layouts: of "contiguous" and "channels_last_3d".
        clock: "cpu" or "wall"; None = wall seconds on a GPU, CPU seconds on a CPU.
        repeats: rounds per contestant.
        seed: of weights and inputs.

    Returns:
        Largest relative errors of bf16 autocast, times and FLOPs relative to plain 3D, and of these
        the fastest layouts.

    Raises:
        ConfigError: no GPU where one is asked for, a precision, segment or block that does not
            exist, or an input smaller than what a segment looks at.
    """
    conditions = conditions_on(device, precisions, layouts, clock)
    levels = choose_levels(
        segments, conditions.device, padding=padding, size=size, batch_size=batch_size
    )
    names = with_peer(blocks)
    flops = {level: {block: _flops(level, block, seed) for block in names} for level in levels}
    forms = [Form(PEER, "plain", layout) for layout in conditions.layouts]
    forms += [
        Form(block, formulation, layout)
        for block in names[1:]
        for formulation in dict.fromkeys(formulations)
        for layout in conditions.layouts
    ]
    errors, times = [], []
    for level in levels:
        errors += [bf16_errors(level, block, conditions.device, seed) for block in names]
        for precision in conditions.precisions:
            times += _compare(level, forms, flops[level], precision, conditions, repeats, seed)
    settings = {
        "device": conditions.device,
        "padding": padding,
        "precisions": list(conditions.precisions),
        "repeats": repeats,
        "seed": seed,
        "cudnn_benchmark": True,
        "ratios_of": conditions.clock_name,
    }
    tables = {
        "bf16 against fp32": errors,
        "time against the fastest 3d": times,
        "fastest layout of each": fastest_layouts(times),
    }
    return Report("block", settings, tables)


def _flops(level: Level, block: str, seed: int) -> tuple[int, int]:
    """FLOPs (two per multiply-add) of forward, and of forward and backward.

    Raises:
        ConfigError: if the input is too small for valid padding.
    """
    segment, x = build_level(level, block, "plain", "meta", seed)
    needed = max(segment.receptive_field)
    if level.padding == "valid" and min(level.shape) < needed:
        raise ConfigError(
            f"size = {min(level.shape)}: {block} looks at {needed} voxels; give more, or use "
            "padding 'same'"
        )
    with FlopCounterMode(display=False) as counter:
        y = segment(x)
        forward = counter.get_total_flops()
        y.sum().backward()
    return forward, counter.get_total_flops()


def _compare(
    level: Level,
    forms: Sequence[Form],
    flops: Flops,
    precision: str,
    conditions: Conditions,
    repeats: int,
    seed: int,
) -> list[Row]:
    """Forward, and forward with backward, of every form at one level and precision."""
    device = conditions.device
    contestants = {
        form: BackwardSteps(
            partial(build_level, level, form.block, form.formulation, device, seed),
            form.layout,
            precision,
            device,
        )
        for form in forms
    }
    forward, training = race(contestants, conditions, repeats, _SHORTEST)
    rows = []
    for form in forms:
        failure = training[form].failure
        steps = contestants[form]
        rows.append(
            {
                "network": level.network,
                "channels": level.name,
                "input": "x".join(map(str, (level.batch_size, *level.shape))),
                "precision": precision,
                "segment": form.block,
                "formulation": form.formulation,
                "layout": form.layout,
                **_account("forward", form, forward, flops, 0, conditions.clock),
                **_account("training", form, training, flops, 1, conditions.clock),
                "training_peak_extra_mb": None if failure else peak_extra_mb(steps.train, device),
                "slow_convolutions": None if failure else slow_convolutions(steps.forward, device),
                "clock": conditions.clock_name,
                "fails": failure,
            }
        )
    return rows


def _account(
    what: str, form: Form, timings: dict[Form, Timing], flops: Flops, kind: int, clock: Clock
) -> Row:
    """One form's seconds, and its ratios to the fastest 3D form and to the fastest plain form."""
    seconds = timings[form].median(clock)
    plain = _fastest(timings, clock, (f for f in timings if f[:2] == (form.block, "plain")))
    time_ratio = _ratio(seconds, _fastest(timings, clock, (f for f in timings if f[0] == PEER)))
    flop_ratio = flops[form.block][kind] / flops[PEER][kind]
    return {
        f"{what}_seconds": seconds,
        f"{what}_time_ratio": time_ratio,
        f"{what}_flop_ratio": flop_ratio,
        f"{what}_time_over_flops": _ratio(time_ratio, flop_ratio),
        f"{what}_relative_to_plain": _ratio(seconds, plain),
    }


def _fastest(timings: dict[Form, Timing], clock: Clock, forms: Iterable[Form]) -> float | None:
    seconds = [timings[form].median(clock) for form in forms]
    return min((s for s in seconds if s is not None), default=None)


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    return mine / theirs if mine is not None and theirs else None
