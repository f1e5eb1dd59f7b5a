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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import timing
from benchmarks.timing import Conditions, Layout, Row, Steps, Timing, ratio
from psc.block.convolution import ConvolutionOptions, Padding, Triple, Unit
from psc.config.compose import CONFIG_DIRECTORY
from psc.errors import ConfigError
from psc.networks.build import build_unit
from psc.networks.unet import LEAKY_SLOPE
from psc.paper.account import named_config

PEER = "3d"
"""The block of the original networks, with which all others are compared."""

BLOCKS = (PEER, "p1sc1", "p2sc1", "p2sc2", "p2sc3", "p3sc2")
"""The blocks of the paper's tables, and more streams."""

NETWORKS = ("unet", "resnet")
TARGET = 1.2
"""Most that the time ratio to 3D is to be, as a multiple of the FLOP ratio."""

_SHORTEST = 0.02  # seconds; kernels of the last level take microseconds
_CHECKED_VOXELS = {"cuda": 16, "cpu": 7}  # of bf16


def named(group: Literal["backbone", "block"], name: str) -> Any:
    """A backbone or a block by the name that train.py takes; unknown ones are refused."""
    known = sorted(path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"{group} {name}: there are {', '.join(known)}")
    return named_config(group, name)


def with_peer(blocks: Sequence[str]) -> list[str]:
    """The blocks, each once and the peer first: ratios need it."""
    return [PEER, *(block for block in dict.fromkeys(blocks) if block != PEER)]


@dataclass(frozen=True)
class Level:
    """Where in a network a segment stands."""

    # "unet" (leaky ReLU, M at most out_channels) or "resnet" (batch norm, no final activation, no
    # cap of M but the block's own)
    network: str
    in_channels: int  # that enter and leave
    out_channels: int
    shape: Triple  # D, H, W of the input
    batch_size: int = 1  # N of the input
    padding: Padding = "same"  # of its convolutions

    @property
    def name(self) -> str:
        """Its channels, as the user names it."""
        return f"{self.in_channels}-{self.out_channels}"

    def capped(self, size: int | None) -> "Level":
        """The same with at most ``size`` voxels along each axis; None = no limit."""
        d, h, w = (min(n, size or n) for n in self.shape)
        return replace(self, shape=(d, h, w))


# The U-Net's contracting path and the finest level of the expanding one; the first block of each
# stage of the ResNet that keeps its width. A GPU gets the sizes of the paper (U-Net: what level 0
# to 3 give of 132 voxels). A CPU gets smaller ones, above the size below which PyTorch computes
# plain 3D convolutions with its slow kernels, wherever the paper's are above it: the peer would
# lose by them what it does not lose in the paper's networks.
_UNET_CHANNELS = ((1, 24), (48, 24), (24, 72), (72, 216), (216, 648))
_UNET_VOXELS = {"cuda": (128, 60, 60, 26, 9), "cpu": (64, 48, 40, 26, 9)}
_RESNET: tuple[tuple[int, Triple], ...] = (
    (64, (32, 32, 32)),
    (128, (16, 16, 16)),
    (256, (16, 8, 8)),
    (512, (8, 4, 4)),
)


def choose_levels(
    segments: Sequence[str],
    device: str,
    *,
    padding: Padding,
    size: int | None,
    batch_size: int | None,
) -> list[Level]:
    """The levels that the user asks for: of networks ("unet"), or by their channels ("24-72")."""
    levels = [
        Level("unet", *channels, (voxels,) * 3, padding=padding)
        for channels, voxels in zip(_UNET_CHANNELS, _UNET_VOXELS[device], strict=True)
    ]
    video_batch = 8 if device == "cuda" else 1
    levels += [Level("resnet", width, width, shape, video_batch) for width, shape in _RESNET]
    known = [*NETWORKS, *(level.name for level in levels)]
    if unknown := [s for s in segments if s not in known]:
        raise ConfigError(f"segments {unknown}: there are {', '.join(known)}")
    return [
        replace(level.capped(size), batch_size=batch_size or level.batch_size)
        for level in levels
        if level.network in segments or level.name in segments
    ]


Formulation = Literal["auto", "plain"]
"""Convolutions as ours (``psc.block.convolution``), or as one would write them: nn.Conv3d."""


def write_by_hand(network: nn.Module, formulation: Formulation) -> None:
    """Make plain nn.Conv3d of a network's convolutions, where the formulation says so."""
    for part in network.modules() if formulation == "plain" else ():
        if isinstance(part, nn.Conv3d):
            part.__class__ = nn.Conv3d


def build_level(
    level: Level, block: str, formulation: Formulation, device: str, seed: int
) -> tuple[Unit, Tensor]:
    """A level's segment and its input; the same weights and values at every call."""
    unet = level.network == "unet"
    if unet:
        activation = partial(nn.LeakyReLU, LEAKY_SLOPE, inplace=True)
        options = ConvolutionOptions(padding=level.padding, activation=activation)
    else:
        options = ConvolutionOptions(norm=nn.BatchNorm3d, final_activation=False)
    torch.manual_seed(seed)
    with torch.device(device):
        segment = build_unit(named("block", block))(
            level.in_channels,
            level.out_channels,
            depth=2,  # both networks have pairs of convolutions
            width_limit=level.out_channels if unet else None,
            options=options,
        )
        x = torch.randn(level.batch_size, level.in_channels, *level.shape)
    write_by_hand(segment, formulation)
    x.requires_grad_(level.in_channels > 1)  # nobody asks for the gradient of an image
    return segment, x


class Form(NamedTuple):
    """A contestant at one level and precision."""

    block: str
    formulation: Formulation
    layout: Layout


Flops = dict[str, tuple[int, int]]
"""Block → FLOPs of its forward pass, and of forward and backward."""


def run(
    on: Conditions,
    *,
    segments: Sequence[str] = NETWORKS,
    blocks: Sequence[str] = BLOCKS,
    formulations: Sequence[Formulation] = ("auto", "plain"),
    size: int | None = None,
    batch_size: int | None = None,
    padding: Padding = "same",
    layouts: Sequence[Layout] = tuple(timing.LAYOUTS),
    repeats: int = 5,
    seed: int = 0,
) -> timing.Report:
    """Check bf16 and time every kind of segment at every level.

    Options:
        segments: networks (unet, resnet) or single levels by their channels (24-72).
        blocks: names of configs/block; 3d is always among them.
        formulations: of the blocks.
        size: most voxels per axis of an input.
        batch_size: default: 1, but 8 for the ResNet's levels on a GPU.
        padding: of the U-Net's levels; valid is the published one.
    """
    levels = choose_levels(segments, on.device, padding=padding, size=size, batch_size=batch_size)
    names = with_peer(blocks)
    flops = {level: {block: _flops(level, block, seed) for block in names} for level in levels}
    forms = [Form(PEER, "plain", layout) for layout in layouts]
    forms += [
        Form(block, formulation, layout)
        for block in names[1:]
        for formulation in dict.fromkeys(formulations)
        for layout in layouts
    ]
    errors, times = [], []
    for level in levels:
        errors += [_bf16_errors(level, block, on.device, seed) for block in names]
        for precision in on.precisions:
            times += _compare(level, forms, flops[level], precision, on, repeats, seed)
    tables = {
        "bf16 against fp32": errors,
        "time against the fastest 3d": times,
        "fastest layout of each": fastest_layouts(times),
    }
    return timing.Report(tables, {"device": on.device, "ratios_of": on.clock_name})


def _flops(level: Level, block: str, seed: int) -> tuple[int, int]:
    """FLOPs (two per multiply-add) of forward, and of forward and backward."""
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


def _bf16_errors(level: Level, block: str, device: str, seed: int) -> Row:
    """Largest error of output and of gradients, relative to the largest value of each tensor.

    Wrong kernels exist: torch 2.9 computed bf16 convolutions with kernel (1, 3, 3) wrongly.
    """
    level = level.capped(_CHECKED_VOXELS[device])

    def results(precision: timing.Precision) -> list[Tensor]:
        """Output and gradients, in fp32."""
        segment, x = build_level(level, block, "auto", device, seed)
        # Batch norm as in inference: normalising by the batch would hide the scale of an error.
        segment.eval()
        with timing.arithmetic(precision, device):
            y = segment(x)
        # Half the sum of squares: a rounding that switches a ReLU on or off at 0 then changes no
        # gradient by much. Random gradients would make every such switch look like a wrong kernel.
        (y.float().square().sum() / 2).backward()
        gradients = [p.grad for p in segment.parameters()] + [x.grad]
        return [t.detach().float() for t in (y, *gradients) if t is not None]

    output, *gradients = (
        float((found - exact).abs().max() / exact.abs().max())
        for found, exact in zip(results("bf16"), results("fp32"), strict=True)
    )
    return {
        "network": level.network,
        "channels": level.name,
        "input": "x".join(map(str, level.shape)),
        "segment": block,
        "output_error": output,
        "gradient_error": max(gradients),
    }


def _compare(
    level: Level,
    forms: Sequence[Form],
    flops: Flops,
    precision: timing.Precision,
    on: Conditions,
    repeats: int,
    seed: int,
) -> list[Row]:
    """Forward, and forward with backward, of every form at one level and precision."""
    device = on.device
    contestants = {
        form: Steps(
            partial(build_level, level, form.block, form.formulation, device, seed),
            form.layout,
            precision,
            device,
        )
        for form in forms
    }
    forward, training = timing.race(contestants, on, repeats, _SHORTEST)
    rows = []
    for form in forms:
        failure, steps = training[form].failure, contestants[form]
        rows.append(
            {
                "network": level.network,
                "channels": level.name,
                "input": "x".join(map(str, (level.batch_size, *level.shape))),
                "precision": precision,
                "segment": form.block,
                "formulation": form.formulation,
                "layout": form.layout,
                **_ratios("forward", form, forward, flops, 0, on.clock),
                **_ratios("training", form, training, flops, 1, on.clock),
                "training_peak_extra_mb": None
                if failure
                else timing.peak_extra_mb(steps.train, device),
                "slow_convolutions": None
                if failure
                else timing.slow_convolutions(steps.forward, device),
                "clock": on.clock_name,
                "fails": failure,
            }
        )
    return rows


def _ratios(
    what: str, form: Form, timings: dict[Form, Timing], flops: Flops, kind: int, clock: timing.Clock
) -> Row:
    """One form's seconds, and its ratios to the fastest 3D form and to the fastest plain form."""

    def fastest(forms: Iterable[Form]) -> float | None:
        seconds = [timings[other].median(clock) for other in forms]
        return min((s for s in seconds if s is not None), default=None)

    seconds = timings[form].median(clock)
    time_ratio = ratio(seconds, fastest(f for f in timings if f.block == PEER))
    flop_ratio = flops[form.block][kind] / flops[PEER][kind]
    plain = fastest(f for f in timings if f[:2] == (form.block, "plain"))
    return {
        f"{what}_seconds": seconds,
        f"{what}_time_ratio": time_ratio,
        f"{what}_flop_ratio": flop_ratio,
        f"{what}_time_over_flops": ratio(time_ratio, flop_ratio),
        f"{what}_relative_to_plain": ratio(seconds, plain),
    }


def fastest_layouts(rows: Sequence[Row]) -> list[Row]:
    """How close is time to FLOPs? A row per segment and formulation, 3D left out.

    Ratios of the fastest layout, for each kind of time, and whether both meet ``TARGET`` (None
    after a failure).
    """
    asked = ("network", "channels", "precision", "segment", "formulation")
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["segment"] != PEER:
            groups.setdefault(tuple(row[key] for key in asked), []).append(row)
    found = []
    for key, group in groups.items():
        best: Row = dict(zip(asked, key, strict=True))
        ratios = []
        for what in ("forward", "training"):
            measured = [row for row in group if row[f"{what}_seconds"] is not None]
            fastest = min(measured, key=lambda row: float(row[f"{what}_seconds"]), default=None)
            for column in ("time_ratio", "flop_ratio", "time_over_flops", "relative_to_plain"):
                best[f"{what}_{column}"] = fastest and fastest[f"{what}_{column}"]
            ratios.append(best[f"{what}_time_over_flops"])
        met = None if None in ratios else all(r <= TARGET for r in ratios)
        found.append(best | {f"at_most_{TARGET}": met})
    return found
