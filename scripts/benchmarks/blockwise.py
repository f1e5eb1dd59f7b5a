"""Blockwise segmentation: time, memory and disk as volumes grow, and what more workers bring."""

import json
import math
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import skimage.segmentation
from scipy.ndimage import gaussian_filter

from benchmarks.growth_figure import draw
from benchmarks.report import Report, Row
from psc.blockwise.engine import open_engine
from psc.blockwise.grid import Box, Grid
from psc.blockwise.pipeline import BlockwiseOptions, segment_blockwise
from psc.em.affinities import affinities_from_labels
from psc.em.settings import SegmentationOptions
from psc.em.synthetic import grow_bodies
from psc.errors import ConfigError
from psc.volumes.tiling import reflected_indices

__all__ = ["run"]

# scikit-image has no types
_boundaries: Callable[..., npt.NDArray[np.bool_]] = skimage.segmentation.find_boundaries
_SAMPLING_SECONDS = 0.1
_BLUR, _NOISE = 1.0, 0.1  # fragments of some thousand voxels, as networks give
_THRESHOLD = 0.4


def run(
    *,
    sizes: Sequence[int] = (256, 512, 768),
    workers: Sequence[int] = (1,),
    block_size: int = 256,
    piece: int = 160,
    folder: Path | None = None,
    figure: Path | None = None,
    seed: int = 0,
) -> Report:
    """Segment synthetic volumes of ``size``**3 voxels: everything after the network.

    Their affinities are those of one synthetic neuropil, blurred and noisy, and continued by
    reflection: growing a whole volume would take hours, and it would have to lie somewhere.

    Args:
        sizes: voxels per axis of the volumes, at least 2.
        workers: local processes, each number in turn.
        block_size: voxels per axis of a block.
        piece: voxels per axis of the neuropil, at least 2.
        folder: an existing folder on the disk to write to, about 2 bytes per voxel, removed at once
            afterwards; default: the system's temporary one.
        figure: a PNG to draw time, memory and disk against volume into.
        seed: of the neuropil.

    Returns:
        Seconds by the clock and of CPU time (all processes, their start included), per million
        voxels too, the power of the voxels by which the clock's have grown since the smallest
        volume; the most memory that one process, and that all together held (resident, MB = 1e6
        bytes, sampled ten times a second); MB on disk; fragments and segments.

    Raises:
        ConfigError: a size is too small, or there is no such folder.
    """
    if min(*sizes, piece) < 2:
        raise ConfigError(f"sizes {sizes} and piece {piece} must be at least 2")
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"folder = {folder}: no such folder")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=folder, prefix="psc-blockwise-") as scratch:
        affinities = Path(scratch) / "affinities.npy"
        np.save(affinities, _neuropil_affinities(piece, seed))
        for count in workers:
            smallest: Row | None = None
            for size in sorted(set(sizes)):
                task = _Task(affinities, size, count, block_size, Path(scratch) / "output")
                row = _measured(task)
                smallest = smallest or row
                row["growth"] = _growth(row, smallest)
                rows.append(row)
                shutil.rmtree(task.output)
    if figure is not None:
        draw(rows, figure)
    settings = {"block_size": block_size, "piece": piece, "seed": seed}
    return Report("blockwise", settings, {"after the network": rows})


@dataclass(frozen=True)
class _Task:
    """One segmentation, run in a process of its own so that its memory is nobody else's."""

    affinities: Path
    size: int
    workers: int
    block_size: int
    output: Path

    def __call__(self) -> None:
        options = BlockwiseOptions(segmentation=SegmentationOptions(), threshold=_THRESHOLD)
        shape, core = (self.size,) * 3, (self.block_size,) * 3
        with open_engine(self.workers) as engine:
            segment_blockwise(
                _ReflectedAffinities(self.affinities),
                {"input": "synthetic"},
                Grid(shape, core),
                options,
                self.output,
                engine=engine,
            )


@dataclass(frozen=True)
class _ReflectedAffinities:
    """Affinities of any box of a volume that repeats a piece, mirrored at its faces."""

    piece: Path

    def __call__(self, box: Box) -> npt.NDArray[np.float32]:
        affinities = _mapped(self.piece)
        for axis, part in enumerate(box, start=1):
            indices = reflected_indices(part.start, part.stop, affinities.shape[axis])
            affinities = np.take(affinities, indices, axis=axis)
        return affinities


@lru_cache(maxsize=1)
def _mapped(path: Path) -> npt.NDArray[np.float32]:
    piece: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
    return piece


def _neuropil_affinities(size: int, seed: int) -> npt.NDArray[np.float32]:
    """Affinities (3, size, size, size) in [0, 1] as a middling network would give them."""
    rng = np.random.default_rng(seed)
    labels = grow_bodies((size, size, size), rng)
    labels[_boundaries(labels)] = 0  # membranes, two voxels thick
    affinities = affinities_from_labels(labels, zero_label="boundary")[0].astype(np.float32)
    noise = gaussian_filter(
        rng.standard_normal(affinities.shape).astype(np.float32), (0, _BLUR, _BLUR, _BLUR)
    )
    blurred = gaussian_filter(affinities, (0, _BLUR, _BLUR, _BLUR))
    result: npt.NDArray[np.float32] = np.clip(blurred + _NOISE * noise / noise.std(), 0, 1)
    return result.astype(np.float32)


def _measured(task: _Task) -> Row:
    began = time.perf_counter()
    # spawn: a forked process would begin with this one's memory
    process = multiprocessing.get_context("spawn").Process(target=task)
    process.start()
    usage = _Usage()
    while process.is_alive():
        usage.sample(process.pid)
        process.join(_SAMPLING_SECONDS)
    seconds = time.perf_counter() - began
    if process.exitcode:
        raise ConfigError(f"size {task.size} with {task.workers} workers failed; see above")
    millions = task.size**3 / 1e6
    return {
        "size": task.size,
        "workers": task.workers,
        "million_voxels": millions,
        "seconds": seconds,
        "seconds_per_million": seconds / millions,
        "cpu_seconds": usage.cpu_seconds,
        "cpu_seconds_per_million": usage.cpu_seconds / millions,
        "process_mb": usage.largest_process / 1e6,
        "all_mb": usage.largest_sum / 1e6,
        "disk_mb": sum(f.stat().st_size for f in task.output.rglob("*") if f.is_file()) / 1e6,
        **_counts(task.output),
    }


class _Usage:
    """What a process and those that it started have used, as far as samples show."""

    def __init__(self) -> None:
        self.largest_process = self.largest_sum = 0
        self._seconds: dict[int, float] = {}

    @property
    def cpu_seconds(self) -> float:
        return sum(self._seconds.values())

    def sample(self, pid: int | None) -> None:
        sizes = []
        try:
            process = psutil.Process(pid)
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return  # just ended
        for member in family:
            try:
                times = member.cpu_times()
                sizes.append(member.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
            self._seconds[member.pid] = times.user + times.system
        self.largest_process = max(self.largest_process, *sizes, 0)
        self.largest_sum = max(self.largest_sum, sum(sizes))


def _counts(output: Path) -> dict[str, Any]:
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return {name: summary[name] for name in ("fragments", "segments")}


def _growth(row: Row, smallest: Row) -> float | None:
    if row is smallest:
        return None
    return math.log(row["seconds"] / smallest["seconds"]) / (
        3 * math.log(row["size"] / smallest["size"])
    )
