"""Fewer FLOPs, less time? Units and whole networks, beside plain 3D ones and other libraries'.

A unit is what stands for two consecutive 3D convolutions at the widths of the paper's U-Net and
ResNet, in two formulations: "auto", ours, and "plain", what a user would write with nn.Conv3d.
Networks are every backbone with every block, and torchvision's and MONAI's for the same input,
which differ in size: compare fractions of a matrix product, not times. The U-Net has "same" padding
unless asked otherwise, so that all blocks and MONAI's networks take the same input.

Times include what a training step pays beside the kernels: autocast's casts of the weights, and the
launches from Python. Ratios are to the FASTEST 3D form of the same level or backbone and precision;
an excess is a time ratio over the FLOP ratio. A training step is forward in training mode and
backward, of a network with a step of Adam; its FLOPs count as three forward passes. Throughput is
per wall second, whatever clock the ratios are of.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import timing
from benchmarks.timing import Conditions, Layout, Row, Steps, Timing, ratio
from psc.block.convolution import ConvolutionOptions, Padding, Triple
from psc.config.compose import CONFIG_DIRECTORY
from psc.config.schema import BackboneConfig, DenseNetConfig, ResNetConfig, UNetConfig
from psc.errors import ConfigError
from psc.networks.build import build_network, build_unit
from psc.networks.unet import LEAKY_SLOPE
from psc.paper.account import named_config

PEER = "3d"
"""The block of the original networks, with which all others are compared."""

BLOCKS = (PEER, "p1sc1", "p2sc1", "p2sc2", "p2sc3", "p3sc2")
"""The blocks of the paper's tables, and more streams."""

BACKBONES = ("unet", "resnet18", "resnet34", "densenet")
MATRIX_SIZE = {"cuda": 8192, "cpu": 1536}

Formulation = Literal["auto", "plain"]
"""Convolutions as ours (``psc.block.convolution``), or as one would write them: nn.Conv3d."""


def named(group: Literal["backbone", "block"], name: str) -> Any:
    """A backbone or a block by the name that train.py takes; unknown ones are refused."""
    known = sorted(path.stem for path in (CONFIG_DIRECTORY / group).glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"{group} {name}: there are {', '.join(known)}")
    return named_config(group, name)


def with_peer(blocks: Sequence[str]) -> list[str]:
    """The blocks, each once and the peer first: ratios need it."""
    return [PEER, *(block for block in dict.fromkeys(blocks) if block != PEER)]


def write_by_hand(network: nn.Module, formulation: Formulation) -> None:
    """Make plain nn.Conv3d of a network's convolutions, where the formulation says so."""
    for part in network.modules() if formulation == "plain" else ():
        if isinstance(part, nn.Conv3d):
            part.__class__ = nn.Conv3d


@dataclass(frozen=True, eq=False)
class Candidate:
    """A unit or a network that can be built, and what is known of it before it runs."""

    labels: Row  # its first columns: "block" is None for other libraries' networks
    shape: tuple[int, ...]  # (N, C, D, H, W) of its input
    build: Callable[[], nn.Module]  # on the current default device
    whole: bool = True  # a network, not a unit
    parameters: int | None = None
    flops: int | None = None  # two per multiply-add of a forward pass
    failure: str | None = None  # why it cannot run at all

    def costed(self) -> "Candidate":
        """The same with its costs, for which nothing is computed."""
        try:
            with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
                module = self.build().eval()
                module(torch.zeros(*self.shape))
        except Exception as error:
            if self.labels["block"] is None:
                return replace(self, failure=timing.failure(error))
            # What ours refuse, the user has to change.
            shape = "x".join(map(str, self.shape))
            raise ConfigError(f"{self.labels['block']}, input {shape}: {error}") from error
        parameters = sum(p.numel() for p in module.parameters())
        return replace(self, parameters=parameters, flops=counter.get_total_flops())

    def ready(self, device: str, seed: int) -> tuple[nn.Module, Tensor]:
        """The module and an input on the device; the same weights and values at every call."""
        torch.manual_seed(seed)
        with torch.device(device):
            module, x = self.build(), torch.randn(*self.shape)
        # Nobody asks for the gradient of an image.
        return module, x.requires_grad_(not self.whole and self.shape[1] > 1)


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


def measure(
    groups: Mapping[str, Sequence[Candidate]],
    layouts: Sequence[Layout],
    on: Conditions,
    repeats: int,
    seed: int,
) -> timing.Report:
    """A row per candidate, precision and layout, and what a matrix product does beside each group.

    All costs come first: what cannot work is refused before anything runs.
    """
    costed = {name: [one.costed() for one in group] for name, group in groups.items()}
    rows: list[Row] = []
    products: list[Row] = []
    for name, candidates in costed.items():
        for precision in on.precisions:
            product = MatrixProduct(MATRIX_SIZE[on.device], precision, on.device)
            steps = {
                (one, layout): Steps(
                    partial(one.ready, on.device, seed),
                    layout,
                    precision,
                    on.device,
                    network=one.whole,
                )
                for layout in layouts
                for one in candidates
                if one.failure is None
            }
            timings = timing.race({None: product, **steps}, on, repeats)
            for layout in layouts:
                for one in candidates:
                    labels = {**one.labels, "precision": precision, "layout": layout}
                    own = steps.get((one, layout))
                    rows.append(_row(labels, one, own, candidates, layouts, timings, on))
            speeds = {k: ratio(product.flops, t[None].median(on.clock)) for k, t in timings.items()}
            products.append(
                {"beside": name, "precision": precision, "layout": " ".join(layouts)}
                | {f"{k}_gflops_per_second": v and v / 1e9 for k, v in speeds.items()}
            )
    settings = {"device": on.device, "matrix_size": MATRIX_SIZE[on.device]}
    settings["ratios_of"] = on.clock_name
    whole = all(one.whole for group in costed.values() for one in group)
    tables = {"networks" if whole else "units": rows, "matrix product": products}
    return timing.Report(tables, settings)


def _row(
    labels: Row,
    mine: Candidate,
    steps: Steps | None,
    candidates: Sequence[Candidate],
    layouts: Sequence[Layout],
    timings: Mapping[str, Mapping[Any, Timing]],
    on: Conditions,
) -> Row:
    peers = [one for one in candidates if one.labels["block"] == PEER]
    fails = mine.failure or timings["training"][mine, labels["layout"]].failure
    batch, channels, d, h, w = mine.shape
    unit, units = ("clips", batch) if channels == 3 else ("voxels", batch * d * h * w)
    row = labels | {
        "parameters": mine.parameters,
        "forward_gflops": mine.flops and mine.flops / 1e9,
        "flop_ratio": ratio(mine.flops, peers[0].flops),
    }
    for kind, passes in (("forward", 1), ("training", 3)):
        times = timings[kind]
        own = times.get((mine, labels["layout"]), Timing())
        seconds, matrix = own.median(on.clock), times[None].median(on.clock)
        others = (times[one, layout].median(on.clock) for one in peers for layout in layouts)
        relative = ratio(seconds, min((s for s in others if s is not None), default=None))
        product = ratio(2 * MATRIX_SIZE[on.device] ** 3, matrix)
        row |= {
            f"{kind}_seconds": seconds,
            f"{kind}_time_ratio": relative,
            f"{kind}_throughput": ratio(units, own.median("wall")),
            f"{kind}_fraction_of_matrix_product": ratio(
                ratio(mine.flops and passes * mine.flops, seconds), product
            ),
        }
        if not mine.whole:
            row[f"{kind}_excess"] = ratio(relative, row["flop_ratio"])
    peak = slow = None
    if steps is not None and fails is None:
        peak = timing.peak_extra_mb(steps.train, on.device)
        if not mine.whole:
            slow = timing.slow_convolutions(steps.forward, on.device)
    row |= {"throughput_of": unit, "training_peak_extra_mb": peak}
    if not mine.whole:
        row["slow_convolutions"] = slow
    return row | {"threads": torch.get_num_threads(), "clock": on.clock_name, "fails": fails}


# Units.


@dataclass(frozen=True)
class Level:
    """Where in a network a unit stands."""

    # "unet" (leaky ReLU, M at most out_channels) or "resnet" (batch norm, no final activation, no
    # cap of M but the block's own)
    network: str
    in_channels: int  # that enter and leave
    out_channels: int
    shape: Triple  # D, H, W of the input
    batch_size: int = 1  # N of the input

    @property
    def name(self) -> str:
        """Its channels, as the user names it."""
        return f"{self.in_channels}-{self.out_channels}"

    @property
    def input(self) -> tuple[int, ...]:
        """(N, C, D, H, W) of its input."""
        return (self.batch_size, self.in_channels, *self.shape)


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
    names: Sequence[str], device: str, *, size: int | None, batch_size: int | None
) -> list[Level]:
    """The levels that the user asks for: of networks ("unet"), or by their channels ("24-72")."""
    levels = [
        Level("unet", *channels, (voxels,) * 3)
        for channels, voxels in zip(_UNET_CHANNELS, _UNET_VOXELS[device], strict=True)
    ]
    video_batch = 8 if device == "cuda" else 1
    levels += [Level("resnet", width, width, shape, video_batch) for width, shape in _RESNET]
    known = ["unet", "resnet", *(level.name for level in levels)]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"segments {unknown}: there are {', '.join(known)}")
    chosen = []
    for level in levels:
        if level.network in names or level.name in names:
            d, h, w = (min(n, size or n) for n in level.shape)
            batch = batch_size or level.batch_size
            chosen.append(replace(level, shape=(d, h, w), batch_size=batch))
    return chosen


def block(
    on: Conditions,
    *,
    segments: Sequence[str] = ("unet", "resnet"),
    blocks: Sequence[str] = BLOCKS,
    formulations: Sequence[Formulation] = ("auto", "plain"),
    size: int | None = None,
    batch_size: int | None = None,
    padding: Padding = "same",
    layouts: Sequence[Layout] = tuple(timing.LAYOUTS),
    repeats: int = 5,
    seed: int = 0,
) -> timing.Report:
    """Time P_mSC_n against plain 3D convolutions, a unit at a time.

    Options:
        segments: networks (unet, resnet) or single levels by their channels (24-72).
        blocks: names of configs/block; 3d is always among them.
        formulations: of the blocks.
        size: most voxels per axis of an input.
        batch_size: default: 1, but 8 for the ResNet's levels on a GPU.
        padding: of the U-Net's levels; valid is the published one.
    """
    forms: list[tuple[str, Formulation]] = [(PEER, "plain")]
    forms += [(name, f) for name in with_peer(blocks)[1:] for f in dict.fromkeys(formulations)]
    groups = {}
    for level in choose_levels(segments, on.device, size=size, batch_size=batch_size):
        where = {"network": level.network, "channels": level.name}
        shape = {"input": "x".join(map(str, level.input))}
        groups[f"{level.network} {level.name}"] = [
            Candidate(
                {**where, "block": name, "formulation": formulation, **shape},
                level.input,
                partial(build_level, level, name, formulation, padding),
                whole=False,
            )
            for name, formulation in forms
        ]
    return measure(groups, layouts, on, repeats, seed)


def build_level(
    level: Level, block: str, formulation: Formulation, padding: Padding = "same"
) -> nn.Module:
    """A level's unit."""
    unet = level.network == "unet"
    options = ConvolutionOptions(norm=nn.BatchNorm3d, final_activation=False)
    if unet:
        activation = partial(nn.LeakyReLU, LEAKY_SLOPE, inplace=True)
        options = ConvolutionOptions(padding=padding, activation=activation)
    unit = build_unit(named("block", block))(
        level.in_channels,
        level.out_channels,
        depth=2,  # both networks have pairs of convolutions
        width_limit=level.out_channels if unet else None,
        options=options,
    )
    write_by_hand(unit, formulation)
    return unit


# Networks.


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


def networks(
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
    """Time forward passes and training steps of all networks, beside torchvision's and MONAI's.

    Options:
        backbones: names of configs/backbone.
        blocks: names of configs/block; 3d is always among them.
        formulation: of the blocks.
        size: voxels, or frames, along each axis; default: the paper's on a GPU, fewer on a CPU.
        batch_size: default: 1, but 4 for DenseNet and 8 for the ResNets on a GPU.
        unet_padding: "valid" is the paper's; then only 3D, n = 1 and P_2SC_2 give equal results.
    """
    groups = {}
    for backbone in dict.fromkeys(backbones):
        config = _backbone(backbone)
        batch, *volume = _INPUTS[on.device][type(config)]
        channels: int = config.in_channels  # type: ignore[attr-defined]
        shape = (batch_size or batch, channels, *([size] * 3 if size else volume))
        if isinstance(config, UNetConfig):
            config = replace(config, padding=unet_padding)
        builds: list[tuple[str, str | None, Callable[[], nn.Module]]] = [
            (backbone, name, partial(_ours, config, name, formulation))
            for name in with_peer(blocks)
        ]
        builds += [(name, None, build) for name, build in _PEERS.get(type(config), {}).items()]
        given = {"input": "x".join(map(str, shape[1:])), "batch_size": shape[0]}
        groups[backbone] = [
            Candidate({"network": network, "block": name, **given}, shape, build)
            for network, name, build in builds
        ]
    return measure(groups, layouts, on, repeats, seed)


def _backbone(name: str) -> BackboneConfig:
    found: BackboneConfig = named("backbone", name)
    return found


def _ours(config: BackboneConfig, block: str, formulation: Formulation) -> nn.Module:
    network = build_network(config, named("block", block))
    write_by_hand(network, formulation)
    return network


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


_DYNUNET = {  # as nnU-Net plans a patch of 64 to 128 voxels
    "kernel_size": [3] * 5,
    "strides": [1, 2, 2, 2, 2],
    "upsample_kernel_size": [2] * 4,
    "filters": [32, 64, 128, 256, 320],
}
_PEERS: Mapping[type[BackboneConfig], Mapping[str, Callable[[], nn.Module]]] = {
    UNetConfig: {
        "MONAI BasicUNet": partial(_monai, "BasicUNet"),
        "MONAI DynUNet": partial(_monai, "DynUNet", **_DYNUNET),
    },
    ResNetConfig: {
        f"torchvision {name}": partial(torchvision_network, name, num_classes=101)
        for name in ("r3d_18", "r2plus1d_18")
    },
}
