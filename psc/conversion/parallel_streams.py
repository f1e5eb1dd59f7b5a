"""Streams side by side whose results are put together in an order of channels of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from psc.streams import Merge

_CHANNELS = -4  # of (N, C, D, H, W), and of (C, D, H, W), which nn.Conv3d takes too


class ParallelStreams(nn.Module):
    """Base of what ``convert`` puts in place of convolutions: m streams, merged.

    Args:
        streams: stream s runs its 1D convolution, its last part, along axis s (D, H, W).
        merge: "concatenate" or "sum" (Eq. 3).
        widths: M of every stream.
        order: (out,) channel j of the result is channel order[j] of the concatenation; None for
            sums, and for a single stream.

    Attributes:
        channel_order: the order, kept in checkpoints.
    """

    def __init__(
        self,
        streams: Sequence[nn.Sequential],
        merge: Merge,
        widths: Sequence[int],
        order: Tensor | None,
    ) -> None:
        super().__init__()
        self.merge, self.widths = merge, tuple(widths)
        self.streams = nn.ModuleList(streams)
        self.channel_order: Tensor | None
        self.register_buffer("channel_order", order)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        results: list[Tensor] = [stream(x) for stream in self.streams]
        if self.channel_order is not None:
            return torch.cat(results, _CHANNELS).index_select(_CHANNELS, self.channel_order)
        y = results[0]
        for result in results[1:]:
            y = y + result
        return y


def stream_channels(out_channels: int, m: int, merge: Merge) -> list[int]:
    """Output channels of each stream, of one group's ``out_channels``."""
    if merge == "sum":
        return [out_channels] * m
    return [out_channels // m + (s < out_channels % m) for s in range(m)]


def initial_order(
    out_channels: int, groups: int, counts: Sequence[int], merge: Merge
) -> Tensor | None:
    """The ``order`` of streams that nothing has been chosen for.

    Each stream holds a part of every group, the first stream the first channels of each.
    """
    if merge == "sum" or len(counts) == 1:
        return None
    per_group = out_channels // groups
    parts: list[Tensor] = []
    start = 0
    for count in counts:
        parts += [torch.arange(count) + g * per_group + start for g in range(groups)]
        start += count
    return torch.cat(parts).argsort()
