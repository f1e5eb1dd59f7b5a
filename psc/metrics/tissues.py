"""Scores of a tissue segmentation: Dice, surface distance and volumes per subject, and their means.

All that follows from counts of voxels (Dice, volumes) is taken from one pass over the volume.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError, extra_needed

_Labels = npt.NDArray[np.integer[Any]]
_Mask = npt.NDArray[np.bool_]

MEASURES = ("dice", "hd95", "volume_truth", "volume_predicted", "volume_difference")
"""Measures of a tissue; ``dice_csf`` is the name of one of them for one tissue."""

_MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class TissueScore:
    """How well one tissue was found; nan where truth and prediction both lack it."""

    dice: float  # in [0, 1]
    hd95: float  # 95 % Hausdorff distance in mm; the volume's diagonal where one side lacks it
    volume_truth: float  # ml
    volume_predicted: float  # ml
    volume_difference: float  # predicted minus true in % of the true one; nan where that is 0
    missed: bool  # the truth has the tissue, the prediction has none of it
    invented: bool  # the prediction has the tissue, the truth has none of it


@dataclass(frozen=True)
class TissueScores:
    """Scores of one subject, by tissue, in the order in which they were asked for."""

    tissues: Mapping[str, TissueScore]

    @property
    def dice_mean(self) -> float:
        """Mean Dice of the tissues that truth or prediction has; nan if there are none."""
        known = [s.dice for s in self.tissues.values() if not math.isnan(s.dice)]
        return mean(known) if known else math.nan

    @property
    def missed(self) -> int:
        """Number of tissues that the truth has and the prediction lacks."""
        return sum(score.missed for score in self.tissues.values())

    @property
    def invented(self) -> int:
        """Number of tissues that the prediction has and the truth lacks."""
        return sum(score.invented for score in self.tissues.values())

    def values(self) -> dict[str, float]:
        """Measures by their flat names, such as ``dice_csf`` and ``dice_mean``; nan included."""
        flat = {
            f"{measure}_{tissue}": float(getattr(score, measure))
            for measure in MEASURES
            for tissue, score in self.tissues.items()
        }
        # After the Dice of the tissues that it is the mean of.
        first = dict(list(flat.items())[: len(self.tissues)])
        return first | {"dice_mean": self.dice_mean} | flat

    def as_row(self) -> dict[str, float | int | None]:
        """A row of a table: ``values`` with None for nan, then the counts missed and invented."""
        row = {name: None if math.isnan(v) else v for name, v in self.values().items()}
        return row | {"missed": self.missed, "invented": self.invented}


def tissue_scores(
    labels: npt.NDArray[np.integer[Any]],
    prediction: npt.NDArray[np.integer[Any]],
    voxel_size: Sequence[float],
    tissues: Mapping[str, int],
) -> TissueScores:
    """Score the segmentation of one subject on the whole volume, (D, H, W), voxels in mm.

    ``tissues``: value of each tissue's class by name; 0 is background, no label may exceed them.
    """
    if not tissues:
        raise DataError("no tissue to score; name at least one, such as {'gm': 2}")
    counts = confusion(labels, prediction, 1 + max(tissues.values()))
    overlap = dice(counts)
    ml = math.prod(float(size) for size in voxel_size) / _MM3_PER_ML
    scores = {}
    for name, value in tissues.items():
        truth, predicted = int(counts[value].sum()), int(counts[:, value].sum())
        scores[name] = TissueScore(
            dice=float(overlap[value]),
            hd95=hausdorff95(labels, prediction, value, voxel_size),
            volume_truth=truth * ml,
            volume_predicted=predicted * ml,
            volume_difference=100.0 * (predicted - truth) / truth if truth else math.nan,
            missed=truth > 0 and predicted == 0,
            invented=truth == 0 and predicted > 0,
        )
    return TissueScores(scores)


def summarise(subjects: Sequence[TissueScores]) -> dict[str, float | int | None]:
    """Scores over subjects, of the same tissues, as flat numbers for a record; None for nan.

    ``dice_csf`` is the mean of a measure, ``dice_csf_sd`` its sample standard deviation (n − 1);
    ``missed_csf`` and ``invented_csf`` are in how many subjects, ``missed`` and ``invented`` over
    all tissues; ``subjects`` is how many there are.

    A tissue that was missed or invented stays in the means; one that truth and prediction both
    lack has no score, and that subject is left out of that tissue's means.
    """
    if not subjects:
        raise DataError("no subject to summarise; score at least one")
    tissues = list(subjects[0].tissues)
    for scores in subjects:
        if set(scores.tissues) != set(tissues):
            raise DataError(
                f"subjects with different tissues: {', '.join(tissues)} and"
                f" {', '.join(scores.tissues)}; score all with the same ones"
            )
    rows = [scores.values() for scores in subjects]
    found: dict[str, float | int | None] = {}
    for name in rows[0]:
        known = [row[name] for row in rows if not math.isnan(row[name])]
        found[name] = mean(known) if known else None
        found[f"{name}_sd"] = stdev(known) if len(known) > 1 else None
    for kind in ("missed", "invented"):
        counts = {
            f"{kind}_{t}": sum(getattr(s.tissues[t], kind) for s in subjects) for t in tissues
        }
        found |= counts | {kind: sum(counts.values())}
    return found | {"subjects": len(subjects)}


def confusion(labels: _Labels, prediction: _Labels, classes: int) -> npt.NDArray[np.int64]:
    """Voxels by true class (row) and predicted class (column), int64 (classes, classes).

    Of integers 0 … classes − 1, background included, in any memory order, in one pass.
    """
    if classes < 1:
        raise ConfigError(f"classes must be at least 1, found {classes}")
    _check(labels, prediction, classes)
    # Planes of what lies together in memory: no copy as large as the volume, in any axis order.
    order = np.argsort(labels.strides)[::-1]
    planes = zip(labels.transpose(order), prediction.transpose(order), strict=True)
    counts = np.zeros(classes**2, dtype=np.int64)
    for true, predicted in planes:
        pairs = true.astype(np.intp) * classes + predicted.astype(np.intp)
        counts += np.bincount(pairs.ravel(), minlength=classes**2)
    return counts.reshape(classes, classes)


def _check(labels: _Labels, prediction: _Labels, classes: int) -> None:
    if labels.shape != prediction.shape or labels.size == 0:
        raise DataError(
            f"labels have shape {labels.shape}, the prediction {prediction.shape}; both must cover"
            " the same voxels, at least one"
        )
    for name, volume in (("labels", labels), ("prediction", prediction)):
        if volume.dtype.kind not in "iu":
            raise DataError(f"{name} must hold integers, found {volume.dtype}; convert explicitly")
        lowest, highest = int(volume.min()), int(volume.max())
        if lowest < 0 or highest >= classes:
            wrong = lowest if lowest < 0 else highest
            raise DataError(
                f"{name} holds the value {wrong}, but there are {classes} classes, 0 to"
                f" {classes - 1}; correct the labels, or the number of classes"
            )


def dice(confusion: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
    """Dice coefficient 2 |A ∩ B| / (|A| + |B|) of each class (Dice, Ecology 1945).

    A class that is absent from both volumes has no Dice: nan. One that only the prediction lacks
    was missed, one that only the truth lacks was invented: 0 for both. MONAI's DiceMetric agrees,
    except that with its default (``ignore_empty=True``) an invented class goes unpunished, as nan.
    """
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    scores = np.full(len(confusion), np.nan)
    np.divide(2.0 * confusion.diagonal(), both, out=scores, where=both > 0)
    return scores


def hausdorff95(
    labels: _Labels, prediction: _Labels, value: int, voxel_size: Sequence[float]
) -> float:
    """95 % Hausdorff distance in mm between the surfaces of one class, by MONAI.

    A surface are the voxels that share a face with another class or with the outside of the volume;
    a distance is that of voxel centres. Of each surface's distances to the other one the 95th
    percentile is taken, and of these two the larger.

    A structure that one side lacks has no distance to it. Leaving such a subject out would reward
    losing the structure, and infinity would swallow every mean, so it counts as the diagonal of the
    volume, more than which no distance can be. Where both lack it: nan.
    """
    if labels.ndim != 3 or labels.shape != prediction.shape:
        raise DataError(
            f"labels have shape {labels.shape}, the prediction {prediction.shape}; both must be"
            " (D, H, W) and cover the same voxels"
        )
    with extra_needed():  # here: overlap does without scipy
        from scipy import ndimage

    diagonal = volume_diagonal(labels.shape, voxel_size)
    truth, predicted = labels == value, prediction == value
    either = ndimage.find_objects((truth | predicted).astype(np.uint8))
    if not either:
        return math.nan
    truth, predicted = truth[either[0]], predicted[either[0]]
    if not truth.any() or not predicted.any():
        return diagonal
    return _percentile95(truth, predicted, voxel_size)


def volume_diagonal(shape: Sequence[int], voxel_size: Sequence[float]) -> float:
    """Length in mm of the diagonal of a volume of (D, H, W) voxels of this size in mm."""
    if len(voxel_size) != len(shape) or not all(0 < size < math.inf for size in voxel_size):
        raise DataError(
            f"voxel_size must be {len(shape)} positive numbers in mm, found {tuple(voxel_size)};"
            " correct the header"
        )
    return math.hypot(*(count * size for count, size in zip(shape, voxel_size, strict=True)))


def _percentile95(truth: _Mask, predicted: _Mask, voxel_size: Sequence[float]) -> float:
    with extra_needed():  # here: it takes seconds to import
        from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it passes to itself.
        warnings.filterwarnings("ignore", "(?s).*always_return_as_numpy", FutureWarning)
        distance = compute_hausdorff_distance(
            y_pred=predicted[None, None],
            y=truth[None, None],
            include_background=True,  # the only channel is the structure
            percentile=95,
            spacing=[float(size) for size in voxel_size],
        )
    return float(distance)
