"""Writing the shard of one class: what is new is decoded, what is known is copied."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from psc.datasets.action_split import video_key
from psc.datasets.ucf101 import parse_name
from psc.datasets.video_decoding import decode_video
from psc.datasets.video_manifest import (
    FRAMES,
    MANIFEST,
    Manifest,
    PreparationSettings,
    PreparedVideo,
    UnreadableVideo,
    read_manifest,
)
from psc.errors import DataError

__all__ = ["TEMPORARY_SHARDS", "PreparationReport", "prepare_shard"]

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
