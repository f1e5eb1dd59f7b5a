"""Video accuracy against a loop over videos, written as the paper says it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psc.video.testing import video_accuracy


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 8), st.integers(1, 4))
def test_equals_a_loop_over_videos(seed, count, classes, clips):
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
