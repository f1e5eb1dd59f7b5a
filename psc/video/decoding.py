"""A film decoded as players show it: every frame, from the first to the last, on the film's clock.

decord decodes AVI, one picture after the other; asked for single ones of MPEG-4 in AVI with
B-frames, the format of UCF101, it gives wrong ones. Where it refuses a film or finds fewer frames
than are announced, PyAV decodes. A frame without a picture (an empty chunk of the file, which means
"as before"; a picture that is not coded, or of which damage left nothing) then shows the picture
before it once more, and is counted.

Other containers are PyAV's: they may say how a film is to be turned, and number pictures by times.
"""

import mmap
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch  # before decord, whose FFmpeg must not come first
import torch.nn.functional as F

from psc.errors import ConfigError, DataError
from psc.files import reading

KERNEL = "bilinear, antialiased"
"""The one kernel that frames are shrunk with; resizing kernels differ by whole grey levels."""

TOLERATED_MISSING = 2
"""Frames that a damaged film may lack: better two frames less than a test video left out."""

UNMEASURED = "taken as whole, as their files (TS, fragments) do not say how long they are"
"""What is told of such films."""

_MOST_BROKEN = 0.1  # of a whole film's frames; with more it is damaged, however it is patched up
_AT_ONCE = 32  # full-size frames in memory
_FrameSize = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Header:
    """What a file says of itself: number of frames (0: unknown), height and width (pixels)."""

    frames: int
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Video:
    """A decoded video: ``frames`` uint8 (3, T, H, W) in RGB, ``fps`` of them per second.

    ``concealed`` of them show the picture before them again, for want of their own;
    ``unmeasured``: its file does not say how long it is, so that there may have been more.
    """

    frames: npt.NDArray[np.uint8]
    fps: float
    concealed: int = 0
    unmeasured: bool = False


def read_header(path: Path) -> Header:
    """Of an AVI file its main header, which stands at its very beginning; else what PyAV says."""
    head = _head(path)
    if not _is_avi(head):
        with _opened(path, 1, _foreign(head)) as (container, stream):
            rate, seconds = stream.average_rate or 0, (container.duration or 0) / 1_000_000
            return Header(stream.frames or round(seconds * rate), stream.height, stream.width)
    start = head.find(b"avih") + 8
    if start < 8 or len(head) < start + 40:
        raise DataError(f"{path} is cut off within its header; unpack or download it again")
    # dwTotalFrames, then three fields of no interest, dwWidth, dwHeight: little-endian 32 bits.
    frames, _, _, _, width, height = np.frombuffer(head[start + 16 : start + 40], "<u4").tolist()
    return Header(frames, height, width)


def decode_video(path: Path, frame_size: _FrameSize | None = None) -> Video:
    """Decode every frame of a film, in order; ``frame_size``: from (height, width) to those wanted.

    An intact file is never refused for what its header announces; a damaged AVI may lack
    ``TOLERATED_MISSING`` frames, one of another container a tenth.
    """
    if not _is_avi(head := _head(path)):
        return _by_time(path, frame_size, _foreign(head))
    announced = read_header(path).frames
    video = _by_decord(path, frame_size)
    if video is not None and 0 < announced <= video.frames.shape[1]:
        return video
    return _by_chunk(path, announced, frame_size)


def _head(path: Path) -> bytes:
    with reading(path), path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise DataError(f"{path} is empty (0 bytes); unpack or download it again")
    return head


def _is_avi(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"AVI "


def _foreign(head: bytes) -> str:
    return f"; it begins with {head[:12]!r}: if it is a video at all, unpack or download it again"


@contextmanager
def _opened(path: Path, threads: int, remedy: str) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and stream of a film; what is none, or cannot be decoded, is refused."""
    import av  # here: it is large, and only preparing a data set needs it
    from av.stream import Disposition

    try:
        with av.open(str(path)) as container:
            kind = container.format.name
            stream: Any = container.streams.best("video")
            if kind in ("tty", "image2") or kind.endswith("_pipe"):  # FFmpeg makes films of them
                raise LookupError("it is text, or a single picture")
            if stream is None or stream.disposition & Disposition.attached_pic:
                raise LookupError("it has no pictures")
            if stream.codec_context is None:
                raise LookupError("its codec is unknown")
            stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
            yield container, stream
    except (av.FFmpegError, LookupError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: no frame can be decoded ({why}){remedy}") from error


def _pictures(
    container: Any, stream: Any, on_packet: Callable[[Any], None] = lambda _: None
) -> Iterator[Any]:
    """PyAV's, packet by packet; None for a packet that cannot be decoded."""
    import av

    for packet in container.demux(stream):
        on_packet(packet)
        try:
            yield from stream.codec_context.decode(packet)
        except av.FFmpegError:
            yield None


def resize_frames(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize uint8 (T, C, H, W) to ``size``, (height, width), with ``KERNEL``.

    That is a triangle as wide as two target pixels, in source pixels; the result is rounded.
    """
    if min(size) < 1:
        raise ConfigError(f"frames cannot be resized to {size} (height, width); give positive ones")
    if tuple(frames.shape[2:]) == size:
        return frames
    return F.interpolate(frames, size=size, mode="bilinear", antialias=True)


def _by_decord(path: Path, frame_size: _FrameSize | None) -> Video | None:
    """The film as decord decodes it; None where it refuses, or would have to repeat a picture."""
    import decord  # here: it is large, and only preparing a data set needs it

    decord.logging.set_level(decord.logging.QUIET)
    try:
        # One thread: processes share out the files. The tolerance is a share of the frames.
        reader = decord.VideoReader(str(path), decord.cpu(0), num_threads=1, fault_tol=1e-6)
        pictures = (reader.next().asnumpy() for _ in range(len(reader)))
        frames = _frames(pictures, frame_size)
        # It takes the bytes of a padded line, divided by the width, for the number of colours.
        return Video(frames, float(reader.get_avg_fps())) if len(frames) == 3 else None
    except Exception:  # RuntimeError, AssertionError and two of its own without a common base
        return None


def _by_chunk(path: Path, announced: int, frame_size: _FrameSize | None) -> Video:
    """An AVI film as PyAV decodes it, packet by packet, with what is missing concealed."""
    times: list[int] = []  # of the pictures, in frames
    broken = 0  # packets

    def pictures() -> Iterator[npt.NDArray[np.uint8]]:
        nonlocal broken
        size = None
        for picture in _pictures(container, stream):
            if picture is None:
                broken += 1
                continue
            times.append(len(times) if picture.pts is None else picture.pts)
            size = size or (picture.width, picture.height)
            yield picture.reformat(*size, "rgb24").to_ndarray().astype(np.uint8, copy=False)

    chunks, whole = _chunks(path)
    again = "" if whole else "; unpack or download it again"
    with _opened(path, 1, again) as (container, stream):
        frames, fps = _frames(pictures(), frame_size), float(stream.average_rate or 0)
    count = frames.shape[1]
    if not whole and announced - count > TOLERATED_MISSING:
        raise DataError(
            f"{path} is truncated or damaged: its header announces {announced} frames, {count}"
            f" could be decoded{again}"
        )
    if broken > max(TOLERATED_MISSING, _MOST_BROKEN * chunks):
        raise DataError(
            f"{path} is damaged: {broken} of its {chunks} frames cannot be decoded; unpack or"
            " download it again"
        )
    # AVI numbers chunks, not pictures. With pictures that are decoded out of order (B-frames) they
    # come out of order and one too high: sorted and shifted, they tell which have no picture.
    times.sort()
    shown = np.array(times) - (max(0, times[-1] + 1 - chunks) if whole else times[0])
    slots = chunks if whole else int(shown[-1]) + 1
    if (np.diff(shown) < 1).any() or shown[0] < 0 or slots > max(chunks, announced):
        shown, slots = np.arange(count), count  # a clock that tells nothing
    if slots > count:
        before = np.searchsorted(shown, np.arange(slots), side="right") - 1
        frames = frames.take(before.clip(0), axis=1)
    return Video(frames, fps, concealed=slots - count)


def _by_time(path: Path, frame_size: _FrameSize | None, remedy: str) -> Video:
    """A film of another container, turned as it says; a broken picture is the one before it."""
    broken, seconds = 0, 0.0  # pictures; how long they are shown

    def measure(packet: Any) -> None:
        nonlocal seconds
        if packet.pts is not None:
            shown = (packet.duration or 0) * stream.time_base or 1 / (stream.average_rate or 25)
            seconds = max(seconds, float(packet.pts * stream.time_base + shown) - start)

    def pictures() -> Iterator[npt.NDArray[np.uint8]]:
        nonlocal broken
        size, shown = None, None
        for picture in _pictures(container, stream, measure):
            if picture is not None:
                broken += picture.is_corrupt
                size = size or (picture.width, picture.height)
                rgb = picture.reformat(*size, "rgb24").to_ndarray()
                shown = np.rot90(rgb, picture.rotation // 90).astype(np.uint8, copy=False)
            else:
                broken += 1
            if shown is not None:
                yield shown

    with _opened(path, 0, remedy) as (container, stream):
        kind, start = container.format.name, float((stream.start_time or 0) * stream.time_base)
        frames, fps = _frames(pictures(), frame_size), float(stream.average_rate or 0)
        announced = float((stream.duration or 0) * stream.time_base)
        # Matroska says in a tag when the last picture ends; one of a language is another program's,
        # perhaps of the film that this one was cut from.
        tag = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))
        if tag and not announced:
            hours, minutes, rest = map(float, tag.groups())
            announced = max(0, 3600 * hours + 60 * minutes + rest - start)
    if seconds < (1 - _MOST_BROKEN) * announced:
        raise DataError(
            f"{path} is truncated: it announces {announced:.1f} seconds, {seconds:.1f} could be"
            f" decoded{remedy}"
        )
    breaks_off, measured = _end(path, kind)
    if breaks_off:
        raise DataError(f"{path} is truncated: its last packet or box breaks off{remedy}")
    count = frames.shape[1]
    if broken > max(TOLERATED_MISSING, _MOST_BROKEN * count):
        raise DataError(f"{path} is damaged: {broken} of its {count} frames are broken{remedy}")
    return Video(frames, fps, concealed=broken, unmeasured=not (measured and announced))


def _end(path: Path, kind: str) -> tuple[bool, bool]:
    """Whether a film without an index breaks off, and whether its file says where it ends.

    FFmpeg's durations of MPEG streams and fragments are those of what is there.
    """
    size, head = path.stat().st_size, _head(path)
    if kind == "mpegts":
        layouts = ((188, 0), (192, 4), (204, 0))  # bytes of a packet, and before its sync byte
        fitting = [n for n, first in layouts if head[first::n][:9] == 9 * b"G"]
        return bool(fitting) and all(size % n for n in fitting), False
    boxes, position = set(), 0
    with path.open("rb") as file:
        while "mp4" in kind and position + 8 <= size:
            file.seek(position)
            start = file.read(16)
            boxes.add(start[4:8])
            length = int.from_bytes(start[:4], "big")
            length = int.from_bytes(start[8:], "big") if length == 1 else length or size - position
            position += max(length, 8)
    if b"moof" in boxes:
        return position != size, bool(boxes & {b"sidx", b"mfra"})
    return False, kind != "mpeg"


def _frames(
    pictures: Iterable[npt.NDArray[np.uint8]], frame_size: _FrameSize | None
) -> npt.NDArray[np.uint8]:
    """Pictures (H, W, 3), resized, as frames (3, T, H, W)."""
    pictures, chunks = iter(pictures), []
    while at_once := list(islice(pictures, _AT_ONCE)):
        frames = torch.from_numpy(np.stack(at_once)).permute(0, 3, 1, 2)
        if frame_size is not None:
            frames = resize_frames(frames, frame_size(*frames.shape[2:]))
        chunks.append(frames)
    if not chunks:
        raise LookupError("it holds no picture")
    joined: npt.NDArray[np.uint8] = torch.cat(chunks).transpose(0, 1).contiguous().numpy()
    return joined


def _chunks(path: Path) -> tuple[int, bool]:
    """Video chunks of an AVI file, empty ones included, and whether one follows another to the end.

    A film in which they do is intact, whatever its header and its index say.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = re.search(rb"LIST(.{4})movi", content, re.DOTALL)
        if found is None:
            return 0, False
        end, position, chunks = found.end(1) + int.from_bytes(found[1], "little"), found.end(), 0
        while position + 8 <= min(end, len(content)):
            name = content[position : position + 4]
            if not re.fullmatch(rb"\d\d(dc|db|wb|tx|pc)|ix\d\d|JUNK|LIST", name):
                return chunks, False
            chunks += name.endswith((b"dc", b"db"))
            size = int.from_bytes(content[position + 4 : position + 8], "little")
            position += 12 if name == b"LIST" else 8 + size + size % 2
        return chunks, end <= len(content) and position in (end, end + 1)
