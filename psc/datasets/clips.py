"""Clips of prepared videos: random ones to train on, and 20 per video to test on (Section 4.1).

Clips are bytes; ``ClipNormalisation`` makes numbers of them, on the device. That way a worker
copies 0.8 MB per clip of 64 frames at 64×64 instead of 3.1, to the trainer and to the GPU, and
leaves out the arithmetic, which costs more than reading the clip.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from psc.datasets.action_split import ListedVideo
from psc.datasets.clip_cutting import Clip, ClipCutter
from psc.datasets.prepared_video import PreparedVideos
from psc.errors import ConfigError

__all__ = ["CLIPS_PER_VIDEO", "ClipNormalisation", "EvaluationClips", "TrainingClips"]

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
    seen. ``psc.datasets.modules.EpochSampler`` shares the sequence out.

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
