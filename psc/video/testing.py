"""The test protocol of action recognition (Section 4.1): 20 clips per video, softmax averaged.

The paper reports "top-1 clip accuracy on the test split as an average over 20 clips to produce the
final prediction": the softmax of a video's clips is averaged, and the video counts as right if the
mean's largest class is its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from psc.files import write_csv
from psc.paper.curves import confusion_figure
from psc.video.clips import ClipNormalisation
from psc.video.data import ListedVideo

CLASSES_FILE = "classes.csv"
"""Names of the classes, in the network's order, with their accuracy."""


@dataclass(frozen=True)
class VideoAccuracy:
    """Shares of 1: of videos whose own class is the most probable, or one of five, and of clips.

    ``per_class``: top1 of each class's videos; nan for a class without videos. ``confusion``:
    (classes, classes), videos by true class (row) and predicted one (column).
    """

    top1: float
    top5: float
    clip_top1: float
    per_class: NDArray[np.float64]
    confusion: NDArray[np.int64]


def video_accuracy(
    probabilities: NDArray[np.floating], videos: NDArray[np.integer], labels: NDArray[np.integer]
) -> VideoAccuracy:
    """Score predictions of clips: softmax (clips, classes), each clip's video, each video's class.

    Videos are counted 0 … len(labels) − 1, and each must have a clip.
    """
    if len(probabilities) != len(videos):
        raise ValueError(f"{len(probabilities)} predictions, but {len(videos)} clips")
    count = np.bincount(videos, minlength=len(labels))
    if len(count) != len(labels) or not count.all():
        raise ValueError(f"{len(labels)} videos, but clips of {np.count_nonzero(count)} of them")
    mean = _means(probabilities, videos, len(labels))
    predicted = mean.argmax(axis=1)
    classes = mean.shape[1]
    # Classes that beat a video's own; of equals the first in order wins, as in argmax.
    own = mean[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(classes)[None] < labels[:, None]
    rank = ((mean > own) | ((mean == own) & earlier)).sum(axis=1)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    with np.errstate(invalid="ignore"):
        per_class = confusion.diagonal() / confusion.sum(axis=1)
    return VideoAccuracy(
        top1=float((rank == 0).mean()),
        top5=float((rank < 5).mean()),
        clip_top1=float((probabilities.argmax(axis=1) == labels[videos]).mean()),
        per_class=per_class,
        confusion=confusion,
    )


@torch.inference_mode()
def predict_clips(
    network: nn.Module, batches: DataLoader[dict[str, Tensor]], device: torch.device
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Softmax of every clip (clips, classes), and the video that it is of (clips,)."""
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
    """Top1, top5 (over videos) and clip_top1, shares of 1, of the clips of ``EvaluationClips``.

    The network, on ``device`` and in evaluation mode, maps (N, 3, T, H, W) to logits (N, classes).
    A folder gets predictions.csv, classes.csv, confusion.csv and confusion.png.
    """
    probabilities, video = predict_clips(network, batches, device)
    scores = video_accuracy(probabilities, video, np.array([v.label for v in videos]))
    if folder is not None:
        means = _means(probabilities, video, len(videos))
        predicted = [
            [v.name, classes[v.label], classes[mean.argmax()], f"{mean.max():.4f}"]
            for v, mean in zip(videos, means, strict=True)
        ]
        names = ["video", "class", "predicted", "probability"]
        write_csv(names, predicted, folder / "predictions.csv")
        counts = scores.confusion.sum(axis=1)
        accuracy = ["" if np.isnan(a) else f"{a:.4f}" for a in scores.per_class]
        rows = zip(classes, counts, accuracy, strict=True)
        write_csv(["class", "videos", "accuracy"], rows, folder / CLASSES_FILE)
        confusion = [[name, *row] for name, row in zip(classes, scores.confusion, strict=True)]
        write_csv(["class \\ predicted", *classes], confusion, folder / "confusion.csv")
        confusion_figure(scores.confusion, classes, folder / "confusion.png")
    return {"top1": scores.top1, "top5": scores.top5, "clip_top1": scores.clip_top1}


def _means(
    probabilities: NDArray[np.floating], videos: NDArray[np.integer], count: int
) -> NDArray[np.float64]:
    """Mean probabilities of each video's clips, (videos, classes)."""
    total = np.zeros((count, probabilities.shape[1]))
    np.add.at(total, videos, probabilities.astype(np.float64))
    return total / np.bincount(videos, minlength=count)[:, None]
