"""The 20-clip protocol and accuracy against loops over videos and clips, and what is written."""

import csv
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from psc.config import compose
from psc.errors import CheckpointError
from psc.training.checkpoints import CONFIG_KEY, Checkpoint
from psc.video.classifying import trained_clips
from psc.video.clips import ClipNormalisation
from psc.video.data import ListedVideo
from psc.video.testing import evaluate_videos, predict_clips, video_accuracy

CLASSES = ("Jump", "Run", "Sit")


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 2 * 4 * 4, 3)

    def forward(self, x):
        return self.linear(x.flatten(1))


def made(videos=5, clips=4):
    torch.manual_seed(0)
    items = [
        {
            "clip": torch.randint(0, 256, (3, 2, 4, 4), dtype=torch.uint8),
            "label": torch.tensor(video % 3),
            "video": torch.tensor(video),
        }
        for video in range(videos)
        for _ in range(clips)
    ]
    listed = [ListedVideo(f"v_{i}", i % 3, 1) for i in range(videos)]
    return Classifier().eval(), items, listed


def brute_force(network, items, video):
    """Mean softmax of one video, a clip at a time."""
    total, normalise = torch.zeros(3, dtype=torch.float64), ClipNormalisation()
    mine = [item for item in items if item["video"] == video]
    with torch.no_grad():
        for item in mine:
            total += network(normalise(item["clip"][None]))[0].double().softmax(0)
    return total / len(mine)


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_equals_a_loop_over_videos(batch_size, tmp_path):
    network, items, listed = made()
    scores = evaluate_videos(
        network,
        DataLoader(items, batch_size),
        listed,
        CLASSES,
        device=torch.device("cpu"),
        folder=tmp_path / "out",
    )
    means = [brute_force(network, items, video) for video in range(len(listed))]
    predicted = [int(mean.argmax()) for mean in means]
    right = [p == video.label for p, video in zip(predicted, listed, strict=True)]
    assert scores["top1"] == pytest.approx(np.mean(right))
    assert scores["top5"] == 1

    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == [CLASSES[p] for p in predicted]
    assert [row["class"] for row in rows] == [CLASSES[v.label] for v in listed]
    for row, mean in zip(rows, means, strict=True):
        assert float(row["probability"]) == pytest.approx(float(mean.max()), abs=1e-4)
    with (tmp_path / "out" / "confusion.csv").open() as file:
        confusion = list(csv.reader(file))
    assert confusion[0][1:] == list(CLASSES)
    assert sum(int(n) for row in confusion[1:] for n in row[1:]) == len(listed)
    assert (tmp_path / "out" / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    with (tmp_path / "out" / "classes.csv").open() as file:
        assert [int(row["videos"]) for row in csv.DictReader(file)] == [2, 2, 1]


def test_prediction_is_deterministic_and_a_probability():
    network, items, _ = made()
    first, videos = predict_clips(network, DataLoader(items, 3), torch.device("cpu"))
    again, _ = predict_clips(network, DataLoader(items, 3), torch.device("cpu"))
    assert np.array_equal(first, again)
    np.testing.assert_allclose(first.sum(axis=1), 1)
    assert videos.tolist() == [i // 4 for i in range(20)]


def test_a_checkpoint_of_a_part_of_the_classes_knows_them_by_its_evaluation(tmp_path):
    network, items, listed = made()
    folder = tmp_path / "run/evaluation"
    evaluate_videos(
        network, DataLoader(items, 4), listed, CLASSES, device=torch.device("cpu"), folder=folder
    )

    def checkpoint(classes):
        names = ["backbone=resnet18", "dataset=ucf101_sample", f"dataset.classes={classes}"]
        path = tmp_path / "run/checkpoints/best.ckpt"
        return Checkpoint(path, {CONFIG_KEY: asdict(compose([*names, "budget=quick"]))})

    assert trained_clips(checkpoint(3))[:2] == (CLASSES, 40)
    with pytest.raises(CheckpointError, match=r"tells 4 classes apart, but .* name 3"):
        trained_clips(checkpoint(4))
    (folder / "classes.csv").unlink()
    with pytest.raises(CheckpointError, match=r"classes\.csv, which is not there: leave"):
        trained_clips(checkpoint(3))


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, items, listed = made()
    evaluate_videos(network, DataLoader(items, 4), listed, CLASSES, device=torch.device("cpu"))
    assert not list(tmp_path.iterdir())


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 8), st.integers(1, 4))
def test_accuracy_equals_a_loop_over_videos(seed, count, classes, clips):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    videos = rng.permutation(np.repeat(np.arange(count), clips))
    probabilities = softmax(rng.normal(size=(len(videos), classes)))
    found = video_accuracy(probabilities, videos, labels)

    top1 = top5 = right_clips = 0
    right, of_class = np.zeros(classes), np.zeros(classes)
    for video, label in enumerate(labels):
        mine = probabilities[videos == video]
        order = np.argsort(-mine.mean(axis=0))
        top1 += order[0] == label
        top5 += label in order[:5]
        right_clips += (mine.argmax(axis=1) == label).sum()
        of_class[label] += 1
        right[label] += order[0] == label
    assert found.top1 == pytest.approx(top1 / count)
    assert found.top5 == pytest.approx(top5 / count)
    assert found.clip_top1 == pytest.approx(right_clips / len(videos))
    assert found.confusion.sum() == count
    assert (found.confusion.sum(axis=1) == of_class).all()
    for i in range(classes):
        if of_class[i]:
            assert found.per_class[i] == pytest.approx(right[i] / of_class[i])
        else:
            assert np.isnan(found.per_class[i])


def test_a_video_is_judged_by_the_mean_of_its_clips():
    # Two clips lean slightly to class 1, one is certain of class 0: the mean is of class 0.
    probabilities = np.array([[0.45, 0.55], [0.45, 0.55], [0.99, 0.01]])
    found = video_accuracy(probabilities, np.zeros(3, int), np.array([0]))
    assert (found.top1, found.clip_top1) == (1.0, pytest.approx(1 / 3))
    assert found.confusion.tolist() == [[1, 0], [0, 0]]


def test_equal_probabilities_are_not_all_right():
    found = video_accuracy(np.full((2, 4), 0.25), np.arange(2), np.array([0, 3]))
    assert found.top1 == 0.5


def test_a_video_without_clips_is_refused():
    with pytest.raises(ValueError, match="3 videos, but clips of 2"):
        video_accuracy(np.full((2, 2), 0.5), np.array([0, 2]), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="1 predictions, but 2 clips"):
        video_accuracy(np.full((1, 2), 0.5), np.array([0, 0]), np.array([0]))
