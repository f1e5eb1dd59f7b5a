"""The stand-in, from films to the prepared store: only motion tells its classes."""

import json

import numpy as np
import pytest
from video_oracle import assert_same_frames, channels_first, frame_types, pyav_frames

from psc.errors import ConfigError, DataError
from psc.video import synthetic as synthetic_video
from psc.video.data import read_split
from psc.video.manifest import PreparationSettings
from psc.video.store import PreparedVideos, prepare_videos, scan_videos
from psc.video.synthetic import (
    CLASSES,
    LISTS,
    PICTURES,
    VIDEOS,
    SyntheticVideos,
    draw_scene,
    film,
    write_synthetic_videos,
)

FEW = SyntheticVideos(groups=4, clips=1, frames=(48, 56))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "new" / "videos"
    assert write_synthetic_videos(path, FEW)
    return path


@pytest.fixture(scope="module")
def store(folder):
    output = folder.parent / "prepared"
    report = prepare_videos(scan_videos(folder / VIDEOS), output, PreparationSettings())
    assert (report.prepared, report.unreadable) == (24, ())
    return PreparedVideos(output)


def test_films_are_encoded_as_ucf101_s_are(folder):
    path = folder / VIDEOS / "BeadsRising" / "v_BeadsRising_g02_c01.avi"
    content = path.read_bytes()
    assert content[:4] == b"RIFF"
    assert content[8:12] == b"AVI "
    assert b"XVID" in content[:400]
    types = frame_types(path)
    assert types[0] == "I"
    assert types.count("B") > len(types) / 3
    frames = pyav_frames(path)
    assert frames.shape[1:] == (240, 320, 3)
    expected = film(draw_scene(0, 2, 1, FEW.frames), "BeadsRising")
    assert len(frames) == len(expected)
    assert np.abs(frames.astype(int) - expected).mean() < 3


def test_the_preparation_reads_them(folder, store):
    assert store.synthetic
    assert len(store.videos) == 24
    path = folder / VIDEOS / "DiscsGrowing" / "v_DiscsGrowing_g01_c01.avi"
    video = store.videos["v_discsgrowing_g01_c01"]
    assert (video.height, video.width, video.fps) == (80, 107, 25)
    assert video.frames == len(pyav_frames(path))
    full = prepare_videos(
        scan_videos(path.parent), folder.parent / "full", PreparationSettings(size=(240, 320))
    )
    assert full.prepared == 4
    frames = PreparedVideos(folder.parent / "full").read(video.key, 0, video.frames)
    assert_same_frames(frames, channels_first(pyav_frames(path)))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_lists_are_splits_by_group(folder, store, number):
    split = read_split(folder / LISTS, number, validation_groups=1)
    split = split.only_present(store.videos, allow_missing=False)
    assert split.classes == CLASSES
    assert {video.group for video in split.test} == {number}
    assert [len(part) for part in split.parts.values()] == [12, 6, 6]
    for part in split.parts.values():
        for video in part:
            assert store.videos[video.key].action == CLASSES[video.label]


def test_test_groups_are_ucf101_s():
    videos = SyntheticVideos()
    assert [(g[0], g[-1]) for g in map(videos.test_groups, (1, 2, 3))] == [
        (1, 7),
        (8, 14),
        (15, 21),
    ]


def test_a_single_prepared_frame_does_not_tell_the_class(store):
    """Encoding might leave traces of the motion in the pictures: they are far below a grey level.

    The same picture of the same scene, in two classes, is the same but for the codec's rounding;
    pictures of one film differ ten times as much.
    """
    for group in range(1, 5):
        scene = draw_scene(0, group, 1, FEW.frames)
        pictures = {}
        for action in CLASSES:
            frames = store.read(f"v_{action}_g{group:02d}_c01".casefold(), 0, scene.frames)
            order = scene.order(action)
            of_picture = [frames[:, order == j].mean(1) for j in range(PICTURES)]
            pictures[action] = np.stack(of_picture)
        everything = np.stack(list(pictures.values()))
        between_classes = np.abs(everything - everything.mean(0)).mean()
        between_pictures = np.abs(everything - everything.mean(1, keepdims=True)).mean()
        assert between_classes < 0.3
        assert between_classes < 0.1 * between_pictures
        # Nor is any class brighter, more contrasted or more detailed than the others.
        for statistic in (np.mean, np.std, lambda p: np.abs(np.diff(p, axis=-1)).mean()):
            values = [statistic(pictures[action]) for action in CLASSES]
            assert max(values) - min(values) < 0.01 * np.mean(values)


def test_films_of_a_clip_are_equally_long_in_all_classes(store):
    for group in range(1, 5):
        lengths = {store.videos[f"v_{a}_g{group:02d}_c01".casefold()].frames for a in CLASSES}
        assert len(lengths) == 1


def test_it_is_marked_as_what_it_is(folder):
    marker = json.loads((folder / VIDEOS / "synthetic.json").read_text())
    assert marker["seed"] == 0
    assert scan_videos(folder / VIDEOS).synthetic


def test_the_same_request_is_kept(folder):
    path = folder / VIDEOS / "BeadsRising" / "v_BeadsRising_g02_c01.avi"
    before = path.stat().st_mtime_ns
    assert not write_synthetic_videos(folder, FEW)
    assert path.stat().st_mtime_ns == before


def test_another_request_overwrites_nothing(folder, tmp_path, monkeypatch):
    for other in (SyntheticVideos(seed=1, groups=4, clips=1, frames=(48, 56)), SyntheticVideos()):
        with pytest.raises(ConfigError, match=r"something else .* not overwritten"):
            write_synthetic_videos(folder, other)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="not overwritten"):
        write_synthetic_videos(tmp_path, FEW)
    monkeypatch.setattr(synthetic_video, "_VERSION", 99)
    with pytest.raises(ConfigError, match="not overwritten"):
        write_synthetic_videos(folder, FEW)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, "groups >= 4"),
        ({"clips": 0}, "clips >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"frames": (10, 9)}, "increasing range"),
        ({"frames": (0, 9)}, "increasing range"),
    ],
)
def test_impossible_requests(changes, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticVideos(**changes)
