"""From films to a prepared store: in parallel, resumable, nothing lost.

The unit of work is a shard, of UCF101 a class: one process appends its new videos, then the index
is replaced. Whatever interrupts this costs at most the shards in progress (seconds of work each).
"""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from psc.errors import ConfigError, DataError
from psc.files import files_below, locked, reading, require_free_space, sha256_of, writing
from psc.video.data import parse_name, video_key
from psc.video.decoding import decode_video, read_header
from psc.video.store import (
    COLOURS,
    Index,
    PreparationSettings,
    PreparedVideo,
    UnreadableVideo,
    read_index,
    shard_path,
)

SYNTHETIC_MARKER = "synthetic.json"
"""A folder of videos that holds a file of this name is a stand-in, and so is its store."""

Films = Mapping[str, Mapping[str, Path]]
"""By shard and key."""
_Prepared = dict[str, PreparedVideo | UnreadableVideo]  # by key


@dataclass(frozen=True)
class PreparationReport:
    """What became of the videos of a folder.

    Those that were decoded now, how many had been before (from the same bytes), and those that
    could not be, now or before.
    """

    prepared: tuple[PreparedVideo, ...]
    kept: int
    unreadable: tuple[UnreadableVideo, ...]


def prepare_videos(
    folder: Path,
    output: Path,
    settings: PreparationSettings | None = None,
    *,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> PreparationReport:
    """Bring a store up to date with all .avi files below a folder.

    What the store has already, from the same bytes (sha256), is not decoded again: it may be
    interrupted at any moment and called again. A video whose file is gone stays in the store. A
    file that cannot be decoded, or whose name does not tell class and group, is reported and is no
    error. One worker is this process; others import the program's main module, which must therefore
    start nothing when it is only imported. ``on_progress`` is called after each class with how many
    videos of how many are done.
    """
    with reading(folder):
        films, misnamed = _scan(folder)
    return prepare_films(
        films,
        folder,
        output,
        settings,
        synthetic=(folder / SYNTHETIC_MARKER).is_file(),
        misnamed=misnamed,
        workers=workers,
        on_progress=on_progress,
    )


def prepare_clips(
    clips: Mapping[str, Path], root: Path, output: Path, settings: PreparationSettings, **how: Any
) -> PreparationReport:
    """The same of files by key, wherever they lie; messages name them as seen from ``root``."""
    films: dict[str, dict[str, Path]] = {}
    for key, path in clips.items():  # small shards, one independent of what else is prepared
        films.setdefault(hashlib.sha256(key.encode()).hexdigest()[:2], {})[key] = path
    return prepare_films(films, root, output, settings, **how)


def prepare_films(
    films: Films,
    folder: Path,
    output: Path,
    settings: PreparationSettings | None,
    *,
    synthetic: bool = False,
    misnamed: Sequence[UnreadableVideo] = (),
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> PreparationReport:
    """The same of films by shard and key."""
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, found {workers}")
    settings = settings or PreparationSettings()
    missing = _missing_bytes(films, _begin(output, folder, films, settings, synthetic))
    require_free_space(output, missing, "The prepared store")
    new: _Prepared = {}
    done, total = len(misnamed), len(misnamed) + sum(map(len, films.values()))
    remedy = "make room, or choose another folder, then run again: what is complete is kept"
    with writing(output, remedy), locked(output / ".lock", f"{output} is being prepared"):
        # Another may just have ended.
        index = _begin(output, folder, films, settings, synthetic)
        for shard, found in _prepared_shards(folder, films, output, index, workers):
            for key, video in found.items():
                index.videos.pop(key, None)
                index.unreadable.pop(key, None)
                if isinstance(video, PreparedVideo):
                    index.videos[key] = video
                else:
                    index.unreadable[key] = video
            if found:
                index.write(output)
            new |= found
            done += len(films[shard])
            if on_progress is not None:
                on_progress(done, total)
    prepared = tuple(video for video in new.values() if isinstance(video, PreparedVideo))
    unreadable = (*index.unreadable.values(), *misnamed)
    return PreparationReport(prepared, total - len(prepared) - len(unreadable), unreadable)


def _scan(folder: Path) -> tuple[dict[str, dict[str, Path]], list[UnreadableVideo]]:
    """All films by class and key, and those whose names do not tell these."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give the one that UCF101.rar unpacks to")
    classes: dict[str, dict[str, Path]] = {}
    keys: dict[str, Path] = {}
    misnamed = []
    for path in files_below(folder):
        if path.suffix.casefold() != ".avi":
            continue
        key = video_key(path.name)
        try:
            films = classes.setdefault(parse_name(path.name).action, {})
        except DataError as error:
            misnamed.append(UnreadableVideo(str(path.relative_to(folder)), "", str(error)))
            continue
        if key in keys:
            raise DataError(f"{path} and {keys[key]} have the name of the same video; delete one")
        films[key] = keys[key] = path
    if not keys:
        raise DataError(
            f"{folder} holds no v_<class>_g<group>_c<clip>.avi; unpack UCF101.rar into it"
        )
    return classes, misnamed


def _begin(
    output: Path, folder: Path, films: Films, settings: PreparationSettings, synthetic: bool
) -> Index:
    """What the store has already, if these videos may be added to it."""
    index = read_index(output, settings) or Index(settings, synthetic)
    if index.synthetic != synthetic:
        kinds = {True: "synthetic", False: "real"}
        raise DataError(
            f"{output} holds {kinds[index.synthetic]} videos, {folder} holds {kinds[synthetic]}"
            " ones; prepare them into different folders"
        )
    for key in index.lost(output):
        del index.videos[key]
    # A prepared video whose file is gone (to save space, perhaps) is kept, a complaint is not.
    for key in index.unreadable.keys() - set().union(*films.values()):
        del index.unreadable[key]
    return index


def _missing_bytes(films: Films, index: Index) -> int:
    """Size of the videos that the index does not have, by what the files' headers say."""
    total = 0
    for key, path in (item for files in films.values() for item in files.items()):
        if key in index.videos or key in index.unreadable:
            continue
        try:
            header = read_header(path)
        except DataError:
            continue  # will be reported when it is decoded
        if min(header.height, header.width) > 0:
            height, width = index.settings.frame_size(header.height, header.width)
            total += COLOURS * header.frames * height * width
    return total


def _prepared_shards(
    folder: Path, films: Films, output: Path, index: Index, workers: int
) -> Iterator[tuple[str, _Prepared]]:
    """What is new of each shard, the largest first, so that the last ones to end are small."""
    known = {key: video.sha256 for key, video in (index.videos | index.unreadable).items()}
    sizes = {s: sum(path.stat().st_size for path in files.values()) for s, files in films.items()}
    jobs = {
        shard: partial(
            _prepare_shard,
            shard_path(output, shard),
            max((v.end for v in index.videos.values() if v.action == shard), default=0),
            films[shard],
            {key: known[key] for key in films[shard] if key in known},
            folder,
            index.settings,
        )
        for shard in sorted(films, key=lambda shard: -sizes[shard])
    }
    if workers == 1:
        yield from ((shard, job()) for shard, job in jobs.items())
        return
    # Fresh processes: decord and forked threads do not go together.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_begin_worker)
    try:
        submitted = {pool.submit(job): shard for shard, job in jobs.items()}
        for future in as_completed(submitted):
            yield submitted[future], future.result()
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


def _prepare_shard(
    shard: Path,
    end: int,
    films: Mapping[str, Path],
    known: Mapping[str, str],
    root: Path,
    settings: PreparationSettings,
) -> _Prepared:
    """Append what is new to a shard, of which the first ``end`` bytes are known."""
    hashes = {key: _sha256(path) for key, path in films.items()}
    new = [key for key, sha256 in hashes.items() if not sha256 or known.get(key) != sha256]
    found: _Prepared = {}
    if not new:
        return found
    with shard.open("ab") as out:
        out.truncate(end)  # behind it lies what an interrupted preparation wrote
        for key in new:
            path = films[key]
            source = str(path.relative_to(root) if path.is_relative_to(root) else path)
            try:
                video = decode_video(path, settings.frame_size)
            except DataError as error:
                found[key] = UnreadableVideo(source, hashes[key], str(error))
                continue
            _, frames, height, width = video.frames.shape
            found[key] = PreparedVideo(
                action=shard.stem,
                frames=frames,
                height=height,
                width=width,
                fps=video.fps,
                concealed=video.concealed,
                unmeasured=video.unmeasured,
                source=source,
                sha256=hashes[key],
                offset=out.seek(0, os.SEEK_END),
            )
            out.write(video.frames.data)
        out.flush()
        os.fsync(out.fileno())  # power may fail, too
    return found


def _sha256(path: Path) -> str:
    """Of a file's bytes; empty if it cannot be read, which decoding it will report."""
    try:
        return sha256_of(path)
    except OSError:
        return ""
