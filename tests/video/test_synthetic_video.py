"""The stand-in, from films to the prepared store: textures that move as their class says."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage
from video_oracle import frame_types, pyav_frames

from psc.errors import ConfigError, DataError
from psc.video import synthetic as synthetic_video
from psc.video.data import read_split
from psc.video.preparation import prepare_videos
from psc.video.settings import SyntheticVideosConfig
from psc.video.store import PreparationSettings, PreparedVideos
from psc.video.synthetic import (
    CLASSES,
    HEIGHT,
    LISTS,
    PERIOD,
    VIDEOS,
    WIDTH,
    draw_film,
    write_synthetic_videos,
)

FEW = SyntheticVideosConfig(groups=4, clips=1)
FRAMES = (20, 28)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "new" / "videos"
    assert write_synthetic_videos(path, FEW, FRAMES)
    return path


@pytest.fixture(scope="module")
def store(folder):
    output = folder.parent / "prepared"
    report = prepare_videos(folder / VIDEOS, output, PreparationSettings(short_side=40))
    assert (len(report.prepared), report.unreadable) == (40, ())
    return PreparedVideos(output)


def grey(action, seed=0, frames=40):
    return draw_film(action, seed, 1, 1, (frames, frames))[..., 1].astype(float)


def similarity(one, other):
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


def moved(picture, right=0.0, down=0.0, growth=1.0, turn=0.0):
    """Picture resampled about its centre, by scipy, and what of it is of the picture."""
    angle = 2 * np.pi * turn
    inverse = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / growth
    centre = np.array([HEIGHT / 2, WIDTH / 2])
    offset = centre - inverse @ (centre + np.array([down, right]))
    options = {"offset": offset, "order": 1, "cval": np.nan}
    result = ndimage.affine_transform(picture, inverse, **options)
    return result, ~np.isnan(result)


MOTION = {
    "Rising": {"down": -4.0},
    "Sinking": {"down": 4.0},
    "Bobbing": {"down": 5.0},
    "Passing": {"right": 4.0},
    "Swaying": {"right": 5.0},
    "Growing": {"growth": 2 ** (1 / PERIOD)},
    "Shrinking": {"growth": 2 ** (-1 / PERIOD)},
    "Pulsing": {"growth": 2 ** (2 / PERIOD)},
    "Turning": {"turn": 1 / 40},
    "Swinging": {"turn": 1 / 32},
}


def steps(action, seed=0):
    """+1, -1 or 0 for each step: the class's motion, its reverse, or neither."""
    frames, found = grey(action, seed), []
    for before, after in pairwise(frames):
        scores = []
        for sign in (1, -1):
            there = {k: v**sign if k == "growth" else v * sign for k, v in MOTION[action].items()}
            expected, seen = moved(before, **there)
            scores.append(similarity(expected[seen], after[seen]))
        found.append(0 if max(scores) < 0.95 else 1 if scores[0] > scores[1] else -1)
    return np.array(found)


@pytest.mark.parametrize("action", ["Rising", "Sinking"])
def test_up_and_down(action):
    assert (steps(action) == 1).all()


@pytest.mark.parametrize("action", ["Passing", "Turning"])
def test_to_either_side(action):
    ways = [set(steps(action, seed).tolist()) for seed in range(6)]
    assert sorted(map(sorted, ways))[0] == [-1]
    assert sorted(map(sorted, ways))[-1] == [1]
    assert all(len(way) == 1 for way in ways)


@pytest.mark.parametrize(("action", "way"), [("Growing", 1), ("Shrinking", 1)])
def test_larger_or_smaller_and_again(action, way):
    found = steps(action)
    jumps = np.flatnonzero(found != way)
    assert len(jumps) in (2, 3)
    assert set(np.diff(jumps)) == {PERIOD}


@pytest.mark.parametrize("action", ["Bobbing", "Swaying", "Pulsing", "Swinging"])
def test_to_and_fro(action):
    found = steps(action)
    turns = np.flatnonzero(np.diff(found[found != 0]))  # a step across the turn is neither
    assert len(turns) in (4, 5)
    assert np.abs(np.diff(turns) - PERIOD / 2).max() <= 1


def test_scales_tell_none_of_the_three_that_grow():
    """They show the same sizes, in another order: detail, frame by frame, is equal when sorted."""

    def detail(action):
        frames = np.concatenate([grey(action, seed, PERIOD) for seed in range(16)])
        return np.sort(np.abs(np.diff(frames, axis=2)).mean((1, 2)) / frames.std((1, 2)))

    growing, shrinking, pulsing = (detail(a) for a in ("Growing", "Shrinking", "Pulsing"))
    assert np.abs(growing / shrinking - 1).mean() < 0.1
    assert np.abs(growing / pulsing - 1).mean() < 0.1


def test_a_film_is_a_function_of_its_arguments():
    film = draw_film("Rising", 0, 3, 1, (8, 8))
    assert film.shape == (8, HEIGHT, WIDTH, 3)
    assert film.dtype == np.uint8
    np.testing.assert_array_equal(draw_film("Rising", 0, 3, 1, (8, 8)), film)
    for other in (
        ("Sinking", 0, 3, 1),
        ("Rising", 1, 3, 1),
        ("Rising", 0, 4, 1),
        ("Rising", 0, 3, 2),
    ):
        assert (draw_film(*other, (8, 8)) != film).mean() > 0.5


def test_a_group_looks_alike_in_all_classes_and_unlike_others():
    def colours(action, group, clip):
        film = draw_film(action, 0, group, clip, (1, 1)).reshape(-1, 3)
        return np.concatenate([film.min(0), film.max(0)]).astype(int)

    look = {
        group: [colours("Rising", group, 1), colours("Turning", group, 2)] for group in range(9)
    }
    within = max(np.abs(one - two).max() for one, two in look.values())
    between = min(np.abs(look[a][0] - look[b][0]).max() for a in look for b in look if a < b)
    assert within < between


def test_an_unknown_class():
    with pytest.raises(ConfigError, match=r"Bobbing.*found 'Juggling'"):
        draw_film("Juggling", 0, 1, 1)


def test_films_are_encoded_as_ucf101_s_are(folder):
    path = folder / VIDEOS / "Rising" / "v_Rising_g02_c01.avi"
    content = path.read_bytes()
    assert content[:4] == b"RIFF"
    assert content[8:12] == b"AVI "
    assert b"XVID" in content[:400]
    types = frame_types(path)
    assert types[0] == "I"
    assert types.count("B") > len(types) / 3
    frames = pyav_frames(path)
    expected = draw_film("Rising", 0, 2, 1, FRAMES)
    assert frames.shape == expected.shape
    assert np.abs(frames.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_lists_are_splits_by_group(folder, store, number):
    split = read_split(folder / LISTS, number, validation_groups=1)
    split = split.only_present(store.videos, allow_missing=False)
    assert split.classes == CLASSES
    assert {video.group for video in split.parts["test"]} == {number}
    assert [len(part) for part in split.parts.values()] == [20, 10, 10]
    for part in split.parts.values():
        for video in part:
            assert store.videos[video.key].action == CLASSES[video.label]


def test_the_preparation_reads_them(store):
    assert store.synthetic
    video = store.videos["v_turning_g01_c01"]
    assert (video.height, video.width, video.fps) == (40, 53, 25)
    lengths = {v.frames for key, v in store.videos.items() if "_g01_" in key}
    assert len(lengths) == 1  # films of a clip are equally long in all classes


def test_test_groups_are_ucf101_s():
    groups = [synthetic_video.test_groups(25, split) for split in (1, 2, 3)]
    assert [(g[0], g[-1]) for g in groups] == [(1, 7), (8, 14), (15, 21)]


def test_the_same_request_is_kept(folder):
    assert json.loads((folder / VIDEOS / "synthetic.json").read_text())["seed"] == 0
    path = folder / VIDEOS / "Rising" / "v_Rising_g02_c01.avi"
    before = path.stat().st_mtime_ns
    assert not write_synthetic_videos(folder, FEW, FRAMES)
    assert path.stat().st_mtime_ns == before


def test_another_request_overwrites_nothing(folder, tmp_path, monkeypatch):
    for other in (replace(FEW, seed=1), replace(FEW, clips=2)):
        with pytest.raises(ConfigError, match=r"something else .* not overwritten"):
            write_synthetic_videos(folder, other, FRAMES)
    with pytest.raises(ConfigError, match=r"something else .* not overwritten"):
        write_synthetic_videos(folder, FEW)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="not overwritten"):
        write_synthetic_videos(tmp_path, FEW)
    monkeypatch.setattr(synthetic_video, "_VERSION", 99)
    with pytest.raises(ConfigError, match="not overwritten"):
        write_synthetic_videos(folder, FEW, FRAMES)


def test_nothing_is_left_by_a_failure(tmp_path, monkeypatch):
    written = []

    def full(path, _frames):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    monkeypatch.setattr(synthetic_video, "write_avi", full)
    with pytest.raises(DataError, match="No space left on device"):
        write_synthetic_videos(tmp_path / "videos", FEW)
    assert len(written) == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"groups": 3}, {"clips": 0}, {"seed": -1}])
def test_impossible_requests(changes):
    with pytest.raises(ConfigError, match="must be at least"):
        SyntheticVideosConfig(**changes)
