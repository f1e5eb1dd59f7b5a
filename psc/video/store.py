"""The prepared store: every video decoded and resized, for random access during training.

A folder with one HDF5 file (shard) per class. Why not one file: processes can write side by side,
and a shard appears under its name complete or not at all, so whatever interrupts the preparation
costs at most the classes in progress (seconds of work each) and can damage nothing that is done.
Why not one per video: 13,320 files are slow to open and to copy.

A shard holds ``frames/<key>``, uint8 (3, T, H, W), one per video, and ``manifest``, JSON. Frames
are stored without compression (UCF101 at 80 × 107 pixels: about 64 GB), in one piece per video and
with the colour first, the order that networks take. So HDF5 is asked only where a video lies, and
clips are read from there at the speed of copying memory: five times faster than by h5py, forty
times faster than through the fastest of HDF5's filters.
"""

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch

from psc.errors import ConfigError, DataError
from psc.files import holder, require_free_space, try_lock
from psc.video.data import parse_name
from psc.video.decoding import decode_video, read_avi_header
from psc.video.manifest import (
    FRAMES,
    MANIFEST,
    Manifest,
    PreparationSettings,
    PreparedVideo,
    UnreadableVideo,
    check_settings,
    read_manifest,
    shard_path,
    video_key,
)

# ----------------------------------------
# Writing the shard of one class: what is new is decoded, what is known is copied.


TEMPORARY_SHARDS = ".*.h5.tmp"
"""Pattern of the files that a killed process leaves behind."""


@dataclass(frozen=True)
class PreparationReport:
    """What became of the videos of a class, or of several.

    Attributes:
        prepared: decoded now.
        kept: prepared before, from the same bytes.
        unreadable: what could not be prepared, now or before, and why.
    """

    prepared: int = 0
    kept: int = 0
    unreadable: tuple[UnreadableVideo, ...] = ()

    def __add__(self, other: "PreparationReport") -> "PreparationReport":
        return PreparationReport(
            self.prepared + other.prepared,
            self.kept + other.kept,
            (*self.unreadable, *other.unreadable),
        )

    def __len__(self) -> int:
        """Number of videos that it is about."""
        return self.prepared + self.kept + len(self.unreadable)


def prepare_shard(
    path: Path,
    files: Sequence[Path],
    root: Path,
    settings: PreparationSettings,
    *,
    synthetic: bool,
) -> PreparationReport:
    """Bring the shard of one class up to date; it changes as a whole or not at all.

    Args:
        path: the shard.
        files: the class's videos.
        root: folder that their paths in the manifest are relative to.
        settings: those of the shard, if it is there.
        synthetic: whether the videos are a stand-in.

    Raises:
        DataError: it cannot be written, for example because the disk is full; what was there stays.
    """
    before = read_manifest(path) if path.exists() else Manifest(settings, synthetic, (), ())
    known = {video.key: video.sha256 for video in before.videos}
    known |= {video.key: video.sha256 for video in before.unreadable}
    hashes = {file: _sha256(file) for file in files}
    changed = [
        file
        for file, sha256 in hashes.items()
        if not sha256 or known.get(video_key(file.name)) != sha256
    ]
    replaced = {video_key(file.name) for file in changed}
    # A prepared video whose file is gone (to save space, perhaps) is kept, a complaint is not.
    kept = [video for video in before.videos if video.key not in replaced]
    present = {video_key(file.name) for file in files}
    unreadable = [v for v in before.unreadable if v.key in present - replaced]
    report = PreparationReport(kept=len(files) - len(changed) - len(unreadable))
    if changed:
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with h5py.File(temporary, "w") as shard:
                frames = shard.create_group(FRAMES)
                _copy(path, kept, frames)
                for file in changed:
                    try:
                        kept.append(_prepare(file, root, hashes[file], settings, frames))
                    except DataError as error:
                        source = str(file.relative_to(root))
                        unreadable.append(
                            UnreadableVideo(file.stem, source, hashes[file], str(error))
                        )
                kept.sort(key=lambda video: video.key)
                unreadable.sort(key=lambda video: video.key)
                manifest = Manifest(settings, synthetic, tuple(kept), tuple(unreadable))
                shard[MANIFEST] = manifest.to_json()
            _sync(temporary)
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # h5py raises either when it cannot write
            said = " ".join(str(error).split())  # HDF5 tells a story in several lines
            raise DataError(
                f"{path} cannot be written ({said}); other classes are not affected. Make room or"
                " correct the folder's permissions, then run again: it goes on from here"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
    failed_now = sum(video.key in replaced for video in unreadable)
    return report + PreparationReport(
        prepared=len(changed) - failed_now, unreadable=tuple(unreadable)
    )


def _prepare(
    file: Path, root: Path, sha256: str, settings: PreparationSettings, frames: h5py.Group
) -> PreparedVideo:
    """Decode one video into a group."""
    name = parse_name(file.name)
    video = decode_video(file, settings.frame_size)
    _, count, height, width = video.frames.shape
    frames.create_dataset(video_key(file.name), data=video.frames)
    return PreparedVideo(
        name=file.stem,
        action=name.action,
        group=name.group,
        clip=name.clip,
        frames=count,
        height=height,
        width=width,
        fps=video.fps,
        source=str(file.relative_to(root)),
        sha256=sha256,
    )


def _copy(path: Path, videos: Sequence[PreparedVideo], frames: h5py.Group) -> None:
    """Copy the frames of videos from a shard."""
    if videos:
        with h5py.File(path, "r") as shard:
            for video in videos:
                shard.copy(f"{FRAMES}/{video.key}", frames)


def _sha256(file: Path) -> str:
    """Of a file's bytes; empty if it cannot be read, which decoding it will report."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


def _sync(path: Path) -> None:
    """Have the disk hold the file before it gets its name: power may fail, too."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


_COLOURS = 3


class PreparedVideos:
    """A store, open for reading.

    Files are opened when first read from, so that an object may be handed to the workers of a
    loader.

    Args:
        folder: where ``scripts/prepare_ucf101.py`` wrote.
        settings: what it must have been prepared with; None takes any.

    Attributes:
        settings: what it was prepared with.
        synthetic: whether the videos are a stand-in.
        videos: by key.
        unreadable: files that could not be prepared, by key.

    Raises:
        DataError: there is no store, a shard is damaged, shards contradict each other, or the
            settings are not those asked for (names which).
    """

    def __init__(self, folder: Path, settings: PreparationSettings | None = None) -> None:
        paths = sorted(folder.glob("*.h5"))
        if not paths:
            option = f" --short-side {settings.short_side}" if settings else ""
            raise DataError(
                f"{folder} holds no prepared videos; run: python scripts/prepare_ucf101.py VIDEOS"
                f" --output {folder}{option}"
            )
        manifests = {path: read_manifest(path) for path in paths}
        first = manifests[paths[0]]
        self.folder, self.settings, self.synthetic = folder, first.settings, first.synthetic
        self.videos: dict[str, PreparedVideo] = {}
        self.unreadable: dict[str, UnreadableVideo] = {}
        self._shards: dict[str, Path] = {}
        for path, manifest in manifests.items():
            check_settings(path, manifest.settings, settings or self.settings)
            if manifest.synthetic != self.synthetic:
                raise DataError(f"{folder} mixes synthetic and real videos; prepare them apart")
            self.unreadable |= {video.key: video for video in manifest.unreadable}
            for video in manifest.videos:
                if video.key in self.videos:
                    raise DataError(
                        f"{video.name} is in {path} and {self._shards[video.key]}; delete one"
                    )
                self.videos[video.key] = video
                self._shards[video.key] = path
        self._open: dict[Path, _Shard] = {}

    def read(self, key: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Frames ``start`` to ``stop`` - 1 of a video.

        Returns:
            uint8 (3, stop - start, H, W), a new array.

        Raises:
            IndexError: frames that the video does not have.
            DataError: the shard cannot be read.
        """
        video, path = self.videos[key], self._shards[key]
        if not 0 <= start < stop <= video.frames:
            raise IndexError(f"{video.name}: frames {start} to {stop} of {video.frames}")
        if path not in self._open:
            self._open[path] = _Shard(path)
        frames = np.empty((_COLOURS, stop - start, video.height, video.width), np.uint8)
        self._open[path].read_into(frames, video, start)
        return frames

    def record(self) -> dict[str, Any]:
        """What result.json says about the store; the hash stands for all videos and settings."""
        contents = {key: (v.sha256, v.frames) for key, v in sorted(self.videos.items())}
        text = json.dumps([asdict(self.settings), contents])
        return {
            "settings": asdict(self.settings),
            "synthetic": self.synthetic,
            "videos": len(self.videos),
            "frames": sum(video.frames for video in self.videos.values()),
            "unreadable": len(self.unreadable),
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }

    def close(self) -> None:
        """Close the files that are open; reading opens them again."""
        for shard in self._open.values():
            shard.close()
        self._open = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


class _Shard:
    """A shard's file, and where in it the videos begin.

    Reads name the position, so processes may share the file after a fork.
    """

    _file: FileIO | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with h5py.File(path, "r") as file:
                videos = file[FRAMES].items()
                self._offsets = {key: video.id.get_offset() for key, video in videos}
            self._file = path.open("rb", buffering=0)
        except (OSError, KeyError, RuntimeError) as error:
            raise self._unreadable(error) from error

    def read_into(self, frames: npt.NDArray[np.uint8], video: PreparedVideo, start: int) -> None:
        """Fill (3, T, H, W) with the T frames from ``start`` on."""
        offset = self._offsets.get(video.key)
        if offset is None or self._file is None:
            raise self._unreadable(f"{video.name} is not in it, or not in one piece")
        frame = video.height * video.width
        for colour in range(_COLOURS):
            position = offset + (colour * video.frames + start) * frame
            try:
                count = os.preadv(self._file.fileno(), [frames[colour]], position)
            except OSError as error:
                raise self._unreadable(error) from error
            if count != frames[colour].nbytes:
                raise self._unreadable(f"it ends within {video.name}")

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    __del__ = close

    def _unreadable(self, reason: object) -> DataError:
        return DataError(
            f"{self._path} cannot be read ({reason}); delete it and run scripts/prepare_ucf101.py"
            " again"
        )


# ----------------------------------------
# From a folder of UCF101's AVI files to a prepared store: in parallel, resumable, nothing lost.
#
# The unit of work is a class, one shard: see ``psc.video.store`` for why.


SYNTHETIC_MARKER = "synthetic.json"
"""A folder of videos that holds a file of this name is a stand-in, and so is its store."""

_CHANNELS = 3


@dataclass(frozen=True)
class VideoFolder:
    """What lies in a folder of videos.

    Attributes:
        path: the folder.
        classes: files by class, as the names of the files say.
        misnamed: files whose names say neither class nor group.
        synthetic: whether the videos are a stand-in.
    """

    path: Path
    classes: Mapping[str, tuple[Path, ...]]
    misnamed: tuple[UnreadableVideo, ...]
    synthetic: bool

    def __len__(self) -> int:
        """Number of videos."""
        return sum(len(files) for files in self.classes.values()) + len(self.misnamed)


def scan_videos(folder: Path) -> VideoFolder:
    """All .avi files below a folder.

    Raises:
        DataError: there is no folder, no video in it, or one video twice.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one that UCF101.rar unpacks to")
    classes: dict[str, list[Path]] = {}
    misnamed: list[UnreadableVideo] = []
    seen: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.casefold() == ".avi"):
        try:
            action = parse_name(path.name).action
        except DataError as error:
            source = str(path.relative_to(folder))
            misnamed.append(UnreadableVideo(path.stem, source, "", str(error)))
            continue
        twin = seen.setdefault(video_key(path.name), path)
        if twin is not path:
            raise DataError(f"{path} and {twin} have the name of the same video; delete one")
        classes.setdefault(action, []).append(path)
    if not classes:
        raise DataError(
            f"{folder} holds no v_<class>_g<group>_c<clip>.avi; unpack UCF101.rar into it"
        )
    return VideoFolder(
        folder,
        {action: tuple(files) for action, files in classes.items()},
        tuple(misnamed),
        (folder / SYNTHETIC_MARKER).is_file(),
    )


def prepare_videos(
    videos: VideoFolder,
    output: Path,
    settings: PreparationSettings | None = None,
    *,
    workers: int = 1,
    on_progress: Callable[[PreparationReport], None] | None = None,
) -> PreparationReport:
    """Bring a store up to date with a folder of videos.

    What the store has already, from the same bytes (sha256), is not decoded again: it may be
    interrupted at any moment and called again. A video whose file is gone stays in the store. A
    file that cannot be decoded is reported and is no error.

    Args:
        videos: from ``scan_videos``.
        output: the store's folder; made where it is not there.
        settings: None: the defaults.
        workers: processes; 1 works in this one. Others import the program's main module, which
            must therefore start nothing when it is only imported.
        on_progress: called with the report of each class when it is done.

    Returns:
        The sum of all reports, and of the misnamed files.

    Raises:
        ConfigError: fewer than one worker.
        DataError: the store is of other settings or of another kind; another process is at it; the
            disk is full or cannot be written. Classes that are complete are kept.
    """
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, found {workers}")
    settings = settings or PreparationSettings()
    _check_store(output, videos, settings)
    require_free_space(output, _missing_bytes(output, videos, settings), "The prepared store")
    total = PreparationReport()
    with _locked(output):
        for stale in output.glob(TEMPORARY_SHARDS):
            stale.unlink()  # of a process that was killed: the lock says that none is at work
        for report in _reports(videos, output, settings, workers):
            if on_progress is not None:
                on_progress(report)
            total += report
    return total + PreparationReport(unreadable=videos.misnamed)


def _check_store(output: Path, videos: VideoFolder, settings: PreparationSettings) -> None:
    """Refuse to add to a store of another kind."""
    for path in sorted(output.glob("*.h5")):
        manifest = read_manifest(path)
        check_settings(path, manifest.settings, settings)
        if manifest.synthetic != videos.synthetic:
            kinds = {True: "synthetic", False: "real"}
            raise DataError(
                f"{output} holds {kinds[manifest.synthetic]} videos, {videos.path} holds"
                f" {kinds[videos.synthetic]} ones; prepare them into different folders"
            )


def _missing_bytes(output: Path, videos: VideoFolder, settings: PreparationSettings) -> int:
    """Size of the shards that are not there yet, by what the files' headers say."""
    total = 0
    for action, files in videos.classes.items():
        if shard_path(output, action).exists():
            continue
        for file in files:
            try:
                header = read_avi_header(file)
            except DataError:
                continue  # will be reported when it is decoded
            if min(header.height, header.width) > 0:
                height, width = settings.frame_size(header.height, header.width)
                total += _CHANNELS * header.frames * height * width
    return total


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    path = output / ".lock"
    try:
        lock = try_lock(path)
    except OSError as error:
        raise DataError(
            f"{output} cannot be written ({error.strerror}); correct its permissions or choose"
            " another folder"
        ) from error
    if lock is None:
        raise DataError(f"{output} is being prepared by {holder(path)}; wait for it to end")
    with lock:
        yield


def _reports(
    videos: VideoFolder, output: Path, settings: PreparationSettings, workers: int
) -> Iterator[PreparationReport]:
    """Prepare all classes, the largest first, so that the last ones to end are small."""
    sizes = {
        action: sum(file.stat().st_size for file in files)
        for action, files in videos.classes.items()
    }
    actions = sorted(sizes, key=lambda action: -sizes[action])
    jobs = [
        (shard_path(output, action), videos.classes[action], videos.path, settings)
        for action in actions
    ]
    if workers == 1:
        for job in jobs:
            yield prepare_shard(*job, synthetic=videos.synthetic)
        return
    # Fresh processes: decord and forked threads do not go together.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_begin_worker)
    try:
        submitted = [pool.submit(prepare_shard, *job, synthetic=videos.synthetic) for job in jobs]
        for future in as_completed(submitted):
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process was ended from outside (too little memory?); what is complete is"
            " kept: run again, with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    torch.set_num_threads(1)  # the processes share the cores

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)  # a worker that goes on alone would be in the way of the next attempt

    threading.Thread(target=end_with_parent, daemon=True).start()
