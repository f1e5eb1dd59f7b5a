"""The MRI test protocol (Section 4.2): whole subjects, Dice of every tissue.

Labels are predicted and scored on the grid of the subject's own file, whatever grid the network
saw. Beside the network stands a baseline that knows intensities only: three classes of brain
voxels, from dark to bright (``psc.mri.baseline``). Where the tissues are others than CSF, GM and
WM, it takes the whole brain for the one that the validation subjects have most of.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from psc.files import clear
from psc.metrics.tissues import summarise, tissue_scores
from psc.mri.baseline import segment_by_intensity
from psc.mri.data import Subject
from psc.mri.nifti import LINEAR, resampled, size_factors, write_nifti
from psc.mri.pictures import (
    NETWORK,
    SubjectScores,
    scores_figure,
    shown_name,
    slices_figure,
    volumes_figure,
    write_subject_scores,
)
from psc.mri.settings import TissueRecipeConfig
from psc.mri.tissues import BACKGROUND, TISSUES, TissueCodes
from psc.paper.style import bounding_box

OUTPUT_FILES = ("*_tissues.nii.gz", "*_slices.png", "dice.png", "volumes.png", "subjects.csv")
"""What an evaluation leaves in a folder."""

MARGIN = 8
"""Voxels around the brain that are predicted too; beyond them everything is background."""

_Labels = npt.NDArray[np.uint8]

log = logging.getLogger(__name__)


def predict_probabilities(
    network: Callable[[Tensor], Tensor],
    image: npt.NDArray[np.float32],
    recipe: TissueRecipeConfig,
    *,
    background: float = 0.0,
    device: torch.device | str = "cpu",
) -> npt.NDArray[np.float32]:
    """Class probabilities of a whole volume from overlapping windows, blended smoothly (MONAI).

    For networks whose zero padding reaches every voxel of a window, so that no part of a prediction
    is that of the whole volume: what each window says near its faces counts little. Networks with a
    small receptive field are better served by ``psc.volumes.tiling``, whose tiles join exactly.

    The network, in evaluation mode, maps (N, 1, s, s, s) to logits (N, C, s, s, s); the image is
    (D, H, W), padded with ``background`` where it is smaller than a window; the result (C, D, H, W)
    sums to 1 at every voxel. Only windows go to the device.
    """
    from monai.inferers.utils import sliding_window_inference

    def predict(window: Tensor) -> Tensor:
        logits = network(window.contiguous(memory_format=torch.channels_last_3d))
        return logits.float().softmax(dim=1)

    with torch.inference_mode():
        probabilities = sliding_window_inference(
            torch.from_numpy(np.ascontiguousarray(image))[None, None],
            roi_size=(recipe.patch_size,) * 3,
            sw_batch_size=recipe.evaluation_batch_size,
            predictor=predict,
            overlap=recipe.overlap,
            mode=recipe.blending,
            padding_mode="constant",
            cval=background,
            sw_device=device,
            device="cpu",
        )
    assert isinstance(probabilities, Tensor)  # a tuple or dict if the network returned one
    return probabilities[0].numpy()


def evaluate_tissues(
    network: nn.Module,
    parts: Mapping[str, Sequence[Subject]],
    folder: Path,
    *,
    codes: TissueCodes,
    recipe: TissueRecipeConfig,
    device: torch.device,
    title: str = "",
    progress: bool = True,
) -> dict[str, Any]:
    """Score the subjects of "validation" and "test"; write labels, table, pictures of the latter.

    An earlier evaluation in ``folder`` is replaced. Of each part the metrics have mean and standard
    deviation of every score over its subjects, the same for the ``baseline``, and each subject's.
    """
    clear(folder, OUTPUT_FILES)
    floor, by_floor = _baseline(parts["validation"], codes)
    rows: list[SubjectScores] = []
    baseline: list[SubjectScores] = []
    total = sum(len(subjects) for subjects in parts.values())
    with tqdm(total=total, unit="subject", desc="segmenting", disable=not progress) as bar:
        for part, subjects in parts.items():
            for subject in subjects:
                prediction = predict_tissues([(network, recipe)], subject, device=device)
                rows.append(_scored(subject, part, NETWORK, prediction, codes))
                baseline.append(_scored(subject, part, floor, by_floor(subject), codes))
                if part == "test":
                    _write_prediction(folder, subject, prediction, codes, title)
                bar.update()
    write_subject_scores(folder / "subjects.csv", [*rows, *baseline])
    test = [row for row in (*rows, *baseline) if row.part == "test"]
    scores_figure(test, folder / "dice.png", title=title)
    volumes_figure(test, folder / "volumes.png", title=title)
    metrics: dict[str, Any] = {part: _summary(rows, part) for part in parts}
    metrics["subjects"] = {row.subject: row.scores.as_row() for row in rows}
    metrics["baseline"] = {
        "method": floor,
        **{part: _summary(baseline, part) for part in parts},
        "subjects": {row.subject: row.scores.as_row() for row in baseline},
    }
    names = (*codes.tissues, "mean")
    found = metrics["test"]
    dice = ", ".join(f"{shown_name(name)} {_number(found[f'dice_{name}'])}" for name in names)
    without = _number(metrics["baseline"]["test"]["dice_mean"])
    log.info("test: Dice %s; without a network (%s) mean %s", dice, floor, without)
    return metrics


def predict_tissues(
    networks: Sequence[tuple[nn.Module, TissueRecipeConfig]],
    subject: Subject,
    *,
    device: torch.device,
) -> _Labels:
    """Classes of a whole subject, uint8 (D, H, W) on the grid of ``subject.native``.

    The networks, on ``device`` and in evaluation mode, map (N, 1, s, s, s) to logits
    (N, C, s, s, s) of the same classes; their probabilities are averaged. Their recipes say how the
    volume is cut into windows.
    """
    box = bounding_box(subject.brain, MARGIN)
    assert box is not None  # read_subject refuses subjects without a brain
    inside, *others = (
        predict_probabilities(
            network, subject.image[box], recipe, background=subject.background, device=device
        )
        for network, recipe in networks
    )
    for other in others:
        inside += other
    inside /= len(networks)
    grid, native = subject.image.shape, subject.native
    factors = size_factors(native.voxel_size, subject.voxel_size)
    if (factors == 1).all():
        labels = np.full(grid, BACKGROUND, dtype=np.uint8)
        labels[box] = inside.argmax(axis=0)
        return labels
    # Probabilities, not labels, go through the interpolation back.
    on_native = np.empty((len(inside), *native.data.shape), dtype=np.float32)
    for tissue, values in enumerate(inside):
        whole = np.full(grid, tissue == BACKGROUND, dtype=np.float32)
        whole[box] = values
        on_native[tissue] = resampled(whole, 1 / factors, native.data.shape, order=LINEAR)
    return np.asarray(on_native.argmax(axis=0), dtype=np.uint8)


def _scored(
    subject: Subject, part: str, method: str, prediction: _Labels, codes: TissueCodes
) -> SubjectScores:
    assert subject.native_labels is not None  # read_subject refuses subjects without
    voxel_size = subject.native.voxel_size
    scores = tissue_scores(subject.native_labels, prediction, voxel_size, codes.tissues)
    return SubjectScores(subject.name, part, method, scores)


def _baseline(
    validation: Sequence[Subject], codes: TissueCodes
) -> tuple[str, Callable[[Subject], _Labels]]:
    """Name of what needs no network, and the labels that it gives a subject."""
    if codes.tissues == TISSUES:
        return "gaussian mixture", lambda subject: segment_by_intensity(
            subject.native.data, subject.native_brain
        )
    voxels = np.zeros(codes.classes, dtype=np.int64)
    for subject in validation:
        assert subject.native_labels is not None
        voxels += np.bincount(subject.native_labels.ravel(), minlength=codes.classes)
    most = max(codes.tissues, key=lambda tissue: voxels[codes.tissues[tissue]])
    label = np.uint8(codes.tissues[most])
    return f"{most} only", lambda subject: np.where(subject.native_brain, label, BACKGROUND)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _summary(rows: Sequence[SubjectScores], part: str) -> dict[str, Any]:
    return summarise([row.scores for row in rows if row.part == part])


def _write_prediction(
    folder: Path, subject: Subject, prediction: _Labels, codes: TissueCodes, title: str
) -> None:
    written = codes.written(prediction)
    path = folder / f"{subject.name}_tissues.nii.gz"
    write_nifti(path, written, like=subject.native)
    assert subject.native_labels is not None
    slices_figure(
        subject.native.data,
        subject.native_labels,
        prediction,
        subject.native.voxel_size,
        folder / f"{subject.name}_slices.png",
        tissues=codes.tissues,
        title=f"{subject.name}, {title}" if title else subject.name,
    )
