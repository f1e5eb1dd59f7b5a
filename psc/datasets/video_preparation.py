"""From a folder of UCF101's AVI files to a prepared store: in parallel, resumable, nothing lost.

The unit of work is a class, one shard: see ``psc.datasets.prepared_video`` for why.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from psc.datasets.action_split import video_key
from psc.datasets.ucf101 import parse_name
from psc.datasets.video_decoding import read_avi_header
from psc.datasets.video_manifest import (
    PreparationSettings,
    UnreadableVideo,
    check_settings,
    read_manifest,
    shard_path,
)
from psc.datasets.video_shards import TEMPORARY_SHARDS, PreparationReport, prepare_shard
from psc.disk_space import require_free_space
from psc.errors import ConfigError, DataError
from psc.locks import holder, try_lock

__all__ = ["SYNTHETIC_MARKER", "VideoFolder", "prepare_videos", "scan_videos"]

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
