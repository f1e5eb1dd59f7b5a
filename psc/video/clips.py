"""Clips of prepared videos: random ones to train on, and 20 per video to test on (Section 4.1).

Clips are bytes; ``ClipNormalisation`` makes numbers of them, on the device. That way a worker
copies 0.8 MB per clip of 64 frames at 64×64 instead of 3.1, to the trainer and to the GPU, and
leaves out the arithmetic, which costs more than reading the clip.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from psc.errors import ConfigError, DataError
from psc.video.manifest import ListedVideo
from psc.video.store import PreparedVideos

# ----------------------------------------
# Cut one clip out of a prepared video.


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


CLIPS_PER_VIDEO = 20
"""Clips that a test video's prediction is the mean of (Section 4.1)."""

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_DEVIATION = (0.22803, 0.22145, 0.216989)
"""Mean and standard deviation of RGB in [0, 1] that torchvision's video networks expect."""


class TrainingClips(Dataset[Clip]):
    """Random clips: any start, any crop, mirrored or not.

    The clips form one endless sequence that passes through all videos in random order, then again
    in another order, and so on. Clip i is a function of (seed, i) and of nothing else: not of
    workers, not of what was drawn before, so a resumed run goes on with the clips it would have
    seen. ``psc.training.data.EpochSampler`` shares the sequence out.

    Args:
        store: the prepared videos.
        videos: which of them.
        seed: of all randomness.
        frames: T, frames of a clip.
        stride: from one frame of a clip to the next, in frames of the video.
        size: height and width in pixels, or one number for both.
        random_crop: False cuts the centre.
        flip: mirror every other clip (at random).
        shuffle_frames: put each clip's frames into random order. A control: what is learned then
            is appearance, not motion.

    Items are ``Clip``. Looping and errors are those of ``ClipCutter``.

    Raises:
        ConfigError: a negative seed.
    """

    def __init__(
        self,
        store: PreparedVideos,
        videos: Sequence[ListedVideo],
        *,
        seed: int,
        frames: int = 64,
        stride: int = 1,
        size: int | tuple[int, int] = 64,
        random_crop: bool = True,
        flip: bool = True,
        shuffle_frames: bool = False,
    ) -> None:
        if seed < 0:
            raise ConfigError(f"seed must be at least 0, found {seed}")
        self._cutter = ClipCutter(store, videos, frames=frames, stride=stride, size=size)
        self._seed, self._random_crop, self._flip = seed, random_crop, flip
        self._shuffle_frames = shuffle_frames
        self._pass, self._order = -1, np.arange(0)

    def __len__(self) -> int:
        """Endless, as far as anybody can tell."""
        return 2**62

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``, always the same.

        Raises:
            IndexError: index is negative or not below ``len(self)``.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of an endless sequence from 0 on")
        cutter = self._cutter
        which_pass, position = divmod(index, len(cutter.videos))
        video = int(self._order_of(which_pass)[position])
        rng = np.random.default_rng([self._seed, index, 1])
        start = int(rng.integers(cutter.starts(video)))
        y, x = cutter.corner_range(video)
        corner = (y // 2, x // 2)
        if self._random_crop:
            corner = (int(rng.integers(y + 1)), int(rng.integers(x + 1)))
        flip = self._flip and bool(rng.integers(2))
        order = rng.permutation(cutter.frames) if self._shuffle_frames else None
        return cutter.cut(video, start, corner, flip=flip, order=order)

    def _order_of(self, which_pass: int) -> npt.NDArray[np.int64]:
        """Order of the videos in one pass; the last one is remembered."""
        if which_pass != self._pass:
            rng = np.random.default_rng([self._seed, which_pass, 0])
            self._pass, self._order = which_pass, rng.permutation(len(self._cutter.videos))
        return self._order


class EvaluationClips(Dataset[Clip]):
    """The test protocol's clips: ``clips_per_video`` per video, spread evenly over its time.

    The first begins with the video, the last ends with it (in a looped video: begins with its last
    frame); a single one is the middle. The crop is the centre. All clips of a video stand one after
    another; nothing is random.

    Args:
        store: the prepared videos.
        videos: which of them.
        frames: T, frames of a clip.
        stride: from one frame of a clip to the next, in frames of the video.
        size: height and width in pixels, or one number for both.
        clips_per_video: 20 in the paper.
        shuffle_frames: put each clip's frames into an order that ``seed`` and the clip's index
            give; see ``TrainingClips``.
        seed: of that order.

    Items are ``Clip``. Looping and errors are those of ``ClipCutter``.

    Raises:
        ConfigError: fewer than one clip per video.
    """

    def __init__(
        self,
        store: PreparedVideos,
        videos: Sequence[ListedVideo],
        *,
        frames: int = 64,
        stride: int = 1,
        size: int | tuple[int, int] = 64,
        clips_per_video: int = CLIPS_PER_VIDEO,
        shuffle_frames: bool = False,
        seed: int = 0,
    ) -> None:
        if clips_per_video < 1:
            raise ConfigError(f"clips_per_video must be at least 1, found {clips_per_video}")
        self._cutter = ClipCutter(store, videos, frames=frames, stride=stride, size=size)
        self._clips_per_video = clips_per_video
        self._shuffle_frames, self._seed = shuffle_frames, seed

    def __len__(self) -> int:
        return len(self._cutter.videos) * self._clips_per_video

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index % clips_per_video`` of video ``index // clips_per_video``.

        Raises:
            IndexError: index is negative or not below ``len(self)``.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        cutter = self._cutter
        video, which = divmod(index, self._clips_per_video)
        last, intervals = cutter.starts(video) - 1, self._clips_per_video - 1
        start = round(which * last / intervals) if intervals else last // 2
        y, x = cutter.corner_range(video)
        order = None
        if self._shuffle_frames:
            order = np.random.default_rng([self._seed, index]).permutation(cutter.frames)
        return cutter.cut(video, start, (y // 2, x // 2), order=order)


class ClipNormalisation(nn.Module):
    """Bytes to floats: (x / 255 - mean) / deviation, for each colour.

    Input uint8 (N, 3, T, H, W), result of the same shape in ``dtype``.

    Args:
        mean: of red, green and blue in [0, 1].
        deviation: standard deviation of them.
        dtype: of the result.

    Raises:
        ConfigError: not three numbers, or a deviation that is not positive.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        mean: Sequence[float] = KINETICS_MEAN,
        deviation: Sequence[float] = KINETICS_DEVIATION,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if len(mean) != 3 or len(deviation) != 3 or not min(deviation) > 0:
            raise ConfigError(
                f"mean and deviation must be three numbers each (red, green, blue), deviations"
                f" positive; found {tuple(mean)} and {tuple(deviation)}"
            )
        self.dtype = dtype
        deviations, means = torch.tensor(deviation), torch.tensor(mean)
        # One multiplication and one addition per value. Not part of a checkpoint.
        colours = (-1, 1, 1, 1)
        scale, shift = 1 / (255 * deviations), -means / deviations
        self.register_buffer("scale", scale.view(colours), persistent=False)
        self.register_buffer("shift", shift.view(colours), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Uint8 (N, 3, T, H, W) → floats of the same shape."""
        return torch.addcmul(self.shift, clips.float(), self.scale).to(self.dtype)
