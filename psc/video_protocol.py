"""The test protocol of action recognition (Section 4.1): 20 clips per video, softmax averaged."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from psc.datasets.action_split import ListedVideo
from psc.datasets.clips import ClipNormalisation
from psc.metrics.video_accuracy import VideoAccuracy, video_accuracy
from psc.reporting.confusion import confusion_figure


@torch.inference_mode()
def predict_clips(
    network: nn.Module, batches: DataLoader[dict[str, Tensor]], device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Softmax of every clip, and the video that it is of.

    Args:
        network: (N, 3, T, H, W) → logits (N, classes), on ``device``, in evaluation mode.
        batches: of ``psc.datasets.clips.EvaluationClips``.
        device: where to predict.

    Returns:
        float64 (clips, classes) and int64 (clips,).
    """
    normalise = ClipNormalisation().to(device)
    probabilities, videos = [], []
    for batch in batches:
        clip = normalise(batch["clip"].to(device, non_blocking=True))
        logits = network(clip.contiguous(memory_format=torch.channels_last_3d))
        probabilities.append(logits.double().softmax(dim=1).cpu().numpy())
        videos.append(batch["video"].numpy())
    return np.concatenate(probabilities), np.concatenate(videos)


def evaluate_videos(
    network: nn.Module,
    batches: DataLoader[dict[str, Tensor]],
    videos: Sequence[ListedVideo],
    classes: Sequence[str],
    *,
    device: torch.device,
    folder: Path | None = None,
) -> dict[str, float]:
    """Score videos and, where a folder is given, write what was predicted.

    Args:
        network: on ``device``, in evaluation mode.
        batches: the videos' clips.
        videos: in the order of the batches' ``video``.
        classes: names.
        device: where to predict.
        folder: gets predictions.csv, classes.csv, confusion.csv and confusion.png.

    Returns:
        top1, top5 (over videos) and clip_top1, shares of 1.
    """
    probabilities, video = predict_clips(network, batches, device)
    labels = np.array([v.label for v in videos])
    scores = video_accuracy(probabilities, video, labels)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        _write_predictions(folder / "predictions.csv", probabilities, video, videos, classes)
        _write_classes(folder, scores, classes)
        confusion_figure(scores.confusion, classes, folder / "confusion.png")
    return {"top1": scores.top1, "top5": scores.top5, "clip_top1": scores.clip_top1}


def _write_predictions(
    path: Path,
    probabilities: NDArray[np.float64],
    video: NDArray[np.int64],
    videos: Sequence[ListedVideo],
    classes: Sequence[str],
) -> None:
    rows = []
    for i, listed in enumerate(videos):
        mean = probabilities[video == i].mean(axis=0)
        best = int(mean.argmax())
        rows.append([listed.name, classes[listed.label], classes[best], f"{mean[best]:.4f}"])
    _write(path, ["video", "class", "predicted", "probability"], rows)


def _write_classes(folder: Path, scores: VideoAccuracy, classes: Sequence[str]) -> None:
    counts = scores.confusion.sum(axis=1)
    accuracy = ["" if np.isnan(a) else f"{a:.4f}" for a in scores.per_class]
    rows = [list(row) for row in zip(classes, counts, accuracy, strict=True)]
    _write(folder / "classes.csv", ["class", "videos", "accuracy"], rows)
    rows = [[name, *row] for name, row in zip(classes, scores.confusion.tolist(), strict=True)]
    _write(folder / "confusion.csv", ["class \\ predicted", *classes], rows)


def _write(path: Path, header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
