"""The prepared store: any run of frames of any video, and what does not fit."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest
from video_oracle import numbered_frames, write_numbered_store

from psc.errors import ConfigError, DataError
from psc.video.store import PreparationSettings, PreparedVideos, read_index

LENGTHS = {"v_Archery_g01_c01": 20, "v_Archery_g01_c02": 7, "v_HandStandPushups_g02_c01": 30}


@pytest.fixture
def store(tmp_path):
    return write_numbered_store(tmp_path / "store", LENGTHS)


def test_videos_are_listed_by_key(store):
    assert set(store.videos) == {name.casefold() for name in LENGTHS}
    video = store.videos["v_handstandpushups_g02_c01"]
    assert (video.action, video.frames) == ("HandStandPushups", 30)
    assert not store.synthetic


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("part", [(0, None), (0, 1), (3, 7), (-1, None)])
def test_any_run_of_frames(store, name, part):
    expected = numbered_frames(LENGTHS[name], 12, 16)
    start, stop, _ = slice(*part).indices(LENGTHS[name])
    read = store.read(name.casefold(), start, stop)
    np.testing.assert_array_equal(read, expected[:, start:stop])
    read[:] = 0  # a copy: the store does not change
    np.testing.assert_array_equal(store.read(name.casefold(), start, stop), expected[:, start:stop])


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (-1, 3), (5, 5), (6, 8)])
def test_frames_that_a_video_does_not_have(store, start, stop):
    with pytest.raises(IndexError, match=f"v_archery_g01_c02: frames {start} to {stop} of 7"):
        store.read("v_archery_g01_c02", start, stop)


def read_into_queue(store, queue):
    queue.put(store.read("v_archery_g01_c01", 2, 4))


def test_workers_read_too(store):
    expected = store.read("v_archery_g01_c01", 2, 4)  # open in this process already
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=read_into_queue, args=(store, queue))
    worker.start()
    np.testing.assert_array_equal(queue.get(), expected)
    worker.join()
    np.testing.assert_array_equal(store.read("v_archery_g01_c01", 2, 4), expected)


def test_a_pickled_store_maps_its_own_files(store):
    before = len(pickle.dumps(store))
    expected = store.read("v_archery_g01_c01", 0, 20)
    pickled = pickle.dumps(store)
    assert len(pickled) == before
    np.testing.assert_array_equal(pickle.loads(pickled).read("v_archery_g01_c01", 0, 20), expected)


def test_no_store(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"holds no prepared videos; run: python scripts/data"):
            PreparedVideos(folder)


def test_a_store_of_an_earlier_version_says_how_to_make_it_anew(tmp_path):
    (tmp_path / "Archery.h5").write_bytes(b"")
    with pytest.raises(DataError, match=r"earlier version .* delete it and run: python scripts/"):
        PreparedVideos(tmp_path)


def test_a_shard_that_breaks_off_or_is_gone(store):
    path = store.folder / "HandStandPushups.u8"
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 1)
    for _ in range(2):
        with pytest.raises(DataError, match=r"frames of 1 videos .* v_handstand.*prepare again"):
            PreparedVideos(store.folder)
        path.unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"HandStandPushups\.u8 cannot be read"):
        store.read("v_handstandpushups_g02_c01", 0, 30)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"settings": {}}', b"\xff"])
def test_a_damaged_index(store, content):
    path = store.folder / "index.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"index\.json is damaged .* delete .* scripts/data\.py"):
        PreparedVideos(store.folder)


def test_the_record_stands_for_the_content(store, tmp_path):
    record = store.record()
    assert (record["videos"], record["frames"], record["synthetic"]) == (3, 57, False)
    again = write_numbered_store(tmp_path / "again", LENGTHS)
    assert again.record() == record
    other = write_numbered_store(tmp_path / "other", LENGTHS | {"v_Archery_g01_c02": 8})
    assert other.record()["sha256"] != record["sha256"]


def test_settings_must_be_those_asked_for(store):
    PreparedVideos(store.folder, PreparationSettings(size=(12, 16)))
    with pytest.raises(DataError, match=r"size is \(12, 16\), not \(12, 18\)\. Ask for those"):
        PreparedVideos(store.folder, PreparationSettings(size=(12, 18)))


@pytest.mark.parametrize(
    ("settings", "source", "expected"),
    [
        ({}, (240, 320), (80, 107)),  # the paper's clips
        ({"short_side": 112}, (240, 320), (112, 149)),
        ({}, (320, 240), (107, 80)),  # upright
        ({}, (80, 80), (80, 80)),
        ({}, (40, 50), (80, 100)),  # enlarged
        ({"size": (64, 64)}, (240, 320), (64, 64)),
    ],
)
def test_frame_sizes(settings, source, expected):
    assert PreparationSettings(**settings).frame_size(*source) == expected


@pytest.mark.parametrize("settings", [{"short_side": 0}, {"size": (64, 0)}])
def test_impossible_sizes(settings):
    with pytest.raises(ConfigError, match="positive pixels"):
        PreparationSettings(**settings)


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ({}, {}, ""),
        ({"short_side": 80}, {"short_side": 112}, "short_side is 80, not 112"),
        ({"size": (64, 64)}, {"size": (64, 80)}, "size is (64, 64), not (64, 80)"),
        # an exact size makes the short side meaningless
        ({"size": (64, 64), "short_side": 1}, {"size": (64, 64), "short_side": 2}, ""),
        ({"version": 1}, {"version": 2}, "version is 1, not 2"),
    ],
)
def test_differences_are_named(one, other, difference):
    assert PreparationSettings(**one).differences(PreparationSettings(**other)) == difference


def test_an_index_survives_json(store):
    index = read_index(store.folder)
    assert (index.settings, index.videos) == (store.settings, store.videos)
    assert json.loads((store.folder / "index.json").read_text())["synthetic"] is False
