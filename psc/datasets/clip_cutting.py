"""Cut one clip out of a prepared video."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from psc.datasets.action_split import ListedVideo
from psc.datasets.prepared_video import PreparedVideos
from psc.errors import ConfigError, DataError

__all__ = ["Clip", "ClipCutter"]


class Clip(TypedDict):
    """An item: ``clip`` uint8 (3, T, H, W), ``label`` and ``video`` int64 scalars.

    ``video`` is the position in the sequence of videos that the data set was made from.
    """

    clip: Tensor
    label: Tensor
    video: Tensor


class ClipCutter:
    """Cuts clips of fixed length and size out of prepared videos.

    A video shorter than a clip is looped: after its last frame comes its first.

    Args:
        store: the prepared videos.
        videos: which of them.
        frames: T, frames of a clip.
        stride: from one frame of a clip to the next, in frames of the video.
        size: height and width of a clip in pixels, or one number for both.

    Raises:
        ConfigError: numbers below 1, or clips larger than the prepared frames.
        DataError: no videos, or some that the store does not have.
    """

    def __init__(
        self,
        store: PreparedVideos,
        videos: Sequence[ListedVideo],
        *,
        frames: int,
        stride: int,
        size: int | tuple[int, int],
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        for name, value in (("frames", frames), ("stride", stride), ("size", min(height, width))):
            if value < 1:
                raise ConfigError(f"{name} of a clip must be at least 1, found {value}")
        if not videos:
            raise DataError("no videos to cut clips from; prepare the data set first")
        missing = [video.name for video in videos if video.key not in store.videos]
        if missing:
            raise DataError(
                f"{store.folder} does not have {len(missing)} of {len(videos)} videos, the first is"
                f" {missing[0]}; leave them out (ActionSplit.only_present) or prepare them"
            )
        for video in videos:
            prepared = store.videos[video.key]
            if prepared.height < height or prepared.width < width:
                raise ConfigError(
                    f"clips of {height}×{width} pixels do not fit into the frames of {video.name},"
                    f" prepared at {prepared.height}×{prepared.width}; choose a smaller size, or"
                    " prepare with a larger short side into another folder"
                )
        self.store, self.videos = store, tuple(videos)
        self.frames, self.stride, self.size = frames, stride, (height, width)

    @property
    def span(self) -> int:
        """Frames of the video from a clip's first frame to its last."""
        return (self.frames - 1) * self.stride + 1

    def starts(self, video: int) -> int:
        """How many first frames a clip can have: looped, it may begin anywhere."""
        count = self.store.videos[self.videos[video].key].frames
        return count - self.span + 1 if count >= self.span else count

    def corner_range(self, video: int) -> tuple[int, int]:
        """Largest (y, x) of a clip's upper left corner."""
        prepared = self.store.videos[self.videos[video].key]
        return prepared.height - self.size[0], prepared.width - self.size[1]

    def cut(
        self,
        video: int,
        start: int,
        corner: tuple[int, int],
        *,
        flip: bool = False,
        order: npt.NDArray[np.int64] | None = None,
    ) -> Clip:
        """One clip.

        Args:
            video: position in ``videos``.
            start: first frame.
            corner: (y, x) of the upper left corner in the prepared frame.
            flip: mirror it, left to right.
            order: permutation of the clip's frames.
        """
        listed = self.videos[video]
        count = self.store.videos[listed.key].frames
        if count >= self.span:
            read = self.store.read(listed.key, start, start + self.span)
            frames = torch.from_numpy(read)[:, :: self.stride]
        else:
            looped = (start + self.stride * np.arange(self.frames)) % count
            frames = torch.from_numpy(self.store.read(listed.key, 0, count))[:, looped]
        (y, x), (height, width) = corner, self.size
        clip = frames[:, :, y : y + height, x : x + width]
        if order is not None:
            clip = clip[:, torch.from_numpy(order)]
        return {
            "clip": clip.flip(-1) if flip else clip.contiguous(),
            "label": torch.tensor(listed.label, dtype=torch.int64),
            "video": torch.tensor(video, dtype=torch.int64),
        }
