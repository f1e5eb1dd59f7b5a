"""Units as numbers: parameters and multiply-adds from Eq. 5, with no module built.

Plain integer arithmetic. It repeats what ``psc.block.unit`` and ``psc.block.block`` build, on
purpose: a
mistake in either shows as a difference. Only Eq. 5 itself (``psc.block.block``) is shared.
"""

import math
from dataclasses import dataclass
from typing import Literal

from psc.block.block import PUBLISHED_MAXIMUM_WIDTH, Merge, stream_width
from psc.block.convolution import Padding, Triple

Norm = Literal["none", "after", "before"]
"""Batch norm, with two parameters per channel: none, or after or before every convolution."""


@dataclass(frozen=True)
class Convolution:
    """One convolution: what decides its parameters and multiply-adds."""

    in_channels: int
    out_channels: int
    kernel: Triple
    stride: Triple = (1, 1, 1)
    is_added: bool = False
    """To the result of another stream, which has the bias and the normalisation of the sum."""

    @property
    def weights(self) -> int:
        """Weights, without biases."""
        return self.in_channels * self.out_channels * math.prod(self.kernel)

    def output_size(self, size: Triple, padding: Padding) -> Triple:
        """Voxels along (D, H, W) that leave for those that enter."""
        lost = [k - 1 if padding == "valid" else 0 for k in self.kernel]
        d, h, w = (
            (n - k - 1) // step + 1 for n, k, step in zip(size, lost, self.stride, strict=True)
        )
        return d, h, w


Stream = list[Convolution]
"""Convolutions one after the other."""

Unit = list[list[Stream]]
"""Blocks one after the other, each of streams side by side."""


@dataclass(frozen=True)
class Rule:
    """How units are realised: the arguments of ``psc.make_unit``."""

    kind: Literal["conv3d", "psc"] = "psc"
    m: int = 2
    n: int = 2
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH
    width_divisor: int | None = None
    merge: Merge = "concatenate"


def unit(
    rule: Rule,
    in_channels: int,
    out_channels: int,
    *,
    depth: int = 1,
    stride: int = 1,
    width_limit: int | None = None,
    filters: int | None = None,
    kernel_size: int = 3,
) -> Unit:
    """The convolutions of a unit; arguments as in ``psc.block.unit.UnitFactory``."""
    d = kernel_size
    if rule.kind == "conv3d":
        channels = [in_channels] + [out_channels] * depth
        steps = [stride] + [1] * (depth - 1)
        return [
            [[Convolution(k_in, out_channels, (d,) * 3, (step,) * 3)]]
            for k_in, step in zip(channels[:-1], steps, strict=True)
        ]
    caps = [cap for cap in (rule.maximum_width, width_limit) if cap is not None]
    width = stream_width(
        in_channels,
        filters or out_channels,
        rule.width_divisor or rule.m,
        kernel_size=d,
        maximum=min(caps, default=None),
    )
    blocks = []
    for i in range(-(-depth // rule.n)):
        k_in, step = (in_channels, stride) if i == 0 else (out_channels, 1)
        blocks.append([_stream(rule, s, k_in, width, out_channels, step, d) for s in range(rule.m)])
    return blocks


def _stream(
    rule: Rule, axis: int, k_in: int, width: int, out_channels: int, step: int, d: int
) -> Stream:
    summed = rule.merge == "sum"
    # Concatenated, the first streams get what does not divide.
    share = out_channels if summed else len(range(axis, out_channels, rule.m))
    plane, line = _triple(axis, 1, d), _triple(axis, rule.n * (d - 1) + 1, 1)
    convolutions = [Convolution(k_in, width, plane, _triple(axis, 1, step))]
    convolutions += [Convolution(width, width, plane)] * (rule.n - 1)
    last = Convolution(width, share, line, _triple(axis, step, 1), is_added=summed and axis > 0)
    return [*convolutions, last]


def _triple(axis: int, along: int, across: int) -> Triple:
    """``along`` on the axis, ``across`` on the other two."""
    d, h, w = (along if a == axis else across for a in range(3))
    return d, h, w


def segment_parameters(
    unit: Unit, *, bias: bool = True, norm: Norm = "none", final_norm: bool = True
) -> int:
    """Parameters of a unit.

    Args:
        unit: its convolutions.
        bias: whether each convolution has one; summed ones have one together.
        norm: batch norm of each convolution; "after" summed ones there is one.
        final_norm: False: those that end the unit have none (with "after").
    """
    total = 0
    for i, block in enumerate(unit):
        for stream in block:
            for convolution in stream:
                ends = i == len(unit) - 1 and convolution is stream[-1]
                total += convolution.weights
                if norm == "before":
                    total += 2 * convolution.in_channels
                if convolution.is_added:
                    continue
                total += bias * convolution.out_channels
                if norm == "after" and (final_norm or not ends):
                    total += 2 * convolution.out_channels
    return total


def segment_multiply_adds(unit: Unit, size: Triple, padding: Padding) -> tuple[int, Triple]:
    """MACs of a unit for one volume, and the size that leaves it.

    Args:
        unit: its convolutions.
        size: voxels along (D, H, W) that enter.
        padding: of all convolutions.
    """
    total = 0
    for block in unit:
        entered = size
        for stream in block:
            size = entered
            for convolution in stream:
                size = convolution.output_size(size, padding)
                total += convolution.weights * math.prod(size)
    return total, size
