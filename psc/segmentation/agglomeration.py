"""Agglomeration: merge fragments across the boundaries that the affinities do not support.

The pipeline of Funke et al. (TPAMI 2019) that the paper adopts: waterz merges the pair of adjacent
regions with the lowest score 1 - q, where q is a statistic of the affinities between them, until
no score is below the threshold.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError
from psc.segmentation.affinities import checked_affinities
from psc.segmentation.labels import relabel_consecutive
from psc.segmentation.quiet import silent_stdout

__all__ = ["SCORING_FUNCTIONS", "agglomerate", "check_scoring", "checked_thresholds"]


def _quantile(quantile: int, highest_only: Literal["true", "false"]) -> str:
    arguments = f"RegionGraphType, {quantile}, ScoreValue, 256, {highest_only}"
    return f"OneMinus<HistogramQuantileAffinity<{arguments}>>"


# Only functions that waterz ships compiled: all others need a C++ compiler at run time.
SCORING_FUNCTIONS = {
    "mean": "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>",
    "aff50_his256": _quantile(50, "true"),
    "aff75_his256": _quantile(75, "true"),
    "aff85_his256": _quantile(85, "true"),
    "hist_quant_25": _quantile(25, "false"),
    "hist_quant_50": _quantile(50, "false"),
    "hist_quant_75": _quantile(75, "false"),
}
"""Name → waterz's C++ type. q is the mean, or a percentile from a histogram of 256 bins.

``affQ_his256``: the percentile of the *highest* affinities, one of each pair of fragments. This is
the published choice (Q = 50) and suits the tiny fragments of waterz's own watershed; between the
large ones of the seeded watershed a single high affinity would suffice to merge.
``hist_quant_Q``: the percentile of all affinities between two regions."""

# Regions are merged in the order of their scores, rounded to as many bins as the histogram has:
# an exact queue gives nearly the same segmentation and takes longer.
_QUEUE_BINS = 256


def agglomerate(
    affinities: npt.NDArray[Any],
    fragments: npt.NDArray[np.integer[Any]],
    thresholds: Sequence[float],
    *,
    scoring: str = "aff50_his256",
) -> Iterator[tuple[float, npt.NDArray[np.uint64]]]:
    """Merge fragments, once up to every threshold.

    Each segmentation is computed when it is asked for, out of the previous one; only one is held.
    Arguments are checked at the call. waterz holds the GIL and prints: standard output is silent
    while it works, but not in between.

    Args:
        affinities: float (3, D, H, W) in [0, 1], channels z, y, x; channel a at v is the affinity
            of v and its predecessor along a. The first plane of each channel is not used.
        fragments: integer (D, H, W), not changed. 0 is background: it is never merged.
        thresholds: scores in [0, 1]; two regions merge if their score 1 - q is below. A higher
            threshold merges more.
        scoring: a key of ``SCORING_FUNCTIONS``.

    Yields:
        (threshold, segmentation), in ascending order of threshold. The segmentation is a new
        uint64 array (D, H, W); each segment carries the id of one of its fragments.

    Raises:
        DataError: affinities are not as above, or the fragments do not fit them.
        ConfigError: a threshold or the scoring function is impossible.
    """
    affinities = checked_affinities(affinities)
    if np.shape(fragments) != affinities.shape[1:]:
        raise DataError(
            f"fragments must have the shape of the affinities {affinities.shape[1:]}, found"
            f" {np.shape(fragments)}"
        )
    ascending = checked_thresholds(thresholds)
    check_scoring(scoring)
    return _merge_steps(affinities, fragments, ascending, SCORING_FUNCTIONS[scoring])


def checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """Agglomeration thresholds in ascending order, each once.

    Raises:
        ConfigError: there are none, or one is outside [0, 1].
    """
    if len(thresholds) == 0:
        raise ConfigError("no agglomeration threshold given; give at least one, such as 0.3")
    impossible = [t for t in thresholds if not 0 <= t <= 1]
    if impossible:
        raise ConfigError(
            "agglomeration thresholds are scores, 1 - affinity, and must lie in [0, 1]; found"
            f" {impossible}"
        )
    return tuple(sorted({float(t) for t in thresholds}))


def check_scoring(scoring: str) -> None:
    """Refuse a scoring function that is not in ``SCORING_FUNCTIONS``.

    Raises:
        ConfigError: it is not.
    """
    if scoring not in SCORING_FUNCTIONS:
        raise ConfigError(
            f"scoring must be one of {', '.join(SCORING_FUNCTIONS)}; found {scoring!r}"
        )


def _merge_steps(
    affinities: npt.NDArray[np.float32],
    fragments: npt.NDArray[np.integer[Any]],
    thresholds: tuple[float, ...],
    scoring_function: str,
) -> Iterator[tuple[float, npt.NDArray[np.uint64]]]:
    import waterz  # here, so that a machine without it can still train

    # waterz's tables are as long as the largest id, so ids must be dense.
    dense, original_ids = relabel_consecutive(fragments)
    with silent_stdout():
        steps: Iterator[Any] = waterz.agglomerate(
            affinities,
            thresholds,
            fragments=dense.astype(np.uint64),  # overwritten by waterz
            scoring_function=scoring_function,
            discretize_queue=_QUEUE_BINS,
        )
    del dense
    for threshold in thresholds:
        with silent_stdout():
            segmentation = next(steps)
        # waterz yields the same array for all thresholds; this look-up also makes the copy.
        yield threshold, original_ids[segmentation]
