"""P_mSC_n against plain 3D convolutions: is bf16 right, and is fewer FLOPs less time?

Compared are the segments of the U-Net's contracting path (1 to 24, 24 to 72, 72 to 216 and 216 to
648 channels, two consecutive 3D convolutions each), at batch 1. Times include what a training step
pays beside the kernels: autocast's casts of the weights, and the launches from Python. On a CPU the
number of threads decides which kernels PyTorch picks at batch 1, so name it with every figure.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import Report, Row
from benchmarks.timing import Timing, interleave
from psc.convolutions import ConvolutionOptions, Padding, Segment
from psc.errors import ConfigError
from psc.segments import SegmentFactory, make_segment

__all__ = ["run"]

_PEER = "3d"
_FACTORIES: dict[str, SegmentFactory] = {
    _PEER: make_segment("conv3d"),
    "p1sc1": make_segment(m=1, n=1),
    "p2sc1": make_segment(m=2, n=1),
    "p2sc2": make_segment(m=2, n=2),
    "p2sc3": make_segment(m=2, n=3),
    "p3sc2": make_segment(m=3, n=2),
}
_DEPTH = 2
_CHANNELS = ((1, 24), (24, 72), (72, 216), (216, 648))
_VOXELS = {"cuda": (128, 60, 26, 9), "cpu": (32, 24, 12, 9)}
_PRECISIONS = {"cuda": ("fp32", "tf32", "bf16"), "cpu": ("fp32", "bf16")}
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
_SHORTEST = 0.02  # seconds; kernels of the last level take microseconds
_CHECKED_VOXELS = {"cuda": 16, "cpu": 7}


@dataclass(frozen=True)
class _Case:
    """One segment of one level, ready to run."""

    name: str
    level: int
    voxels: int
    padding: Padding
    device: str
    seed: int

    def build(self, device: str | None = None) -> tuple[Segment, Tensor]:
        """The segment and its input; the same weights and values at every call."""
        in_channels, out_channels = _CHANNELS[self.level]
        device = device or self.device
        torch.manual_seed(self.seed)
        segment = _FACTORIES[self.name](
            in_channels,
            out_channels,
            depth=_DEPTH,
            width_limit=out_channels,  # the U-Net's own cap of M
            options=ConvolutionOptions(padding=self.padding),
        ).to(device)
        x = torch.randn(1, in_channels, *(self.voxels,) * 3).to(device)
        x.requires_grad_(self.level > 0)  # nobody asks for the gradient of an image
        return segment, x


def run(
    *,
    size: int | None = None,
    levels: int = len(_CHANNELS),
    padding: Padding = "same",
    device: str | None = None,
    precisions: Sequence[str] | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> Report:
    """Check and time every kind of segment at every level.

    Args:
        size: most voxels per axis of an input; None = 128, 60, 26, 9 by level on a GPU, and
            32, 24, 12, 9 on a CPU.
        levels: how many levels, the finest first.
        padding: "same" keeps the sizes of all segments equal; "valid" is the published U-Net's.
        device: "cuda" or "cpu"; None = a GPU if there is one.
        precisions: of "fp32", "tf32" (GPU) and "bf16", those that are timed; None = all that the
            device has instructions for. A CPU without them takes up to 100 times longer in bf16.
        repeats: rounds per contestant.
        seed: of weights and inputs.

    Returns:
        Largest relative errors of bf16 autocast, and times and FLOPs relative to plain 3D.

    Raises:
        ConfigError: no GPU where one is asked for, a precision that the device does not have, too
            many levels, or an input smaller than what the segments look at.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch finds no GPU; use --device cpu")
    if levels > len(_CHANNELS):
        raise ConfigError(f"levels = {levels}: the U-Net has {len(_CHANNELS)}")
    precisions = _timed_precisions(device) if precisions is None else tuple(precisions)
    if unknown := set(precisions) - set(_PRECISIONS[device]):
        raise ConfigError(
            f"precisions {sorted(unknown)}: on {device} there are {', '.join(_PRECISIONS[device])}"
        )
    voxels = [min(n, size or n) for n in _VOXELS[device][:levels]]
    if padding == "valid" and min(voxels) < 7:
        raise ConfigError(
            f"size = {min(voxels)}: p2sc3 looks at 7 voxels; give more, or use padding 'same'"
        )
    errors, times = [], []
    for level, n in enumerate(voxels):
        cases = [_Case(name, level, n, padding, device, seed) for name in _FACTORIES]
        errors += [_bf16_errors(case) for case in cases]
        for precision in precisions:
            for layout in _LAYOUTS:
                times += _compare(cases, precision, layout, repeats)
    settings = {
        "device": device,
        "padding": padding,
        "voxels": voxels,
        "precisions": list(precisions),
        "repeats": repeats,
        "seed": seed,
        "batch_size": 1,
        "cudnn_benchmark": True,
        "ratios_of": "wall seconds" if device == "cuda" else "CPU seconds",
    }
    return Report("block", settings, {"bf16 against fp32": errors, "time against 3d": times})


def _timed_precisions(device: str) -> tuple[str, ...]:
    fast_bf16 = device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return tuple(p for p in _PRECISIONS[device] if p != "bf16" or fast_bf16)


@contextmanager
def _precision(precision: str, device: str) -> Iterator[None]:
    """Exact fp32, fp32 with TF32 convolutions (GPU), or bf16 autocast."""
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=precision == "tf32")
    with cudnn, torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield


def _bf16_errors(case: _Case) -> Row:
    """Largest error of output and of gradients, relative to the largest value of each tensor."""
    case = replace(case, voxels=min(case.voxels, _CHECKED_VOXELS[case.device]))
    exact, rounded = (_output_and_gradients(case, p) for p in ("fp32", "bf16"))
    output, *gradients = (_relative_error(a, b) for a, b in zip(rounded, exact, strict=True))
    return {
        "channels": _channels(case),
        "voxels": case.voxels,
        "segment": case.name,
        "output_error": output,
        "gradient_error": max(gradients),
    }


def _output_and_gradients(case: _Case, precision: str) -> list[Tensor]:
    segment, x = case.build()
    with _precision(precision, case.device):
        y = segment(x)
    # Half the sum of squares: a rounding that switches a ReLU on or off at 0 then changes no
    # gradient by much. Random gradients would make every such switch look like a wrong kernel.
    (y.float().square().sum() / 2).backward()
    gradients = [p.grad for p in segment.parameters()] + [x.grad]
    return [t.detach().float() for t in (y, *gradients) if t is not None]


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _compare(cases: list[_Case], precision: str, layout: str, repeats: int) -> list[Row]:
    """Forward, and forward with backward, of every segment at one level."""
    device = cases[0].device
    timings: list[dict[str, Timing]] = []
    steps = {case.name: _steps(case, precision, layout) for case in cases}
    for which in (0, 1):
        timings.append(
            interleave(
                {name: pair[which] for name, pair in steps.items()},
                repeats,
                finish=torch.cuda.synchronize if device == "cuda" else None,
                shortest=_SHORTEST,
            )
        )
    flops = {case.name: _flops(case) for case in cases}
    rows = []
    for case in cases:
        forward, both = (t[case.name] for t in timings)
        failure = forward.failure or both.failure
        rows.append(
            {
                "channels": _channels(case),
                "voxels": case.voxels,
                "precision": precision,
                "layout": layout,
                "segment": case.name,
                "forward_seconds": _seconds(forward, device),
                "forward_time_ratio": _ratio(forward, timings[0][_PEER], device),
                "forward_flop_ratio": flops[case.name][0] / flops[_PEER][0],
                "training_seconds": _seconds(both, device),
                "training_time_ratio": _ratio(both, timings[1][_PEER], device),
                "training_flop_ratio": flops[case.name][1] / flops[_PEER][1],
                "training_peak_extra_mb": None
                if failure
                else _peak_cuda_mb(steps[case.name][1], device),
                "fails": failure,
            }
        )
    return rows


def _steps(
    case: _Case, precision: str, layout: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    """One forward pass without gradients, and one forward and backward pass."""
    segment, x = case.build()
    segment = segment.to(memory_format=_LAYOUTS[layout])
    x = x.detach().to(memory_format=_LAYOUTS[layout]).requires_grad_(x.requires_grad)

    def forward() -> Tensor:
        with torch.no_grad(), _precision(precision, case.device):
            y: Tensor = segment(x)
        return y

    gradient = torch.ones_like(forward())

    def train() -> None:
        segment.zero_grad(set_to_none=True)
        x.grad = None
        # Backward too runs under these flags: they choose the algorithms of its convolutions.
        with _precision(precision, case.device):
            segment(x).backward(gradient)

    return forward, train


def _flops(case: _Case) -> tuple[int, int]:
    """FLOPs (two per multiply-add) of forward, and of forward and backward."""
    segment, x = case.build(device="meta")
    with FlopCounterMode(display=False) as counter:
        y = segment(x)
        forward = counter.get_total_flops()
        y.sum().backward()
    return forward, counter.get_total_flops()


def _seconds(timing: Timing, device: str) -> float | None:
    return timing.wall_median if device == "cuda" else timing.cpu_median


def _ratio(timing: Timing, peer: Timing, device: str) -> float | None:
    mine, theirs = _seconds(timing, device), _seconds(peer, device)
    return mine / theirs if mine and theirs else None


def _peak_cuda_mb(step: Callable[[], object], device: str) -> float | None:
    """Most memory a step holds beyond what was held before it; PyTorch tells on a GPU only."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def _channels(case: _Case) -> str:
    return "{} to {}".format(*_CHANNELS[case.level])
