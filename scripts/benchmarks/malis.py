"""MALIS: pair counts of whole patches and how their time grows, beside a reference in a file."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter

from benchmarks.metrics import label_volumes
from benchmarks.report import Report, Row
from benchmarks.timing import Timing, interleave
from psc.em.affinities import affinities_from_labels
from psc.em.malis import PairCounts, constrained_counts, malis_pairs
from psc.errors import ConfigError

__all__ = ["run"]

Affinities = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]
Count = Callable[[Affinities, Labels], PairCounts]

_OURS, _REFERENCE = "psc", "reference"
_CONSTRAINED, _FREE = "constrained, two passes", "one pass"
_SHORTEST = 0.2  # seconds; 44^3 take a few milliseconds


def run(
    *,
    sizes: Sequence[int] = (44, 64, 80, 100),
    reference: Path | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> Report:
    """Count the pairs of patches of ``size``**3 voxels, with affinities of two kinds.

    Args:
        sizes: voxels per axis of the patches, at least 3.
        reference: Python file with ``malis_pairs(seg, order, Z, Y, X)``: dense int32 labels
            (voxels,) and edges axis · voxels + voxel from the strongest on; returns the positive
            and the negative pairs of each. If it has ``radix_argsort_desc(float32)``, edges are
            sorted with that. Its labels and targets are prepared before the clock runs.
        repeats: rounds per contestant.
        seed: of labels and affinities.

    Returns:
        Seconds of process CPU time and of wall time, the CPU seconds relative to ours, and by
        which power of the voxels they have grown since the smallest patch.

    Raises:
        ConfigError: a patch is too small, or the reference cannot be read.
    """
    if min(sizes) < 3:
        raise ConfigError(f"sizes must be at least 3 voxels, found {min(sizes)}")
    peer = None if reference is None else _Reference(reference)
    rows: list[Row] = []
    for size in sorted(set(sizes)):
        # What a network predicts lies on cells without gaps: 0 would hide every boundary.
        labels = label_volumes(size, seed)[1]
        for kind, affinities in _affinities(labels, seed).items():
            calls = _calls(affinities, labels, peer)
            timings = interleave(calls, repeats, shortest=_SHORTEST)
            rows += [_row(size, kind, name, calls, timings, rows) for name in timings]
    settings = {
        "sizes": list(sizes),
        "reference": reference and reference.name,
        "repeats": repeats,
        "seed": seed,
    }
    return Report("malis", settings, {"pair counts": rows})


class _Reference:
    """Counts by another's ``malis_pairs``, constrained as ours."""

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location(f"malis_reference_{path.stem}", path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ConfigError(f"reference = {path}: no Python file; give one with malis_pairs")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            self.malis_pairs = module.malis_pairs
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"reference = {path}: {error}; give a file that works") from error
        self._sort = getattr(
            module, "radix_argsort_desc", lambda values: np.argsort(-values, kind="stable")
        )

    def prepare(self, affinities: Affinities, labels: Labels) -> dict[str, Callable[[], Any]]:
        """Calls without arguments, by what they count."""
        flat = affinities.reshape(-1)
        true, mask = affinities_from_labels(labels, zero_label="boundary")
        target = true.reshape(-1).astype(np.float32)
        edges = np.flatnonzero(mask)
        dense = labels.astype(np.int32).reshape(-1)

        def one_pass(values: Affinities) -> PairCounts:
            order = edges[self._sort(values[edges])]
            positive, negative = self.malis_pairs(dense, order, *labels.shape)[:2]
            counts = PairCounts(np.zeros(flat.size, np.int64), np.zeros(flat.size, np.int64))
            counts.positive[order] = positive
            counts.negative[order] = negative
            return counts

        def two_passes() -> PairCounts:
            positive = one_pass(np.minimum(flat, target)).positive
            negative = one_pass(np.maximum(flat, target)).negative
            return PairCounts(positive * (target == 1), negative * (target == 0))

        return {_CONSTRAINED: two_passes, _FREE: lambda: one_pass(flat)}


def _affinities(labels: Labels, seed: int) -> dict[str, Affinities]:
    """As a trained network predicts them, smooth and rarely wrong; and of one that knows nothing.

    A trained one is unsure where a boundary is near: logits follow the distance to it.
    """
    rng = np.random.default_rng(seed)
    true, mask = affinities_from_labels(labels, zero_label="boundary")
    inside = np.where(mask, true, 1).min(axis=0)
    noise = gaussian_filter(rng.standard_normal(true.shape), (0, 1, 1, 1))
    logits = 4 * np.tanh(distance_transform_edt(inside) - 1) + true + 1.5 * noise / noise.std()
    return {
        "trained": (1 / (1 + np.exp(-logits))).astype(np.float32),
        "untrained": rng.random(true.shape, dtype=np.float32),
    }


def _calls(
    affinities: Affinities, labels: Labels, peer: _Reference | None
) -> dict[tuple[str, str], Callable[[], PairCounts]]:
    calls: dict[tuple[str, str], Callable[[], PairCounts]] = {
        (_CONSTRAINED, _OURS): lambda: constrained_counts(affinities, labels),
        (_FREE, _OURS): lambda: malis_pairs(affinities, labels),
    }
    for name, call in (peer.prepare(affinities, labels) if peer else {}).items():
        calls[name, _REFERENCE] = call
    return calls


def _row(
    size: int,
    kind: str,
    name: tuple[str, str],
    calls: dict[tuple[str, str], Callable[[], PairCounts]],
    timings: dict[tuple[str, str], Timing],
    before: Sequence[Row],
) -> Row:
    mine, ours = timings[name], timings[name[0], _OURS]
    counts = calls[name]() if mine.failure is None else None
    row = {
        "size": size,
        "affinities": kind,
        "counts": name[0],
        "contestant": name[1],
        "cpu_seconds": mine.cpu_median,
        "wall_seconds": mine.wall_median,
        "cpu_seconds_relative_to_psc": mine.cpu_median
        and ours.cpu_median
        and mine.cpu_median / ours.cpu_median,
        "growth_exponent": None,
        "positive_pairs": counts and int(counts.positive.sum()),
        "negative_pairs": counts and int(counts.negative.sum()),
        "fails": mine.failure,
    }
    same = ("affinities", "counts", "contestant")
    smallest = next((r for r in before if all(r[key] == row[key] for key in same)), None)
    if smallest and smallest["cpu_seconds"] and mine.cpu_median:
        growth = math.log(mine.cpu_median / smallest["cpu_seconds"])
        row["growth_exponent"] = growth / math.log((size / smallest["size"]) ** 3)
    return row
