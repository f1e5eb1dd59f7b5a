"""Whole networks: every backbone with every block, beside torchvision's and MONAI's networks.

The U-Net has "same" padding unless asked otherwise, so that all blocks and MONAI's networks take
the same input.
Others' networks get the input of ours and differ in size: compare fractions of a matrix product,
not times. Ratios are to the fastest 3d form of the same backbone and precision. A training step is
forward in training mode, backward from the mean square of the result, and a step of Adam; its FLOPs
count as three forward passes. Throughput is per wall second, whatever clock the ratios are of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import timing
from benchmarks.operator import BLOCKS, PEER, Formulation, named, with_peer, write_by_hand
from benchmarks.timing import Conditions, Layout, Row, Steps, Timing, ratio
from psc.block.convolution import Padding
from psc.config.schema import BackboneConfig, DenseNetConfig, ResNetConfig, UNetConfig
from psc.errors import ConfigError
from psc.networks.build import build_network

BACKBONES = ("unet", "resnet18", "resnet34", "densenet")

MATRIX_SIZE = {"cuda": 8192, "cpu": 1536}
_SHORTEST = 0.1  # seconds

# N, D, H, W. On a GPU the paper's inputs; the U-Net's 132 voxels become 128, which "same" padding
# needs. Batches: the paper's 1, that of Bui et al. (whom it follows) for DenseNet, ours for video.
_INPUTS: dict[str, dict[type[BackboneConfig], tuple[int, ...]]] = {
    "cuda": {
        UNetConfig: (1, 128, 128, 128),
        DenseNetConfig: (4, 64, 64, 64),
        ResNetConfig: (8, 64, 64, 64),
    },
    "cpu": {
        UNetConfig: (1, 48, 48, 48),
        DenseNetConfig: (1, 32, 32, 32),
        ResNetConfig: (1, 16, 64, 64),
    },
}


@dataclass(frozen=True)
class Candidate:
    """A network that can be built."""

    network: str  # the backbone's name, or the other library's
    block: str | None  # the block's name; None for other libraries' networks
    build: Callable[[], nn.Module]  # builds it on the current default device

    def cost(self, shape: Sequence[int]) -> tuple[int, int]:
        """Parameters, and FLOPs (two per multiply-add) of a forward pass, computing nothing."""
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            network = self.build().eval()
            network(torch.zeros(*shape))
        return sum(p.numel() for p in network.parameters()), counter.get_total_flops()

    def ready(self, shape: Sequence[int], device: str, seed: int) -> tuple[nn.Module, Tensor]:
        """The network and an input on the device; the same weights and values at every call."""
        torch.manual_seed(seed)
        with torch.device(device):
            return self.build(), torch.randn(*shape)


class Entry(NamedTuple):
    """A candidate, and what is known before it runs; ``failure``: why it cannot run at all."""

    candidate: Candidate
    parameters: int | None = None
    flops: int | None = None
    failure: str | None = None


class Measurement(NamedTuple):
    """What an entry did in a layout: forward and training, and a matrix product beside each."""

    entry: Entry
    layout: str
    timings: tuple[Timing, Timing]
    matrix: tuple[float | None, float | None]
    peak_mb: float | None


class MatrixProduct:
    """A product of square matrices: what the device reaches where nothing holds it up.

    bf16 multiplies matrices of that type, without casts.
    """

    def __init__(self, size: int, precision: timing.Precision, device: str) -> None:
        self._precision, self._device = precision, device
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._matrix = torch.randn(size, size).to(device, dtype)
        self.flops = 2 * size**3

    def forward(self) -> Tensor:
        """The product."""
        with torch.no_grad(), timing.arithmetic(self._precision, self._device):
            return self._matrix @ self._matrix

    train = forward


def run(
    on: Conditions,
    *,
    backbones: Sequence[str] = BACKBONES,
    blocks: Sequence[str] = BLOCKS,
    formulation: Formulation = "auto",
    size: int | None = None,
    batch_size: int | None = None,
    unet_padding: Padding = "same",
    layouts: Sequence[Layout] = ("channels_last_3d",),
    repeats: int = 3,
    seed: int = 0,
) -> timing.Report:
    """Time forward passes and training steps of all networks.

    Options:
        backbones: names of configs/backbone.
        blocks: names of configs/block; 3d is always among them.
        formulation: of the blocks.
        size: voxels, or frames, along each axis; default: the paper's on a GPU, fewer on a CPU.
        batch_size: default: 1, but 4 for DenseNet and 8 for the ResNets on a GPU.
        unet_padding: "valid" is the paper's; then only 3D, n = 1 and P_2SC_2 give equal results.
    """
    entries = {}  # all before any of them runs: what cannot work is refused at once
    for backbone in dict.fromkeys(backbones):
        shape = input_shape(backbone, on.device, size=size, batch_size=batch_size)
        candidates = candidates_for(backbone, with_peer(blocks), formulation, unet_padding)
        entries[backbone] = shape, [_enter(candidate, shape) for candidate in candidates]
    rows: list[Row] = []
    matrix: list[Row] = []
    for backbone, (shape, of_backbone) in entries.items():
        for precision in on.precisions:
            measured = [
                measurement
                for layout in layouts
                for measurement in _measure(
                    of_backbone, shape, layout, precision, on, repeats, seed
                )
            ]
            rows += [_row(m, shape, measured, precision, on) for m in measured]
            for layout, (forward, training) in {m.layout: m.matrix for m in measured}.items():
                speed = {"forward": forward, "training": training}
                matrix.append(
                    {"beside": backbone, "precision": precision, "layout": layout}
                    | {f"{k}_gflops_per_second": v and v / 1e9 for k, v in speed.items()}
                )
    settings = {
        "device": on.device,
        "matrix_size": MATRIX_SIZE[on.device],
        "ratios_of": on.clock_name,
    }
    return timing.Report({"networks": rows, "matrix product": matrix}, settings)


def input_shape(
    backbone: str, device: str, *, size: int | None, batch_size: int | None
) -> tuple[int, ...]:
    """(N, C, D, H, W) of a backbone's input, and of the networks' that it is compared with."""
    config = _backbone(backbone)
    batch, *volume = _INPUTS[device][type(config)]
    channels: int = config.in_channels  # type: ignore[attr-defined]
    return (batch_size or batch, channels, *([size] * 3 if size else volume))


def candidates_for(
    backbone: str, blocks: Sequence[str], formulation: Formulation, unet_padding: Padding = "same"
) -> list[Candidate]:
    """A backbone with each block, then the networks of other libraries for the same input."""
    config = _backbone(backbone)
    if isinstance(config, UNetConfig):
        config = replace(config, padding=unet_padding)

    def build(block: str) -> nn.Module:
        network = build_network(config, named("block", block))
        write_by_hand(network, formulation)
        return network

    ours = [Candidate(backbone, block, partial(build, block)) for block in blocks]
    return [*ours, *_PEERS.get(type(config), ())]


def _backbone(name: str) -> BackboneConfig:
    found: BackboneConfig = named("backbone", name)
    return found


def torchvision_network(name: str, **options: object) -> nn.Module:
    """One of torchvision's video networks, with random weights."""
    from torchvision.models import video

    network: nn.Module = getattr(video, name)(**options)
    return network


def _monai(name: str, **options: object) -> nn.Module:
    """One of MONAI's networks, with as many channels in and out as the U-Net: not of its size."""
    try:
        import monai.networks.nets
    except ImportError:
        raise ConfigError("monai is not installed: pip install monai") from None
    network: nn.Module = getattr(monai.networks.nets, name)(
        spatial_dims=3, in_channels=1, out_channels=3, **options
    )
    return network


_DYNUNET = {
    "kernel_size": [3] * 5,
    "strides": [1, 2, 2, 2, 2],
    "upsample_kernel_size": [2] * 4,
    "filters": [32, 64, 128, 256, 320],
}
"""As nnU-Net plans a patch of 64 to 128 voxels."""

_PEERS: Mapping[type[BackboneConfig], tuple[Candidate, ...]] = {
    UNetConfig: (
        Candidate("MONAI BasicUNet", None, partial(_monai, "BasicUNet")),
        Candidate("MONAI DynUNet", None, partial(_monai, "DynUNet", **_DYNUNET)),
    ),
    ResNetConfig: tuple(
        Candidate(f"torchvision {name}", None, partial(torchvision_network, name, num_classes=101))
        for name in ("r3d_18", "r2plus1d_18")
    ),
}


def _enter(candidate: Candidate, shape: Sequence[int]) -> Entry:
    try:
        return Entry(candidate, *candidate.cost(shape))
    except Exception as error:
        if candidate.block is not None:  # what a network of ours refuses, the user has to change
            raise
        message = str(error) if isinstance(error, ConfigError) else timing.failure(error)
        return Entry(candidate, failure=message)


def _measure(
    entries: Sequence[Entry],
    shape: Sequence[int],
    layout: Layout,
    precision: timing.Precision,
    on: Conditions,
    repeats: int,
    seed: int,
) -> list[Measurement]:
    device = on.device
    product = MatrixProduct(MATRIX_SIZE[device], precision, device)
    contestants: dict[Candidate | None, Steps] = {
        entry.candidate: Steps(
            partial(entry.candidate.ready, shape, device, seed),
            layout,
            precision,
            device,
            network=True,
        )
        for entry in entries
        if entry.failure is None
    }
    everybody: dict[Candidate | None, Steps | MatrixProduct] = {None: product, **contestants}
    timings = timing.race(everybody, on, repeats, _SHORTEST)
    forward, training = (ratio(product.flops, t[None].median(on.clock)) for t in timings)
    found = []
    for entry in entries:
        steps = contestants.get(entry.candidate)
        own = (Timing(), Timing())
        peak = None
        if steps is not None:
            own = timings[0][entry.candidate], timings[1][entry.candidate]
            peak = None if own[1].failure else timing.peak_extra_mb(steps.train, device)
        found.append(Measurement(entry, layout, own, (forward, training), peak))
    return found


def _row(
    mine: Measurement,
    shape: Sequence[int],
    measured: Sequence[Measurement],
    precision: str,
    on: Conditions,
) -> Row:
    entry, clock = mine.entry, on.clock
    peers = [m for m in measured if m.entry.candidate.block == PEER]
    batch, channels, d, h, w = shape
    unit, units = ("clips", batch) if channels == 3 else ("voxels", batch * d * h * w)
    row: Row = {
        "network": entry.candidate.network,
        "block": entry.candidate.block,
        "input": "x".join(map(str, shape[1:])),
        "batch_size": batch,
        "precision": precision,
        "layout": mine.layout,
        "parameters": entry.parameters,
        "forward_gflops": entry.flops and entry.flops / 1e9,
        "flop_ratio": ratio(entry.flops, peers[0].entry.flops),
    }
    for kind, what, passes in ((0, "forward", 1), (1, "training", 3)):
        timing = mine.timings[kind]
        seconds = timing.median(clock)
        peer = [s for m in peers if (s := m.timings[kind].median(clock)) is not None]
        speed = ratio(entry.flops and passes * entry.flops, seconds)
        row |= {
            f"{what}_seconds": seconds,
            f"{what}_time_ratio": ratio(seconds, min(peer, default=None)),
            f"{what}_throughput": ratio(units, timing.median("wall")),
            f"{what}_fraction_of_matrix_product": ratio(speed, mine.matrix[kind]),
        }
    return row | {
        "throughput_of": unit,
        "training_peak_extra_mb": mine.peak_mb,
        "threads": torch.get_num_threads(),
        "clock": on.clock_name,
        "fails": entry.failure or mine.timings[1].failure,
    }
