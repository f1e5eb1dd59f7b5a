"""Accuracy of action recognition: over videos (clips' softmax averaged) and over single clips.

The paper reports "top-1 clip accuracy on the test split as an average over 20 clips to produce the
final prediction" (Section 4.1): the softmax of a video's clips is averaged, and the video counts as
right if the mean's largest class is its own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class VideoAccuracy:
    """Shares of 1.

    Attributes:
        top1: of videos whose own class has the largest mean probability.
        top5: of videos whose own class is among the five largest.
        clip_top1: of single clips, each judged by itself.
        per_class: top1 of each class's videos; nan for a class without videos.
        confusion: int64 (classes, classes), videos by true class (row) and predicted one (column).
    """

    top1: float
    top5: float
    clip_top1: float
    per_class: NDArray[np.float64]
    confusion: NDArray[np.int64]


def video_accuracy(
    probabilities: NDArray[np.floating], videos: NDArray[np.integer], labels: NDArray[np.integer]
) -> VideoAccuracy:
    """Score predictions of clips.

    Args:
        probabilities: (clips, classes), each row a clip's softmax.
        videos: (clips,), the video that each clip is of, 0 … len(labels) − 1.
        labels: (videos,), each video's class.

    Raises:
        ValueError: if a video has no clip, or the lengths differ.
    """
    if len(probabilities) != len(videos):
        raise ValueError(f"{len(probabilities)} predictions, but {len(videos)} clips")
    count = np.bincount(videos, minlength=len(labels))
    if len(count) != len(labels) or not count.all():
        raise ValueError(f"{len(labels)} videos, but clips of {np.count_nonzero(count)} of them")
    classes = probabilities.shape[1]
    total = np.zeros((len(labels), classes))
    np.add.at(total, videos, probabilities.astype(np.float64))
    mean = total / count[:, None]
    predicted = mean.argmax(axis=1)
    # Classes that beat a video's own; of equals the first in order wins, as in argmax.
    own = mean[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(classes)[None] < labels[:, None]
    rank = ((mean > own) | ((mean == own) & earlier)).sum(axis=1)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    in_class = confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        per_class = confusion.diagonal() / in_class
    return VideoAccuracy(
        top1=float((rank == 0).mean()),
        top5=float((rank < 5).mean()),
        clip_top1=float((probabilities.argmax(axis=1) == labels[videos]).mean()),
        per_class=per_class,
        confusion=confusion,
    )
