"""Preparing folders of videos: complete, resumed, in parallel, with everything that goes wrong."""

import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from psc.errors import ConfigError, DataError
from psc.files import try_lock
from psc.video import store as video_preparation
from psc.video import store as video_shards
from psc.video.decoding import decode_video
from psc.video.manifest import PreparationSettings
from psc.video.store import PreparedVideos, prepare_videos, scan_videos
from psc.video.synthetic import write_avi

SETTINGS = PreparationSettings(short_side=24)
LENGTHS = {
    "Archery/v_Archery_g01_c01": 20,
    "Archery/v_Archery_g01_c02": 12,
    "Biking/v_Biking_g02_c01": 30,
    "HandstandPushups/v_HandStandPushups_g01_c01": 5,
}


def write_film(path, frames, seed=0):
    rng = np.random.default_rng([seed, frames])
    picture = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    write_avi(path, np.stack([np.roll(picture, 3 * t, 1) for t in range(frames)]))


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films") / "UCF-101"
    for name, frames in LENGTHS.items():
        write_film(folder / f"{name}.avi", frames)
    return folder


@pytest.fixture
def folder(films, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(films, tmp_path / "UCF-101")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "new" / "prepared"


def prepare(folder, output, **options):
    return prepare_videos(scan_videos(folder), output, SETTINGS, **options)


def assert_complete(output, folder, lengths=LENGTHS):
    """The store holds these videos, as a fresh decode gives them, and nothing is left over."""
    store = PreparedVideos(output, SETTINGS)
    assert set(store.videos) == {name.split("/")[1].casefold() for name in lengths}
    for name, frames in lengths.items():
        key = name.split("/")[1].casefold()
        video = decode_video(folder / f"{name}.avi", SETTINGS.frame_size)
        np.testing.assert_array_equal(store.read(key, 0, frames), video.frames)
        assert store.videos[key].fps == video.fps == 25
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    return store


def test_everything_is_prepared_with_what_is_known_of_it(films, output):
    reports = []
    report = prepare(films, output, on_progress=reports.append)
    assert (report.prepared, report.kept, report.unreadable) == (4, 0, ())
    assert sorted(len(part) for part in reports) == [1, 1, 2]
    store = assert_complete(output, films)
    video = store.videos["v_handstandpushups_g01_c01"]
    assert (video.action, video.group, video.clip) == ("HandStandPushups", 1, 1)
    assert video.source == "HandstandPushups/v_HandStandPushups_g01_c01.avi"
    told = subprocess.run(
        ["sha256sum", films / video.source], capture_output=True, text=True, check=True
    )
    assert video.sha256 == told.stdout.split()[0]
    assert not store.synthetic


def test_processes_give_the_same_store(films, output, tmp_path):
    prepare(films, output, workers=2)
    prepare(films, tmp_path / "alone")
    assert assert_complete(output, films).record() == PreparedVideos(tmp_path / "alone").record()


def test_a_worker_that_dies_is_explained(films, output, monkeypatch):
    class Dying(ThreadPoolExecutor):
        def __init__(self, workers, context, initializer):
            super().__init__(workers)

        def submit(self, *_arguments, **_options):
            def die():
                raise BrokenProcessPool

            return super().submit(die)

    monkeypatch.setattr(video_preparation, "ProcessPoolExecutor", Dying)
    with pytest.raises(DataError, match=r"worker process was ended .* with fewer workers"):
        prepare(films, output, workers=2)


def test_what_is_done_is_not_done_again(films, output, monkeypatch):
    prepare(films, output)
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    monkeypatch.setattr(video_shards, "decode_video", None)
    report = prepare(films, output)
    assert (report.prepared, report.kept) == (0, 4)
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


def test_only_what_is_new_or_changed_is_decoded(folder, output, monkeypatch):
    prepare(folder, output)
    write_film(folder / "Archery/v_Archery_g02_c01.avi", 9)
    write_film(folder / "Archery/v_Archery_g01_c02.avi", 15, seed=1)
    (folder / "Biking/v_Biking_g02_c01.avi").unlink()  # to save space: its frames stay
    decoded = []

    def noting(path, size):
        decoded.append(path.name)
        return decode_video(path, size)

    monkeypatch.setattr(video_shards, "decode_video", noting)
    report = prepare(folder, output)
    assert (report.prepared, report.kept) == (2, 2)
    assert sorted(decoded) == ["v_Archery_g01_c02.avi", "v_Archery_g02_c01.avi"]
    write_film(folder / "Biking/v_Biking_g02_c01.avi", 30)
    changed = {"Archery/v_Archery_g01_c02": 15, "Archery/v_Archery_g02_c01": 9}
    assert_complete(output, folder, LENGTHS | changed)


def test_what_cannot_be_decoded_is_reported_and_stops_nothing(folder, output, monkeypatch):
    whole = (folder / "Biking/v_Biking_g02_c01.avi").read_bytes()
    (folder / "Biking/v_Biking_g02_c02.avi").write_bytes(whole[: len(whole) // 2])
    (folder / "Archery/v_Archery_g03_c01.avi").write_bytes(b"")
    (folder / "Archery/v_Archery_g03_c02.avi").write_text("no video")
    (folder / "Punch").mkdir()
    (folder / "Punch/v_Punch_g01_c01.avi").write_text("no video")
    (folder / "holiday.avi").write_bytes(whole)
    report = prepare(folder, output)
    assert report.prepared == 4
    reasons = {video.source: video.reason for video in report.unreadable}
    assert set(reasons) == {
        "Biking/v_Biking_g02_c02.avi",
        "Archery/v_Archery_g03_c01.avi",
        "Archery/v_Archery_g03_c02.avi",
        "Punch/v_Punch_g01_c01.avi",
        "holiday.avi",
    }
    assert "damaged" in reasons["Biking/v_Biking_g02_c02.avi"]
    assert "is empty" in reasons["Archery/v_Archery_g03_c01.avi"]
    assert "not an AVI file" in reasons["Punch/v_Punch_g01_c01.avi"]
    assert "v_<class>_g<group>_c<clip>" in reasons["holiday.avi"]
    store = assert_complete(output, folder)
    assert set(store.unreadable) == {
        Path(source).stem.casefold() for source in reasons if source != "holiday.avi"
    }
    # Nothing is tried again in vain, and the report is the same; a repaired file is prepared.
    with monkeypatch.context() as patch:
        patch.setattr(video_shards, "decode_video", None)
        again = prepare(folder, output)
    assert {video.source: video.reason for video in again.unreadable} == reasons
    assert (again.prepared, again.kept) == (0, 4)
    write_film(folder / "Punch/v_Punch_g01_c01.avi", 8)
    repaired = prepare(folder, output)
    assert (repaired.prepared, len(repaired.unreadable)) == (1, 4)
    assert_complete(output, folder, LENGTHS | {"Punch/v_Punch_g01_c01": 8})


KILLED = """
import os, signal, sys
from pathlib import Path
from psc.volumes import video_shards
from psc.video.manifest import PreparationSettings
from psc.video.store import prepare_videos, scan_videos

name, count = sys.argv[3], int(sys.argv[4])
original, calls = getattr(video_shards, name), []

def deadly(*arguments):
    calls.append(0)
    if len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

setattr(video_shards, name, deadly)
settings = PreparationSettings(short_side=24)
prepare_videos(scan_videos(Path(sys.argv[1])), Path(sys.argv[2]), settings)
"""


@pytest.mark.parametrize(
    ("where", "count", "complete"),
    [
        ("decode_video", 3, 1),  # within the second class
        ("_sync", 1, 0),  # a shard is written, but has not got its name
    ],
)
def test_a_killed_preparation_resumes(films, output, where, count, complete):
    program = [sys.executable, "-c", KILLED, films, output, where, str(count)]
    assert subprocess.run(program, check=False).returncode == -9
    assert len(list(output.glob("*.h5"))) == complete
    assert len(list(output.glob(".*.tmp"))) == 1
    if complete:
        assert len(PreparedVideos(output, SETTINGS).videos) in (1, 2)  # whole already
    report = prepare(films, output)
    assert report.prepared + report.kept == 4
    assert (report.kept > 0) == bool(complete)
    assert_complete(output, films)


@contextmanager
def largest_file(size):
    """No file of this process can grow beyond this: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_nothing(folder, output):
    prepare(folder, output)
    before = {path: path.read_bytes() for path in output.iterdir()}
    write_film(folder / "Archery/v_Archery_g02_c01.avi", 60)
    with largest_file(60_000), pytest.raises(DataError, match=r"Archery\.h5 cannot be written"):
        prepare(folder, output)
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    assert prepare(folder, output).prepared == 1
    assert_complete(output, folder, LENGTHS | {"Archery/v_Archery_g02_c01": 60})


def test_too_little_space_is_noticed_before_anything_is_decoded(films, output, monkeypatch):
    needed = []
    monkeypatch.setattr(
        video_preparation, "require_free_space", lambda _, size, __: needed.append(size)
    )
    prepare(films, output)
    prepare(films, output)
    pixels = sum(LENGTHS.values()) * 24 * 32 * 3
    assert needed == [pixels, 0]

    def refuse(folder, size, purpose):
        raise DataError(f"{purpose} needs {size} in {folder}")

    monkeypatch.setattr(video_preparation, "require_free_space", refuse)
    monkeypatch.setattr(video_shards, "decode_video", None)
    with pytest.raises(DataError, match="The prepared store needs"):
        prepare(films, output.parent / "other")
    assert not (output.parent / "other").exists()


def test_a_store_of_other_settings_is_refused(films, output):
    prepare(films, output)
    with pytest.raises(DataError, match=r"other settings: short_side is 24, not 48\. Ask for"):
        prepare_videos(scan_videos(films), output, PreparationSettings(short_side=48))
    assert_complete(output, films)


def test_synthetic_videos_do_not_mix_with_real_ones(folder, output):
    prepare(folder, output)
    (folder / "synthetic.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds real videos, .* holds synthetic ones"):
        prepare(folder, output)
    prepare(folder, output.parent / "other")
    assert PreparedVideos(output.parent / "other").synthetic


def test_a_damaged_shard_is_not_taken_for_a_good_one(films, output):
    prepare(films, output)
    (output / "Biking.h5").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"Biking\.h5 is no shard .* delete it and run"):
        prepare(films, output)
    (output / "Biking.h5").unlink()
    assert prepare(films, output).prepared == 1
    assert_complete(output, films)


def test_what_a_killed_process_left_of_another_folder_is_removed(films, output):
    output.mkdir(parents=True)
    (output / ".Juggling.h5.tmp").write_bytes(b"half a shard")
    prepare(films, output)
    assert_complete(output, films)


def test_two_preparations_do_not_meet(films, output):
    lock = try_lock(output / ".lock")
    with lock, pytest.raises(DataError, match=r"is being prepared by process \d+"):
        prepare(films, output)
    prepare(films, output)


def test_a_folder_that_cannot_be_written(films, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written .*choose another folder"):
        prepare(films, tmp_path / "file" / "prepared")


def test_folders_without_videos(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        scan_videos(tmp_path / "nowhere")
    (tmp_path / "holiday.avi").write_bytes(b"")
    with pytest.raises(DataError, match="holds no v_<class>"):
        scan_videos(tmp_path)


def test_a_video_that_is_there_twice(folder):
    (folder / "HandStandPushups").mkdir()
    shutil.copy(
        folder / "HandstandPushups/v_HandStandPushups_g01_c01.avi",
        folder / "HandStandPushups/v_HandstandPushups_g01_c01.avi",
    )
    with pytest.raises(DataError, match="have the name of the same video; delete one"):
        scan_videos(folder)


def test_at_least_one_worker(films, output):
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        prepare(films, output, workers=0)
