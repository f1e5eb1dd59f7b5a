"""From affinities to a segmentation, and the choice of the one number that it hangs on.

The agglomeration threshold is chosen on a validation volume with ``choose_threshold``; a test
volume is then segmented with ``segment`` at that threshold, whatever its own best would be.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError
from psc.metrics import segmentation_scores
from psc.segmentation.agglomeration import agglomerate, check_scoring, checked_thresholds
from psc.segmentation.fragments import (
    check_seed_options,
    check_watershed_options,
    seeded_watershed,
    waterz_watershed,
)

__all__ = ["SegmentationOptions", "ThresholdScore", "ThresholdSweep", "choose_threshold", "segment"]


@dataclass(frozen=True, kw_only=True)
class SegmentationOptions:
    """How affinities become a segmentation.

    Attributes:
        fragments: "seeded" = ``seeded_watershed``, "waterz" = ``waterz_watershed``.
        boundary_threshold: of the seeded watershed, a mean affinity.
        seed_smoothing: of the seeded watershed, voxels.
        minimum_seed_distance: of the seeded watershed, voxels.
        low: of waterz's watershed, an affinity.
        high: of waterz's watershed, an affinity.
        scoring: a key of ``SCORING_FUNCTIONS``. The published aff50_his256 goes with the fragments
            "waterz"; with "seeded" use one that looks at all affinities.
        thresholds: agglomeration thresholds to try, scores 1 - affinity.

    Raises:
        ConfigError: a value is impossible.
    """

    fragments: Literal["seeded", "waterz"] = "seeded"
    boundary_threshold: float = 0.5
    seed_smoothing: float = 1.0
    minimum_seed_distance: int = 1
    low: float = 0.0001
    high: float = 0.9999
    scoring: str = "mean"
    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def __post_init__(self) -> None:
        if self.fragments not in ("seeded", "waterz"):
            raise ConfigError(f"fragments must be 'seeded' or 'waterz', found {self.fragments!r}")
        check_seed_options(self.boundary_threshold, self.seed_smoothing, self.minimum_seed_distance)
        check_watershed_options(self.low, self.high)
        check_scoring(self.scoring)
        checked_thresholds(self.thresholds)


@dataclass(frozen=True)
class ThresholdScore:
    """What a segmentation at one threshold is worth.

    Attributes:
        threshold: agglomeration threshold, a score 1 - affinity.
        split: variation of information by over-segmentation, bits.
        merge: variation of information by under-segmentation, bits.
        total: split + merge, bits.
        adapted_rand_error: in [0, 1].
    """

    threshold: float
    split: float
    merge: float
    total: float
    adapted_rand_error: float


@dataclass(frozen=True)
class ThresholdSweep:
    """Scores of all thresholds that were tried.

    Attributes:
        scores: in ascending order of threshold, at least one.
    """

    scores: tuple[ThresholdScore, ...]

    @property
    def best(self) -> ThresholdScore:
        """The lowest total variation of information; among equals, the lowest threshold."""
        return min(self.scores, key=lambda score: (score.total, score.threshold))


def segment(
    affinities: npt.NDArray[Any],
    options: SegmentationOptions,
    thresholds: Sequence[float] | None = None,
) -> Iterator[tuple[float, npt.NDArray[np.uint64]]]:
    """Segment a volume: fragments once, then agglomeration up to each threshold.

    Args:
        affinities: float (3, D, H, W) in [0, 1], channels z, y, x.
        options: how.
        thresholds: instead of those of the options, such as the one that validation chose.

    Returns:
        Iterator of (threshold, segmentation uint64 (D, H, W)), in ascending order of threshold;
        every voxel has a positive id. The fragments are made at the call.

    Raises:
        DataError: affinities are not as above.
        ConfigError: a threshold is outside [0, 1], or there is none.
    """
    chosen = checked_thresholds(options.thresholds if thresholds is None else thresholds)
    if options.fragments == "waterz":
        fragments = waterz_watershed(affinities, options.low, options.high)
    else:
        fragments = seeded_watershed(
            affinities,
            boundary_threshold=options.boundary_threshold,
            seed_smoothing=options.seed_smoothing,
            minimum_seed_distance=options.minimum_seed_distance,
        )
    return agglomerate(affinities, fragments, chosen, scoring=options.scoring)


def choose_threshold(
    affinities: npt.NDArray[Any],
    truth: npt.NDArray[np.integer[Any]],
    options: SegmentationOptions,
) -> ThresholdSweep:
    """Score every threshold of the options on a validation volume.

    Never on the volume that is reported: its score would then be that of a threshold which was
    fitted to it.

    Args:
        affinities: float (3, D, H, W) in [0, 1], channels z, y, x.
        truth: integer labels (D, H, W); voxels with label 0 are not scored.
        options: how to segment, and the thresholds to try.

    Returns:
        The scores, and the best of them.

    Raises:
        DataError: affinities or truth are not as above, or all of the truth is 0.
    """
    if np.shape(truth) != np.shape(affinities)[1:]:
        raise DataError(
            f"truth has shape {np.shape(truth)}, affinities {np.shape(affinities)}; they must cover"
            " the same voxels: crop the truth to the region that was predicted"
        )
    scores = []
    for threshold, segmentation in segment(affinities, options):
        score = segmentation_scores(truth, segmentation)
        scores.append(
            ThresholdScore(
                threshold, score.split, score.merge, score.total, score.adapted_rand_error
            )
        )
    return ThresholdSweep(tuple(scores))
