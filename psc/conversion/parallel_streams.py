"""Streams side by side whose results are put together in an order of channels of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from psc.blocks import check_streams
from psc.errors import ConfigError
from psc.formulations import Formulation, add, concatenate, fold
from psc.streams import FoldableStream, Merge, stream_channels

_CHANNELS = -4  # of (N, C, D, H, W), and of (C, D, H, W), which nn.Conv3d takes too


class ParallelStreams(nn.Module):
    """Base of what ``convert`` puts in place of convolutions: m streams, merged.

    Args:
        streams: stream s along axis s (D, H, W), its 1D convolution its last part.
        merge: "concatenate" or "sum" (Eq. 3).
        widths: M of every stream.
        order: (out,) channel j of the result is channel order[j] of the concatenation; None for
            sums, and for a single stream.

    Attributes:
        channel_order: the order, kept in checkpoints.
    """

    def __init__(
        self,
        streams: Sequence[FoldableStream],
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
        folded = all(stream.folds(x) for stream in self.streams)  # type: ignore[operator]
        # Once for all streams: from channels last, each brings its axis to the front much faster.
        entering = fold(x, 0) if folded else x
        results: list[Tensor] = [stream(entering) for stream in self.streams]
        if self.channel_order is not None:
            y = concatenate(results, folded=False)
            return y.index_select(_CHANNELS, self.channel_order)
        y = add(results)
        # As of nn.Conv3d: networks view the result as the layout of their input allows.
        return y.contiguous() if folded and not _has_channels_last(x) else y

    @property
    def formulation(self) -> Formulation:
        """How the convolutions are computed (``psc.formulations``); may be set at any time."""
        first: FoldableStream = self.streams[0]  # type: ignore[assignment]
        return first.formulation

    @formulation.setter
    def formulation(self, formulation: Formulation) -> None:
        for stream in self.streams:
            stream.formulation = formulation  # type: ignore[assignment]


def _has_channels_last(x: Tensor) -> bool:
    """Whether the channels of (N, C, D, H, W) are last in memory, told apart for C = 1 too."""
    return x.stride(1) == 1


def checked_channels(out_channels: int, widths: Sequence[int], n: int, merge: Merge) -> list[int]:
    """Output channels of each stream, of one group's ``out_channels``.

    Raises:
        ConfigError: for an (m, n) that there is not, a width below 1, or a stream without channels.
    """
    check_streams(len(widths), n)
    counts = stream_channels(out_channels, len(widths), merge)
    if min(counts) < 1 or min(widths) < 1:
        raise ConfigError(
            f"m={len(widths)} streams of M={list(widths)} with {counts} output channels per group: "
            "each needs at least one filter and one channel"
        )
    return counts


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
