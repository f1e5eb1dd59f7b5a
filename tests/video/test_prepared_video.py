import multiprocessing
import pickle

import h5py
import numpy as np
import pytest
from video_oracle import numbered_frames, write_numbered_store

from psc.errors import DataError
from psc.video.manifest import FRAMES, PreparationSettings
from psc.video.store import PreparedVideos

LENGTHS = {"v_Archery_g01_c01": 20, "v_Archery_g01_c02": 7, "v_HandStandPushups_g02_c01": 30}


@pytest.fixture
def store(tmp_path):
    return write_numbered_store(tmp_path / "store", LENGTHS)


def test_videos_are_listed_by_key(store):
    assert set(store.videos) == {name.casefold() for name in LENGTHS}
    video = store.videos["v_handstandpushups_g02_c01"]
    assert (video.name, video.frames, video.group) == ("v_HandStandPushups_g02_c01", 30, 2)
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
    with pytest.raises(IndexError, match=f"v_Archery_g01_c02: frames {start} to {stop} of 7"):
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


def test_a_pickled_store_opens_its_own_files(store):
    before = len(pickle.dumps(store))
    expected = store.read("v_archery_g01_c01", 0, 20)
    pickled = pickle.dumps(store)
    assert len(pickled) == before
    store.close()
    np.testing.assert_array_equal(pickle.loads(pickled).read("v_archery_g01_c01", 0, 20), expected)


def test_closed_files_open_again(store):
    store.read("v_archery_g01_c01", 0, 2)
    store.close()
    assert store.read("v_archery_g01_c01", 0, 2).shape == (3, 2, 12, 16)


def test_settings_must_be_those_asked_for(store):
    PreparedVideos(store.folder, PreparationSettings(size=(12, 16)))
    with pytest.raises(DataError, match=r"size is \(12, 16\), not \(12, 18\)\. Ask for those"):
        PreparedVideos(store.folder, PreparationSettings(size=(12, 18)))


def test_no_store(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"holds no prepared videos; run: python scripts"):
            PreparedVideos(folder)


def test_shards_that_contradict_each_other(store):
    other = store.folder / "other"
    write_numbered_store(other, {"v_Biking_g01_c01": 5}, height=6)
    (other / "Biking.h5").rename(store.folder / "Biking.h5")
    with pytest.raises(DataError, match=r"Biking\.h5 was prepared with other settings: size"):
        PreparedVideos(store.folder)
    write_numbered_store(other, {"v_Biking_g01_c01": 5}, synthetic=True)
    (other / "Biking.h5").rename(store.folder / "Biking.h5")
    with pytest.raises(DataError, match="mixes synthetic and real"):
        PreparedVideos(store.folder)
    write_numbered_store(other, {"v_Archery_g01_c01": 5})
    (other / "Archery.h5").rename(store.folder / "Biking.h5")
    with pytest.raises(DataError, match=r"v_Archery_g01_c01 is in .*Biking\.h5 and .*Archery\.h5"):
        PreparedVideos(store.folder)


def test_a_shard_that_breaks_off(store):
    path = store.folder / "HandStandPushups.h5"
    with h5py.File(path) as file:
        offset = file[f"{FRAMES}/v_handstandpushups_g02_c01"].id.get_offset()
    store.read("v_handstandpushups_g02_c01", 0, 30)  # open by now
    with path.open("rb+") as file:
        file.truncate(offset + 100)
    with pytest.raises(DataError, match=r"HandStandPushups\.h5 cannot be read \(it ends within v_"):
        store.read("v_handstandpushups_g02_c01", 0, 30)
    store.close()
    with pytest.raises(DataError, match=r"HandStandPushups\.h5 cannot be read .*delete it and run"):
        store.read("v_handstandpushups_g02_c01", 0, 30)


def test_a_shard_in_another_layout(store):
    path = store.folder / "HandStandPushups.h5"
    with h5py.File(path, "r+") as file:
        del file[f"{FRAMES}/v_handstandpushups_g02_c01"]
        file.create_dataset(
            f"{FRAMES}/v_handstandpushups_g02_c01",
            data=numbered_frames(30, 12, 16),
            compression="gzip",
        )
    with pytest.raises(DataError, match="not in one piece"):
        store.read("v_handstandpushups_g02_c01", 0, 30)


def test_the_record_stands_for_the_content(store, tmp_path):
    record = store.record()
    assert (record["videos"], record["frames"], record["synthetic"]) == (3, 57, False)
    again = write_numbered_store(tmp_path / "again", LENGTHS)
    assert again.record() == record
    other = write_numbered_store(tmp_path / "other", LENGTHS | {"v_Archery_g01_c02": 8})
    assert other.record()["sha256"] != record["sha256"]
