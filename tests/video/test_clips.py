"""Clips of frames that carry their number, row and column, so that a clip says where it is from."""

import collections

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from video_oracle import write_numbered_store

from psc.errors import ConfigError, DataError
from psc.training.data import EpochSampler
from psc.video.clips import (
    KINETICS_DEVIATION,
    KINETICS_MEAN,
    ClipNormalisation,
    EvaluationClips,
    TrainingClips,
)
from psc.video.data import ListedVideo

LENGTHS = {"v_A_g01_c01": 40, "v_A_g02_c01": 16, "v_B_g01_c01": 5, "v_B_g02_c01": 100}
VIDEOS = [ListedVideo(name, int(name[2] == "B"), int(name[5])) for name in LENGTHS]
HEIGHT, WIDTH = 12, 16


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_numbered_store(
        tmp_path_factory.mktemp("clips") / "store", LENGTHS, height=HEIGHT, width=WIDTH
    )


def training(store, **changes):
    return TrainingClips(store, VIDEOS, **({"seed": 0, "frames": 8, "size": 10} | changes))


def evaluation(store, **changes):
    return EvaluationClips(store, VIDEOS, **({"frames": 8, "size": 10} | changes))


def numbers(item):
    """Frame numbers of a clip, whose rows and columns are checked to be a crop."""
    t, y, x = item["clip"].numpy()
    assert (t == t[:, :1, :1]).all()
    rows, columns = y[0, :, 0].astype(int), x[0, 0].astype(int)
    assert (y == y[:1, :, :1]).all()
    assert (x == x[:1, :1]).all()
    assert (np.diff(rows) == 1).all()
    assert abs(np.diff(columns).sum()) == len(columns) - 1
    return t[:, 0, 0].astype(int), rows[0], columns


def test_items(store):
    item = training(store)[0]
    assert item["clip"].shape == (3, 8, 10, 10)
    assert item["clip"].dtype == torch.uint8
    assert item["clip"].is_contiguous()
    assert item["label"].dtype == item["video"].dtype == torch.int64
    assert item["label"].shape == item["video"].shape == ()
    assert VIDEOS[item["video"]].label == item["label"]


@pytest.mark.parametrize("stride", [1, 3])
def test_training_clips_are_consecutive_frames_of_any_start_and_crop(store, stride):
    clips = training(store, stride=stride)
    starts, corners, mirrored = collections.defaultdict(set), set(), collections.Counter()
    for index in range(1200):
        item = clips[index]
        frames, top, columns = numbers(item)
        count = list(LENGTHS.values())[item["video"]]
        np.testing.assert_array_equal(frames, (frames[0] + stride * np.arange(8)) % count)
        starts[int(item["video"])].add(int(frames[0]))
        flipped = columns[0] > columns[-1]
        mirrored[bool(flipped)] += 1
        corners.add((int(top), int(min(columns))))
    span = 7 * stride + 1
    for video, count in enumerate(LENGTHS.values()):
        possible = count - span + 1 if count >= span else count  # looped: anywhere
        assert len(starts[video]) > 0.9 * possible
        assert max(starts[video]) < possible
    assert len(corners) == (HEIGHT - 10 + 1) * (WIDTH - 10 + 1)
    assert 0.4 < mirrored[True] / 1200 < 0.6


def test_augmentation_can_be_switched_off(store):
    clips = training(store, random_crop=False, flip=False)
    for index in range(20):
        _, top, columns = numbers(clips[index])
        assert (top, columns[0], columns[-1]) == (1, 3, 12)


def test_every_pass_has_every_video_once_in_another_order(store):
    clips = training(store)
    passes = [[int(clips[4 * p + i]["video"]) for i in range(4)] for p in range(12)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in passes)
    assert len({tuple(order) for order in passes}) > 4


def test_a_clip_depends_on_seed_and_index_alone(store):
    one, two = training(store), training(store)
    for index in (5, 3, 2**40, 0):
        torch.testing.assert_close(one[index], two[index], rtol=0, atol=0)
    other = training(store, seed=1)
    assert any(not torch.equal(one[i]["clip"], other[i]["clip"]) for i in range(4))
    # Passes do not repeat each other's clips.
    first, second = ({i: one[4 * p + i] for i in range(4)} for p in (0, 1))
    assert any(not torch.equal(first[i]["clip"], second[i]["clip"]) for i in range(4))


def test_workers_change_nothing(store):
    def batches(workers):
        sampler = EpochSampler(8)
        sampler.set_epoch(1)
        clips = training(store)
        clips[0]  # files are open before the workers start
        return list(DataLoader(clips, batch_size=4, sampler=sampler, num_workers=workers))

    for alone, shared in zip(batches(0), batches(2), strict=True):
        torch.testing.assert_close(alone, shared, rtol=0, atol=0)


def test_evaluation_clips_are_spread_over_the_video(store):
    clips = evaluation(store, clips_per_video=5)
    assert len(clips) == 20
    starts = collections.defaultdict(list)
    for index in range(len(clips)):
        frames, top, columns = numbers(clips[index])
        assert int(clips[index]["video"]) == index // 5
        assert (top, columns[0], columns[-1]) == (1, 3, 12)  # centre, not mirrored
        starts[index // 5].append(int(frames[0]))
        count = list(LENGTHS.values())[index // 5]
        np.testing.assert_array_equal(frames, (frames[0] + np.arange(8)) % count)
    assert starts[0] == [0, 8, 16, 24, 32]
    assert starts[1] == [0, 2, 4, 6, 8]
    assert starts[2] == [0, 1, 2, 3, 4]  # looped
    assert starts[3] == [0, 23, 46, 69, 92]


def test_the_paper_takes_twenty_clips_per_video(store):
    assert len(evaluation(store)) == 20 * len(VIDEOS)


def test_a_single_evaluation_clip_is_the_middle(store):
    clips = evaluation(store, clips_per_video=1)
    assert [int(numbers(clips[i])[0][0]) for i in range(4)] == [16, 4, 2, 46]


def test_evaluation_is_deterministic(store):
    for changes in ({}, {"shuffle_frames": True}):
        one, two = evaluation(store, **changes), evaluation(store, **changes)
        for index in (30, 0, 79):
            torch.testing.assert_close(one[index], two[index], rtol=0, atol=0)


@pytest.mark.parametrize("make", [training, evaluation])
def test_shuffling_changes_the_order_of_frames_and_nothing_else(store, make):
    plain, shuffled = make(store), make(store, shuffle_frames=True)
    orders = set()
    for index in range(8):
        one, two = plain[index]["clip"], shuffled[index]["clip"]
        order = two[0, :, 0, 0].argsort(stable=True)
        np.testing.assert_array_equal(two[:, order], one[:, one[0, :, 0, 0].argsort(stable=True)])
        orders.add(tuple(order.tolist()))
    assert len(orders) > 4


def test_clips_may_be_oblong(store):
    assert training(store, size=(4, 16))[0]["clip"].shape == (3, 8, 4, 16)


@pytest.mark.parametrize("index", [-1, 80])
def test_evaluation_ends(store, index):
    with pytest.raises(IndexError, match="of 80"):
        evaluation(store)[index]


def test_there_are_no_clips_before_the_first(store):
    with pytest.raises(IndexError):
        training(store)[-1]


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (training, {"frames": 0}, "frames of a clip must be at least 1, found 0"),
        (training, {"stride": 0}, "stride of a clip"),
        (evaluation, {"size": (4, 0)}, "size of a clip"),
        (training, {"seed": -1}, "seed must be at least 0"),
        (evaluation, {"clips_per_video": 0}, "clips_per_video must be at least 1"),
        (training, {"size": 13}, r"13×13 pixels do not fit .* v_A_g01_c01, prepared at 12×16"),
    ],
)
def test_impossible_clips(store, make, changes, message):
    with pytest.raises(ConfigError, match=message):
        make(store, **changes)


def test_videos_must_be_in_the_store(store):
    gone = ListedVideo("v_A_g09_c01", 0, 9)
    with pytest.raises(DataError, match="does not have 1 of 2 videos, the first is v_A_g09_c01"):
        TrainingClips(store, [VIDEOS[0], gone], seed=0)
    with pytest.raises(DataError, match="no videos"):
        EvaluationClips(store, [])


def test_normalisation():
    clips = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    result = ClipNormalisation()(clips)
    for colour, (mean, deviation) in enumerate(zip(KINETICS_MEAN, KINETICS_DEVIATION, strict=True)):
        expected = (clips[:, colour].double() / 255 - mean) / deviation
        torch.testing.assert_close(result[:, colour].double(), expected, rtol=0, atol=1e-5)
    assert result.dtype == torch.float32
    assert not ClipNormalisation().state_dict()  # a checkpoint does not depend on it


def test_the_default_is_what_torchvision_s_weights_expect():
    models = pytest.importorskip("torchvision.models.video")
    transform = models.R3D_18_Weights.KINETICS400_V1.transforms()
    clips = torch.randint(0, 256, (1, 3, 4, 112, 112), dtype=torch.uint8)
    expected = (clips / 255 - torch.tensor(transform.mean).view(3, 1, 1, 1)) / torch.tensor(
        transform.std
    ).view(3, 1, 1, 1)
    torch.testing.assert_close(ClipNormalisation()(clips), expected)
