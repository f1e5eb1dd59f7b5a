"""The 20-clip protocol against a loop over videos and clips, and what it writes."""

import csv

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from psc.video.clips import ClipNormalisation
from psc.video.manifest import ListedVideo
from psc.video.testing import evaluate_videos, predict_clips

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


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, items, listed = made()
    evaluate_videos(network, DataLoader(items, 4), listed, CLASSES, device=torch.device("cpu"))
    assert not list(tmp_path.iterdir())
