"""A video file decoded from its first frame to its last, and resized.

decord 0.6 gives wrong frames when it is asked for single frames of MPEG-4 in AVI with B-frames, the
format of UCF101. Read from the beginning it is right, so that is the only way here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch  # before decord, whose FFmpeg must not come first
import torch.nn.functional as F

from psc.errors import ConfigError, DataError

KERNEL = "bilinear, antialiased"
"""The one kernel that frames are shrunk with; resizing kernels differ by whole grey levels."""

TOLERATED_MISSING = 2
"""Frames that a header may announce in excess: some encoders count what is no picture, and a clip
that lacks two frames at its end is better than a test video that is left out."""

_AT_ONCE = 32  # full-size frames in memory
_HEADER_BYTES = 72


@dataclass(frozen=True)
class AviHeader:
    """What an AVI file says of itself: number of frames (0: unknown), height and width (pixels)."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Video:
    """A decoded video: ``frames`` uint8 (3, T, H, W) in RGB, ``fps`` frames per second."""

    frames: npt.NDArray[np.uint8]
    fps: float


def read_avi_header(path: Path) -> AviHeader:
    """The main header of an AVI file, which stands at its very beginning.

    Raises:
        DataError: the file cannot be read, is empty, or is no AVI file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path") from error
    if not head:
        raise DataError(f"{path} is empty (0 bytes); unpack or download it again")
    if head[:4] != b"RIFF" or head[8:12] != b"AVI ":
        raise DataError(
            f"{path} is not an AVI file, whatever its name: it begins with {head[:12]!r}; unpack"
            " or download it again"
        )
    if len(head) < _HEADER_BYTES or head[24:28] != b"avih":
        raise DataError(f"{path} has no AVI header, it is damaged; unpack or download it again")
    # dwTotalFrames, then three fields of no interest, dwWidth, dwHeight: little-endian 32 bits.
    frames, _, _, _, width, height = (int(n) for n in np.frombuffer(head[48:72], "<u4"))
    return AviHeader(frames, height, width)


def decode_video(
    path: Path, frame_size: Callable[[int, int], tuple[int, int]] | None = None
) -> Video:
    """Decode every frame of an AVI file, in order.

    Args:
        path: the file.
        frame_size: from the file's (height, width) in pixels to those that each frame is resized
            to with ``resize_frames``; None resizes nothing.

    Returns:
        All frames.

    Raises:
        DataError: an empty, foreign, truncated or damaged file (more than ``TOLERATED_MISSING``
            frames fewer than its header announces), also where the decoder would have filled a gap
            with a copy of another frame.
    """
    header = read_avi_header(path)
    reader = _open(path)
    chunks = []
    for chunk in _read(reader, path):
        frames = torch.from_numpy(chunk).permute(0, 3, 1, 2)
        if frame_size is not None:
            frames = resize_frames(frames, frame_size(*frames.shape[2:]))
        chunks.append(frames)
    frames = torch.cat(chunks).transpose(0, 1).contiguous()
    if header.frames - frames.shape[1] > TOLERATED_MISSING:
        raise DataError(
            f"{path} is truncated or damaged: its header announces {header.frames} frames,"
            f" {frames.shape[1]} could be decoded; unpack or download it again"
        )
    return Video(frames.numpy(), float(reader.get_avg_fps()))


def resize_frames(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize frames with ``KERNEL``: a triangle as wide as two target pixels, in source pixels.

    Args:
        frames: uint8 (T, C, H, W).
        size: (height, width) of the result in pixels.

    Returns:
        uint8 (T, C, height, width), rounded; aspect is whatever ``size`` makes it.

    Raises:
        ConfigError: a size below 1.
    """
    if min(size) < 1:
        raise ConfigError(f"frames cannot be resized to {size} (height, width); give positive ones")
    if tuple(frames.shape[2:]) == size:
        return frames
    return F.interpolate(frames, size=size, mode="bilinear", antialias=True)


def _open(path: Path) -> Any:
    import decord  # here: it is large, and only preparing a data set needs it

    decord.logging.set_level(decord.logging.QUIET)
    try:
        # One thread: processes share out the files. Any frame that had to be replaced by a copy of
        # another is an error: the tolerance is a share of the frames.
        return decord.VideoReader(str(path), decord.cpu(0), num_threads=1, fault_tol=1e-6)
    except Exception as error:  # RuntimeError, AssertionError or one of decord's own
        raise DataError(_damaged(path, error)) from error


def _read(reader: Any, path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Chunks (T, H, W, 3) from the first frame to the last."""
    done, ended = 0, False
    while done < len(reader) and not ended:
        frames = []
        try:
            for _ in range(min(_AT_ONCE, len(reader) - done)):
                frames.append(reader.next().asnumpy())
        except StopIteration:
            ended = True  # fewer than decord promised: the header tells whether any are missing
        except Exception as error:  # decord's two have no base in common but this
            raise DataError(_damaged(path, error)) from error
        if frames:
            done += len(frames)
            yield np.stack(frames)
    if not done:
        raise DataError(f"{path} holds no frame that can be decoded; unpack or download it again")


def _damaged(path: Path, error: Exception) -> str:
    said = str(error).strip().splitlines()
    reason = f" ({said[-1][:200]})" if said else ""
    return f"{path} is damaged and cannot be decoded{reason}; unpack or download it again"
