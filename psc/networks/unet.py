"""3D U-Net of the EM application (Section 4.3), after Funke et al.'s affinity network.

Published form: valid convolutions, 132³ voxels in, 44³ out; levels of 24·3^d channels, three 2×2×2
max-poolings; learned transposed convolutions, 1×1×1 to the level's channels, crop and concatenate
(upsampled first, then skip); 1×1×1 to the affinities. With ``block=3d`` it has 25,178,811
parameters, with P_1SC_1 12,574,139, with P_2SC_2 15,698,611.

This file holds no block logic: every level's pair of convolutions comes from a unit factory.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psc.block.block import balance_sums
from psc.block.convolution import ConvolutionOptions, Padding, Unit, conv3d
from psc.block.unit import UnitFactory
from psc.networks.geometry import VolumeNetwork, check_at_least

LEAKY_SLOPE = 0.005
"""Negative slope of the published network's leaky ReLU."""

CONVOLUTIONS_PER_LEVEL = 2
"""A level is a VGG pair: two consecutive convolutions."""


def _leaky_relu() -> nn.Module:
    return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)


class UNet(VolumeNetwork):
    """U-Net over volumes; its convolutions are whatever ``unit`` builds.

    Args:
        unit: factory of a level's convolutions (``psc.make_unit``).
        in_channels: channels of the input.
        out_channels: channels of the result: 3 affinities (z, y, x) in the paper.
        base_width: channels of the finest level.
        growth: factor of the channels from level to level.
        depth: number of 2×2×2 poolings; there are depth + 1 levels.
        padding: "valid" (published) or "same".

    ``forward`` takes (N, in_channels, D, H, W) with every axis a valid input size and returns
    LOGITS (N, out_channels, D', H', W'); the published sigmoid is the task's, so that losses can
    be computed stably.
    """

    def __init__(
        self,
        unit: UnitFactory,
        *,
        in_channels: int = 1,
        out_channels: int = 3,
        base_width: int = 24,
        growth: int = 3,
        depth: int = 3,
        padding: Padding = "valid",
    ) -> None:
        super().__init__()
        check_at_least(1, base_width=base_width, growth=growth, depth=depth)
        options = ConvolutionOptions(padding=padding, activation=_leaky_relu)
        widths = [base_width * growth**level for level in range(depth + 1)]

        def level_segment(channels: int, width: int) -> Unit:
            return unit(
                channels, width, depth=CONVOLUTIONS_PER_LEVEL, width_limit=width, options=options
            )

        self.depth, self.padding = depth, padding
        units = [
            level_segment(channels, width)
            for channels, width in zip([in_channels, *widths], widths, strict=False)
        ]
        self.encoder = nn.ModuleList(units)
        self.pool = nn.MaxPool3d(2)
        # Coarse to fine, the order in which the decoder runs.
        pairs = list(zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose3d(coarse, coarse, 2, 2, bias=False) for coarse, _ in pairs
        )
        self.reduce = nn.ModuleList(conv3d(coarse, fine, 1) for coarse, fine in pairs)
        self.decoder = nn.ModuleList(level_segment(2 * fine, fine) for _, fine in pairs)
        self.head = conv3d(widths[0], out_channels, 1)
        self._reset_parameters()

        # What one level's unit sees beyond a voxel, in that level's voxels (all levels alike).
        self._reach = max(units[0].receptive_field) - 1

    def _reset_parameters(self) -> None:
        """MSRA (He) initialisation and zero biases, as published."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        balance_sums(self)  # the other backbones normalise after every sum

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → logits (N, out_channels, D', H', W')."""
        self.check_input(x)
        skips = []
        for level, unit in enumerate(self.encoder[:-1]):
            x = unit(x)
            size = [self._skip_size(n, self.depth - level) for n in x.shape[2:]]
            x, skip = _pool_and_crop(self.pool, x, size)
            skips.append(skip)
        x = self.encoder[-1](x)
        for upsample, reduce, unit in zip(self.upsample, self.reduce, self.decoder, strict=True):
            x = unit(torch.cat([reduce(upsample(x)), skips.pop()], dim=1))
        y: Tensor = self.head(x)
        return y

    def unpadded(self) -> "UNet":
        """Its twin with valid convolutions: what that gives is the centre of what this one gives.

        Of a tile of a slab it computes a third (``psc.volumes.tiling``), since each level sheds
        what the next one has no use for. Poolings fall alike if the input of the twin begins half a
        level's reach further inside, up to multiples of the period.
        """
        if self.padding == "valid":
            return self
        twin = copy.deepcopy(self, {id(t): t for t in (*self.parameters(), *self.buffers())})
        twin.padding = "valid"
        for module in twin.modules():
            if isinstance(module, nn.Conv3d):
                module.padding = (0, 0, 0)
        return twin

    def _skip_size(self, size: int, below: int) -> int:
        """Voxels that a level of ``size`` hands on directly; ``below``: levels under it."""
        loss = self._reach if self.padding == "valid" else 0
        size = size // 2 - loss
        return 2 * (size if below == 1 else self._skip_size(size, below - 1) - loss)

    @property
    def period(self) -> int:
        """Shifts by multiples of this many voxels commute with the network (2^depth, pooling)."""
        return 1 << self.depth

    @property
    def receptive_field(self) -> int:
        """Extent in voxels, along each axis, of the input that one output voxel can depend on.

        The widest over the positions within a period: encoder and bottom see ``_reach`` voxels per
        level at that level's spacing, a pooling adds one voxel of its own level, the decoder's
        units add their reach again; an upsampled voxel sees the whole coarse voxel it lies in.
        """
        span = 1  # consecutive voxels of the current level that one output voxel depends on
        for _ in range(self.depth):
            span += self._reach
            span = span // 2 + 1  # fine voxels lie in at most this many coarse ones
        span += self._reach
        for _ in range(self.depth):
            span = 2 * span + self._reach
        return span

    @property
    def _title(self) -> str:
        return f"U-Net (depth {self.depth}, {self.padding} padding)"

    def _trace(self, size: int) -> int | None:
        loss = self._reach if self.padding == "valid" else 0
        for _ in range(self.depth):
            size -= loss
            if size < 2 or size % 2:
                return None
            size //= 2
        size -= loss
        if size < 1:
            return None
        for _ in range(self.depth):
            size = 2 * size - loss
            if size < 1:
                return None
        return size


def _pool_and_crop(pool: nn.Module, x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A level's result (N, C, D, H, W) pooled, and its centre of ``size``."""
    learns = torch.is_grad_enabled() and x.requires_grad
    # A compiler fuses plain operations itself; another pool, or one that is watched, is called.
    lowered = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if not learns or lowered or x.is_meta or not _halves(pool):
        centre = _centre(x, size)
        # A view would keep the whole level in memory; with gradients something else does anyway.
        return pool(x), centre if learns else centre.clone()
    pooled, centre, _ = _PoolAndCrop.apply(x, size)
    return pooled, centre


def _halves(pool: nn.Module) -> bool:
    """Whether it is 2×2×2 max-pooling and nothing else."""
    if type(pool) is not nn.MaxPool3d:
        return False
    options = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    before = pool._forward_pre_hooks or pool._backward_pre_hooks
    return options == (2, 2, 0, 1) and not (before or pool._forward_hooks or pool._backward_hooks)


def _centre(x: Tensor, size: Sequence[int]) -> Tensor:
    for axis, wanted in enumerate(size, start=2):
        x = x.narrow(axis, (x.shape[axis] - wanted) // 2, wanted)
    return x


class _PoolAndCrop(torch.autograd.Function):
    """2×2×2 max-pooling and the centre of one volume, whose gradients meet in one tensor.

    Autograd would give the centre a gradient of the whole volume, with zeros around it (three of
    them, one for each axis), and add that to the pooling's: for the 10 MB that the finest level of
    the published U-Net hands on, it writes half a gigabyte. And the layout of the gradient that
    arrives from below would become that of the level's.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        pooled, indices = F.max_pool3d(x, 2, return_indices=True)
        return pooled, _centre(x, size), indices

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
        x, ctx.size = inputs
        indices = outputs[2]
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(x, indices)
        ctx.save_for_forward(indices)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:
        (indices,) = ctx.saved_tensors
        pooled = tangent.flatten(2).gather(2, indices.flatten(2)).view(indices.shape)
        return pooled, _centre(tangent, ctx.size), None

    @staticmethod
    def backward(ctx: Any, of_pooled: Tensor, of_centre: Tensor, _: Any) -> tuple[Any, ...]:
        x, indices = ctx.saved_tensors
        if x.is_contiguous(memory_format=torch.channels_last_3d):
            of_pooled = of_pooled.contiguous(memory_format=torch.channels_last_3d)
        of_x = torch.ops.aten.max_pool3d_with_indices_backward(
            of_pooled, x, [2] * 3, [2] * 3, [0] * 3, [1] * 3, False, indices
        )
        _centre(of_x, ctx.size).add_(of_centre)  # nobody else has this tensor yet
        return of_x, None
