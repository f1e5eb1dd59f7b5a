"""Preparing folders of videos: complete, resumed, in parallel, with everything that goes wrong."""

import multiprocessing
import os
import resource
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from video_oracle import rolling_picture

from psc.errors import ConfigError, DataError
from psc.files import sha256_of, try_lock
from psc.video import preparation
from psc.video.decoding import Video, decode_video
from psc.video.preparation import prepare_videos
from psc.video.store import PreparationSettings, PreparedVideos
from psc.video.synthetic import write_avi

SETTINGS = PreparationSettings(short_side=24)
LENGTHS = {
    "Archery/v_Archery_g01_c01": 20,
    "Archery/v_Archery_g01_c02": 12,
    "Biking/v_Biking_g02_c01": 30,
    "HandstandPushups/v_HandStandPushups_g01_c01": 5,
}


def write_film(path, frames, seed=0):
    write_avi(path, rolling_picture(frames, seed=seed))


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
    return prepare_videos(folder, output, SETTINGS, **options)


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
    progress = []
    report = prepare(films, output, on_progress=lambda *done: progress.append(done))
    assert (len(report.prepared), report.kept, report.unreadable) == (4, 0, ())
    assert [total for _, total in progress] == [4, 4, 4]
    assert sorted(np.diff([0, *(done for done, _ in progress)])) == [1, 1, 2]
    store = assert_complete(output, films)
    video = store.videos["v_handstandpushups_g01_c01"]
    assert video.action == "HandStandPushups"
    assert video.source == "HandstandPushups/v_HandStandPushups_g01_c01.avi"
    assert video.sha256 == sha256_of(films / video.source)
    assert not store.synthetic


def test_what_is_concealed_is_counted(folder, output):
    """A film with a picture lost: index, report and record have its number."""
    path = folder / "Biking/v_Biking_g02_c01.avi"
    content = bytearray(path.read_bytes())
    start = content.index(b"00dc", len(content) // 2) + 8
    size = int.from_bytes(content[start - 4 : start], "little")
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    report = prepare(folder, output)
    (told,) = [video for video in report.prepared if video.concealed]
    store = assert_complete(output, folder)
    assert store.videos["v_biking_g02_c01"].concealed == told.concealed >= 1
    assert store.record()["concealed_frames"] == told.concealed


def test_a_worker_that_dies_is_explained(films, output, monkeypatch):
    class Dying(ThreadPoolExecutor):
        def __init__(self, workers, context, initializer):
            super().__init__(workers)

        def submit(self, *_arguments, **_options):
            def die():
                raise BrokenProcessPool

            return super().submit(die)

    monkeypatch.setattr(preparation, "ProcessPoolExecutor", Dying)
    with pytest.raises(DataError, match=r"worker process was ended .* with fewer workers"):
        prepare(films, output, workers=2)


def test_what_is_done_is_not_done_again(films, output, monkeypatch):
    prepare(films, output)
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    monkeypatch.setattr(preparation, "decode_video", None)
    report = prepare(films, output)
    assert (len(report.prepared), report.kept) == (0, 4)
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

    monkeypatch.setattr(preparation, "decode_video", noting)
    report = prepare(folder, output)
    assert (len(report.prepared), report.kept) == (2, 2)
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
    assert len(report.prepared) == 4
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
    assert "it begins with b'no video'" in reasons["Punch/v_Punch_g01_c01.avi"]
    assert "v_<class>_g<group>_c<clip>" in reasons["holiday.avi"]
    store = assert_complete(output, folder)
    assert set(store.unreadable) == {
        Path(source).stem.casefold() for source in reasons if source != "holiday.avi"
    }
    # Nothing is tried again in vain, and the report is the same; a repaired file is prepared.
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "decode_video", None)
        again = prepare(folder, output)
    assert {video.source: video.reason for video in again.unreadable} == reasons
    assert (len(again.prepared), again.kept) == (0, 4)
    write_film(folder / "Punch/v_Punch_g01_c01.avi", 8)
    repaired = prepare(folder, output)
    assert (len(repaired.prepared), len(repaired.unreadable)) == (1, 4)
    assert_complete(output, folder, LENGTHS | {"Punch/v_Punch_g01_c01": 8})


def fake_frames(path, _frame_size):
    """In place of a decoder, which a forked process cannot use: frames that the file tells."""
    return Video(np.full((3, 7, 24, 32), path.read_bytes()[-1], np.uint8), 25.0)


def prepare_and_die(films, output, where, count):
    """Until the ``count``th decoding or writing of the index."""
    calls = []

    def deadly(original):
        def call(*arguments):
            calls.append(0)
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        return call

    if where == "decode":
        preparation.decode_video = deadly(fake_frames)
    else:
        preparation.Index.write = deadly(preparation.Index.write)
    prepare(films, output)


@pytest.mark.parametrize(
    ("where", "count", "complete"),
    [("decode", 4, 1), ("index", 1, 0), ("index", 3, 2)],
)
def test_a_killed_preparation_resumes(films, output, monkeypatch, where, count, complete):
    monkeypatch.setattr(preparation, "decode_video", fake_frames)
    process = multiprocessing.get_context("fork").Process(
        target=prepare_and_die, args=(films, output, where, count)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (output / "index.json").exists() == bool(complete)
    if complete:
        assert 1 <= len(PreparedVideos(output, SETTINGS).videos) < 4  # whole already
    report = prepare(films, output)
    assert len(report.prepared) + report.kept == 4
    assert (report.kept > 0) == bool(complete)
    prepare(films, output.parent / "at once")
    store, expected = PreparedVideos(output), PreparedVideos(output.parent / "at once")
    assert store.record() == expected.record()
    for key in expected.videos:
        np.testing.assert_array_equal(store.read(key, 0, 7), expected.read(key, 0, 7))
        assert store.videos[key].offset == expected.videos[key].offset  # nothing lies between


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
    before = (output / "index.json").read_bytes()
    write_film(folder / "Archery/v_Archery_g02_c01.avi", 60)
    with (
        largest_file(90_000),
        pytest.raises(DataError, match=r"cannot be written \(File too large"),
    ):
        prepare(folder, output)
    assert (output / "index.json").read_bytes() == before
    assert_complete(output, folder)
    assert len(prepare(folder, output).prepared) == 1
    assert_complete(output, folder, LENGTHS | {"Archery/v_Archery_g02_c01": 60})


def test_too_little_space_is_noticed_before_anything_is_decoded(films, output, monkeypatch):
    needed = []
    monkeypatch.setattr(preparation, "require_free_space", lambda _, size, __: needed.append(size))
    prepare(films, output)
    prepare(films, output)
    pixels = sum(LENGTHS.values()) * 24 * 32 * 3
    assert needed == [pixels, 0]

    def refuse(folder, size, purpose):
        raise DataError(f"{purpose} needs {size} in {folder}")

    monkeypatch.setattr(preparation, "require_free_space", refuse)
    monkeypatch.setattr(preparation, "decode_video", None)
    with pytest.raises(DataError, match="The prepared store needs"):
        prepare(films, output.parent / "other")
    assert not (output.parent / "other").exists()


def test_a_store_of_other_settings_is_refused(films, output):
    prepare(films, output)
    with pytest.raises(DataError, match=r"other settings: short_side is 24, not 48\. Ask for"):
        prepare_videos(films, output, PreparationSettings(short_side=48))
    assert_complete(output, films)


def test_synthetic_videos_do_not_mix_with_real_ones(folder, output):
    prepare(folder, output)
    (folder / "synthetic.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds real videos, .* holds synthetic ones"):
        prepare(folder, output)
    prepare(folder, output.parent / "other")
    assert PreparedVideos(output.parent / "other").synthetic


@pytest.mark.parametrize("left", [None, 100])
def test_frames_that_are_lost_are_prepared_again(films, output, left):
    prepare(films, output)
    path = output / "Archery.u8"
    path.unlink() if left is None else os.truncate(path, path.stat().st_size - left)
    report = prepare(films, output)
    assert (len(report.prepared), report.kept) == ((2, 2) if left is None else (1, 3))
    assert_complete(output, films)


def test_a_damaged_index_is_not_taken_for_a_good_one(films, output):
    prepare(films, output)
    (output / "index.json").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"index\.json is damaged"):
        prepare(films, output)


def test_a_store_of_an_earlier_version_is_not_mixed_with(films, output):
    output.mkdir(parents=True)
    (output / "Biking.h5").write_bytes(b"")
    with pytest.raises(DataError, match=r"earlier version .* delete it and run"):
        prepare(films, output)


def test_what_systems_put_beside_films_is_no_film(folder, output):
    for name in (".hidden.avi", "._v_Archery_g01_c01.avi", "@eaDir/v_Archery_g09_c01.avi"):
        path = folder / "Archery" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no film")
    assert prepare(folder, output).unreadable == ()
    assert_complete(output, folder)


def test_two_preparations_do_not_meet(films, output):
    lock = try_lock(output / ".lock")
    with lock, pytest.raises(DataError, match=r"is being prepared by process \d+"):
        prepare(films, output)
    prepare(films, output)


def test_a_folder_that_cannot_be_written(films, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written .*choose another folder"):
        prepare(films, tmp_path / "file" / "prepared")


def test_folders_without_videos(tmp_path, output):
    with pytest.raises(DataError, match="is not a folder"):
        prepare(tmp_path / "nowhere", output)
    (tmp_path / "holiday.avi").write_bytes(b"")
    with pytest.raises(DataError, match="holds no v_<class>"):
        prepare(tmp_path, output)


def test_a_video_that_is_there_twice(folder, output):
    (folder / "HandStandPushups").mkdir()
    shutil.copy(
        folder / "HandstandPushups/v_HandStandPushups_g01_c01.avi",
        folder / "HandStandPushups/v_HandstandPushups_g01_c01.avi",
    )
    with pytest.raises(DataError, match="have the name of the same video; delete one"):
        prepare(folder, output)


def test_at_least_one_worker(films, output):
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        prepare(films, output, workers=0)
