"""Blockwise segmentation: time, memory and disk as volumes grow, and what more workers bring."""

import json
import math
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import skimage.segmentation
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from benchmarks.timing import Report, Row, ratio
from psc.blockwise.engine import open_engine
from psc.blockwise.grid import Box, Grid
from psc.blockwise.pipeline import BlockwiseOptions, segment_blockwise
from psc.em.affinities import affinities_from_labels
from psc.em.settings import SegmentationConfig
from psc.em.synthetic import grow_bodies
from psc.errors import ConfigError
from psc.paper.style import PAGE_WIDTH, checked_png, page_style, save_png
from psc.volumes.tiling import reflected_indices

# scikit-image has no types
_boundaries: Callable[..., npt.NDArray[np.bool_]] = skimage.segmentation.find_boundaries
_SAMPLING_SECONDS = 0.1
_BLUR, _NOISE = 1.0, 0.1  # fragments of some thousand voxels, as networks give
_THRESHOLD = 0.4
_PANELS = {
    "cpu_seconds": "CPU seconds",
    "process_mb": "memory of a process at its peak (MB)",
    "disk_mb": "written (MB)",
}


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
    """Segment synthetic volumes of growing size: everything after the network.

    Their affinities are those of one synthetic neuropil, blurred and noisy, and continued by
    reflection: growing a whole volume would take hours, and it would have to lie somewhere.

    Memory is resident, MB = 1e6 bytes, sampled ten times a second; CPU seconds are of all
    processes, their start included; growth is the power of the voxels by which the clock's seconds
    have grown since the smallest volume.

    Options:
        sizes: voxels per axis of the volumes, at least 2.
        workers: local processes, each number in turn.
        block_size: voxels per axis of a block.
        piece: voxels per axis of the neuropil that repeats, at least 2.
        folder: an existing folder on the disk to write to, about 2 bytes per voxel, removed at once
            afterwards; default: the system's temporary one.
        figure: a PNG to draw time, memory and disk against volume into.
        seed: of the neuropil.
    """
    if min(*sizes, piece) < 2:
        raise ConfigError(f"sizes {sizes} and piece {piece} must be at least 2")
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"folder = {folder}: no such folder")
    if figure is not None:
        checked_png(figure)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=folder, prefix="psc-blockwise-") as scratch:
        affinities = Path(scratch) / "affinities.npy"
        np.save(affinities, _neuropil_affinities(piece, seed))
        for count in workers:
            first: Row | None = None
            for size in sorted(set(sizes)):
                row = _measured(affinities, size, count, block_size, Path(scratch) / "output")
                grown = first and ratio(row["seconds"], first["seconds"])
                row["growth"] = (
                    math.log(grown, (size / first["size"]) ** 3) if first and grown else None
                )
                first = first or row
                rows.append(row)
                shutil.rmtree(Path(scratch) / "output")
    if figure is not None:
        _draw(rows, figure)
    return Report({"after the network": rows})


def _segment(affinities: Path, size: int, workers: int, block_size: int, output: Path) -> None:
    """One segmentation, run in a process of its own so that its memory is nobody else's."""
    segmentation = SegmentationConfig(scoring="mean")
    with open_engine(workers) as engine:
        segment_blockwise(
            partial(_reflected, affinities),
            {"input": "synthetic"},
            Grid((size,) * 3, (block_size,) * 3),
            BlockwiseOptions(segmentation=segmentation, threshold=_THRESHOLD),
            output,
            engine=engine,
        )


def _reflected(piece: Path, box: Box) -> npt.NDArray[np.float32]:
    """Affinities of any box of a volume that repeats a piece, mirrored at its faces."""
    affinities = _mapped(piece)
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
    noise, blurred = (
        gaussian_filter(values, (0, _BLUR, _BLUR, _BLUR))
        for values in (rng.standard_normal(affinities.shape).astype(np.float32), affinities)
    )
    result: npt.NDArray[np.float32] = np.clip(blurred + _NOISE * noise / noise.std(), 0, 1)
    return result.astype(np.float32)


def _measured(affinities: Path, size: int, workers: int, block_size: int, output: Path) -> Row:
    began = time.perf_counter()
    # spawn: a forked process would begin with this one's memory
    process = multiprocessing.get_context("spawn").Process(
        target=_segment, args=(affinities, size, workers, block_size, output)
    )
    process.start()
    largest = together = 0
    cpu: dict[int, float] = {}
    while process.is_alive():
        sizes = []
        for member in _family(process.pid):
            try:
                times = member.cpu_times()
                sizes.append(member.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
            cpu[member.pid] = times.user + times.system
        largest, together = max(largest, *sizes, 0), max(together, sum(sizes))
        process.join(_SAMPLING_SECONDS)
    seconds = time.perf_counter() - began
    if process.exitcode:
        raise ConfigError(f"size {size} with {workers} workers failed; see above")
    millions, cpu_seconds = size**3 / 1e6, sum(cpu.values())
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return {
        "size": size,
        "workers": workers,
        "million_voxels": millions,
        "seconds": seconds,
        "seconds_per_million": seconds / millions,
        "cpu_seconds": cpu_seconds,
        "cpu_seconds_per_million": cpu_seconds / millions,
        "process_mb": largest / 1e6,
        "all_mb": together / 1e6,
        "disk_mb": sum(f.stat().st_size for f in output.rglob("*") if f.is_file()) / 1e6,
        **{name: summary[name] for name in ("fragments", "segments")},
    }


def _family(pid: int | None) -> list[psutil.Process]:
    """A process and those that it started; none if it has just ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _draw(rows: Sequence[Row], path: Path) -> None:
    """A panel each, both axes logarithmic, a line per workers; dashed: as the volume grows."""
    with page_style():
        figure = Figure(figsize=(PAGE_WIDTH, PAGE_WIDTH / 3), layout="constrained")
        panels = figure.subplots(1, len(_PANELS))
        for axes, (key, label) in zip(panels, _PANELS.items(), strict=True):
            for workers in dict.fromkeys(row["workers"] for row in rows):
                own = [row for row in rows if row["workers"] == workers]
                volumes, values = ([row[k] for row in own] for k in ("million_voxels", key))
                word = "process" if workers == 1 else "processes"
                axes.plot(volumes, values, marker="o", label=f"{workers} {word}")
                if key != "process_mb":
                    line = [values[-1] * volume / volumes[-1] for volume in volumes]
                    axes.plot(volumes, line, color="0.5", linestyle=(0, (4, 2)), linewidth=0.8)
            volumes = sorted({row["million_voxels"] for row in rows})
            axes.set(xscale="log", xlabel="million voxels", title=label)
            axes.set_xticks(volumes, [f"{volume:.3g}" for volume in volumes], minor=False)
            if key == "process_mb":
                axes.set_ylim(0, 1.1 * max(row[key] for row in rows))
            else:
                axes.set_yscale("log")
            axes.minorticks_off()
        figure.axes[0].legend()
        save_png(figure, path)
