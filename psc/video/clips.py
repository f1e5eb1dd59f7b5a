"""Clips of prepared videos: random ones to train on, and 20 per video to test on (Section 4.1).

Clips are bytes; ``ClipNormalisation`` makes numbers of them, on the device. That way a worker
copies 0.8 MB per clip of 64 frames at 64×64 instead of 3.1, to the trainer and to the GPU, and
leaves out the arithmetic, which costs more than reading the clip.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from psc.errors import ConfigError, DataError
from psc.video.data import ListedVideo
from psc.video.store import Frames

CLIPS_PER_VIDEO = 20
"""Clips that a test video's prediction is the mean of (Section 4.1)."""

KINETICS_MEAN = (0.43216, 0.394666, 0.37645)
KINETICS_DEVIATION = (0.22803, 0.22145, 0.216989)
"""Mean and standard deviation of RGB in [0, 1] that torchvision's video networks expect."""


class Clip(TypedDict):
    """An item: ``clip`` uint8 (3, T, H, W), ``label`` and ``video`` int64 scalars.

    ``video`` is the position in the sequence of videos that the data set was made from.
    """

    clip: Tensor
    label: Tensor
    video: Tensor


class _Clips(Dataset[Clip]):
    """What training and evaluation clips have in common; their order of frames may be shuffled.

    That is a control: what is learned then is appearance, not motion. ``size`` in pixels is of both
    sides, or (height, width); ``stride`` counts frames of the video from one to the next.
    """

    def __init__(
        self,
        store: Frames,
        videos: Sequence[ListedVideo],
        *,
        frames: int = 64,
        stride: int = 1,
        size: int | tuple[int, int] = 64,
        shuffle_frames: bool = False,
        seed: int = 0,
    ) -> None:
        height, width = (size, size) if isinstance(size, int) else size
        for name, value in (("frames", frames), ("stride", stride), ("size", min(height, width))):
            if value < 1:
                raise ConfigError(f"{name} of a clip must be at least 1, found {value}")
        if seed < 0:
            raise ConfigError(f"seed must be at least 0, found {seed}")
        if not videos:
            raise DataError("no videos to cut clips from; prepare the data set first")
        missing = [video.name for video in videos if video.key not in store.videos]
        if missing:
            raise DataError(
                f"the store does not have {len(missing)} of {len(videos)} videos, the first is"
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
        self.store, self.videos, self.seed = store, tuple(videos), seed
        self.frames, self.stride, self.size = frames, stride, (height, width)
        self.shuffle_frames = shuffle_frames

    def _starts(self, video: int) -> int:
        """How many first frames a clip can have: looped, it may begin anywhere."""
        count = self.store.videos[self.videos[video].key].frames
        span = (self.frames - 1) * self.stride + 1  # from a clip's first frame to its last
        return count - span + 1 if count >= span else count

    def _corners(self, video: int) -> tuple[int, int]:
        """Largest (y, x) of a clip's upper left corner."""
        prepared = self.store.videos[self.videos[video].key]
        return prepared.height - self.size[0], prepared.width - self.size[1]

    def _cut(
        self,
        video: int,
        start: int,
        corner: tuple[int, int],
        order: npt.NDArray[np.int64] | None,
        flip: bool = False,
    ) -> Clip:
        """The clip from frame ``start`` on; ``corner`` is its upper left, (y, x)."""
        listed = self.videos[video]
        count = self.store.videos[listed.key].frames
        span = (self.frames - 1) * self.stride + 1
        if count >= span:
            frames = self.store.read(listed.key, start, start + span)[:, :: self.stride]
        else:
            looped = (start + self.stride * np.arange(self.frames)) % count
            frames = self.store.read(listed.key, 0, count)[:, looped]
        (y, x), (height, width) = corner, self.size
        clip = torch.from_numpy(frames)[:, :, y : y + height, x : x + width]
        if order is not None:
            clip = clip[:, torch.from_numpy(order)]
        return {
            "clip": clip.flip(-1) if flip else clip.contiguous(),
            "label": torch.tensor(listed.label, dtype=torch.int64),
            "video": torch.tensor(video, dtype=torch.int64),
        }


class TrainingClips(_Clips):
    """Random clips: any start, any crop, mirrored or not.

    The clips form one endless sequence that passes through all videos in random order, then again
    in another order, and so on. Clip i is a function of (seed, i) and of nothing else: not of
    workers, not of what was drawn before, so a resumed run goes on with the clips it would have
    seen. ``psc.training.data.EpochSampler`` shares the sequence out. A video that is shorter than a
    clip is looped. ``options`` are those of ``_Clips``, as a recipe's ``clip_options`` has them.
    """

    def __init__(
        self,
        store: Frames,
        videos: Sequence[ListedVideo],
        *,
        seed: int,
        random_crop: bool = True,
        flip: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(store, videos, seed=seed, **options)
        self._random_crop, self._flip = random_crop, flip
        self._pass, self._order = -1, np.arange(0)

    def __len__(self) -> int:
        """Endless, as far as anybody can tell."""
        return 2**62

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index``, always the same."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of an endless sequence from 0 on")
        which_pass, position = divmod(index, len(self.videos))
        if which_pass != self._pass:
            rng = np.random.default_rng([self.seed, which_pass, 0])
            self._pass, self._order = which_pass, rng.permutation(len(self.videos))
        video = int(self._order[position])
        rng = np.random.default_rng([self.seed, index, 1])
        start = int(rng.integers(self._starts(video)))
        y, x = self._corners(video)
        corner = (y // 2, x // 2)
        if self._random_crop:
            corner = (int(rng.integers(y + 1)), int(rng.integers(x + 1)))
        flip = self._flip and bool(rng.integers(2))
        order = rng.permutation(self.frames) if self.shuffle_frames else None
        return self._cut(video, start, corner, order, flip)


class EvaluationClips(_Clips):
    """The test protocol's clips: ``clips_per_video`` per video, spread evenly over its time.

    The first begins with the video, the last ends with it (in a looped video: begins with its last
    frame); a single one is the middle. The crop is the centre. All clips of a video stand one after
    another; nothing is random, but the order of frames where it is shuffled.
    """

    def __init__(
        self,
        store: Frames,
        videos: Sequence[ListedVideo],
        *,
        clips_per_video: int = CLIPS_PER_VIDEO,
        **options: Any,
    ) -> None:
        if clips_per_video < 1:
            raise ConfigError(f"clips_per_video must be at least 1, found {clips_per_video}")
        super().__init__(store, videos, **options)
        self._clips_per_video = clips_per_video

    def __len__(self) -> int:
        return len(self.videos) * self._clips_per_video

    def __getitem__(self, index: int) -> Clip:
        """Clip ``index % clips_per_video`` of video ``index // clips_per_video``."""
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        video, which = divmod(index, self._clips_per_video)
        last, intervals = self._starts(video) - 1, self._clips_per_video - 1
        start = round(which * last / intervals) if intervals else last // 2
        y, x = self._corners(video)
        order = None
        if self.shuffle_frames:
            order = np.random.default_rng([self.seed, index]).permutation(self.frames)
        return self._cut(video, start, (y // 2, x // 2), order)


class ClipNormalisation(nn.Module):
    """Bytes (N, 3, T, H, W) to float32: (x / 255 - mean) / deviation of Kinetics, by colour."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = (
            torch.tensor(v).view(-1, 1, 1, 1) for v in (KINETICS_MEAN, KINETICS_DEVIATION)
        )
        # One multiplication and one addition per value. Not part of a checkpoint.
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("shift", -mean / deviation, persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Uint8 (N, 3, T, H, W) → floats of the same shape."""
        return torch.addcmul(self.shift, clips.float(), self.scale)
