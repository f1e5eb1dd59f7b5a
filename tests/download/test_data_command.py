"""scripts/data.py against a server on this machine and tiny films: nothing twice, nothing half."""

import csv
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from rar_writer import rar4
from web_server import Site, serving, wait_until

from psc.config.choices import FIBSEM_FILES
from psc.download.download import source_files
from psc.em.data import read_volume
from psc.video.preparation import prepare_videos
from psc.video.store import PreparationSettings, PreparedVideos
from psc.video.synthetic import write_avi

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "data.py"
sys.path.insert(0, str(SCRIPT.parent))
import data  # noqa: E402

RAR, ZIP = "UCF101.rar", "UCF101TrainTestSplits-RecognitionTask.zip"
CLIPS = {
    "UCF-101/Archery/v_Archery_g08_c01.avi": b"clip one",
    # As the archive spells it; the lists write HandStandPushups.
    "UCF-101/HandstandPushups/v_HandstandPushups_g01_c01.avi": b"clip two",
}
LISTS = dict.fromkeys(data.LIST_FILES, b"") | {
    "classInd.txt": b"1 Archery\n2 HandStandPushups\n",
    "trainlist01.txt": b"Archery/v_Archery_g08_c01.avi 1\r\n\r\n",
    "testlist01.txt": b"HandStandPushups/v_HandStandPushups_g01_c01.avi\n",
}


def call(*arguments):
    """Exit status, or message, of the command, run in this process."""
    try:
        data.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code
    return 0


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(f"ucfTrainTestlist/{name}", content)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def site():
    archive = rar4([{"name": name, "content": content} for name, content in CLIPS.items()])
    with serving(Site({f"/{RAR}": archive, f"/{ZIP}": zipped(LISTS)})) as site:
        yield site


@pytest.fixture
def unpacks(unrar):
    """An unrar is there that unpacks the clips."""
    unrar(CLIPS.values())


@pytest.fixture
def get(site, tmp_path, capsys):
    """Function: download parts of UCF101; returns the exit code and what was printed."""
    listing = tmp_path / "sources.yaml"
    files = [
        {"path": f"data/ucf101/{RAR}", "size": "6.5 GB"},
        {"path": f"data/ucf101/{ZIP}", "size": "unknown"},
    ]
    for file in files:
        file |= {"url": f"{site.url}/{Path(file['path']).name}", "sha256": "unknown"}
    listing.write_text(yaml.safe_dump({"ucf101": {"files": files}}))

    def run(*steps):
        code = 0
        for step in steps:
            if not code:
                folder = tmp_path / "ucf101"
                code = call("ucf101", "--folder", folder, "--sources", listing, "--only", *step)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


BOTH = (["splits"], ["videos"])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def paths(site):
    return [path for _, path, _ in site.requests]


def test_both_parts(get, site, unpacks, tmp_path):
    code, printed = get(*BOTH)
    folder = tmp_path / "ucf101"
    assert code == 0
    assert f"{RAR} (6.5 GB)" in printed
    assert f"{folder / 'ucfTrainTestlist'}: 7 files" in printed
    assert f"{folder / 'UCF-101'}: 2 files" in printed
    assert names(folder) == ["UCF-101", "downloads.json", "ucfTrainTestlist"]
    for name, content in CLIPS.items():
        assert (folder / name).read_bytes() == content
    for name, content in LISTS.items():
        assert (folder / "ucfTrainTestlist" / name).read_bytes() == content

    notes = json.loads((folder / "downloads.json").read_text())
    archive = site.files[f"/{RAR}"]
    assert notes[RAR]["sha256"] == hashlib.sha256(archive).hexdigest()
    assert notes[RAR]["bytes"] == len(archive)
    assert notes[RAR]["url"] == f"{site.url}/{RAR}"
    assert sorted(notes) == [RAR, ZIP]

    before = len(site.requests)
    code, printed = get(*BOTH)
    assert code == 0
    assert printed.count("is there") == 2
    assert len(site.requests) == before


def test_one_part_and_its_archive(get, site, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # needs no tool for RAR
    assert get(["splits", "--keep-archives"])[0] == 0
    assert names(tmp_path / "ucf101") == sorted([ZIP, "downloads.json", "ucfTrainTestlist"])
    assert paths(site) == [f"/{ZIP}"]


def test_videos_alone(get, site, unpacks, tmp_path):
    assert get(["videos"])[0] == 0
    assert names(tmp_path / "ucf101") == ["UCF-101", "downloads.json"]
    assert paths(site) == [f"/{RAR}"]


def test_an_archive_that_somebody_put_there_is_used(get, site, unpacks, tmp_path):
    (tmp_path / "ucf101").mkdir()
    (tmp_path / "ucf101" / RAR).write_bytes(site.files[f"/{RAR}"])
    assert get(["videos"])[0] == 0
    assert names(tmp_path / "ucf101") == ["UCF-101"]
    assert site.requests == []


def test_a_broken_connection_is_taken_up(get, site, unpacks, tmp_path):
    site.breaks = [10]
    assert get(["videos"])[0] == 0
    assert site.ranges_asked() == [None, "bytes=10-"]


def test_no_tool_is_told_before_the_download(get, site, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _ = get(["videos"])
    assert code.startswith("error: RAR archives need an outside program")
    assert site.requests == []


@pytest.mark.parametrize(("arrived", "fits"), [(0, 13.325), (6.0, 7.325), (6.5, 6.825)])
def test_no_room_is_told_before_the_download(
    get, site, unpacks, tmp_path, monkeypatch, arrived, fits
):
    (tmp_path / "ucf101").mkdir()
    partial = tmp_path / "ucf101" / f"{RAR}.partial"
    with partial.open("wb") as file:
        file.truncate(round(arrived * 1e9))  # takes no room itself
    usage = shutil.disk_usage("/")
    free = round(fits * 1e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free - 1))
    code, _ = get(["videos"])
    assert "with the videos unpacked from it needs" in code
    assert site.requests == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    (source,) = [file for file in source_files("ucf101") if file.path.name == RAR]
    data.require_space(source, tmp_path / "ucf101")
    partial.replace(partial.with_name(RAR))  # whole and in its place it counts as much
    data.require_space(source, tmp_path / "ucf101")


@pytest.mark.parametrize("lost", CLIPS)
def test_videos_that_are_there_but_not_all(get, site, unpacks, tmp_path, lost):
    get(*BOTH)
    (tmp_path / "ucf101" / lost).unlink()
    code, _ = get(*BOTH)
    listed = Path(lost).name.replace("Handstand", "HandStand")
    assert f"1 of 2 files are missing ({listed}, …). Move it away" in code
    assert len(site.requests) == 2


def test_a_list_that_is_missing(get, unpacks, tmp_path):
    get(*BOTH)
    (tmp_path / "ucf101/ucfTrainTestlist/trainlist03.txt").unlink()
    code, _ = get(["splits"])
    assert "1 of 7 files are missing (trainlist03.txt, …)" in code


def test_an_empty_folder_is_no_data_set(get, tmp_path):
    (tmp_path / "ucf101" / "UCF-101").mkdir(parents=True)
    code, _ = get(["videos"])
    assert "holds no videos; move it away" in code


def test_an_archive_without_all_clips_stays(get, site, unpacks, tmp_path):
    site.files[f"/{ZIP}"] = zipped(LISTS | {"testlist01.txt": b"Archery/v_Archery_g01_c01.avi\n"})
    code, _ = get(*BOTH)
    assert "1 of 2 files are missing (v_Archery_g01_c01.avi" in code
    assert RAR in names(tmp_path / "ucf101")


def test_a_page_instead_of_an_archive(get, site, unpacks, tmp_path):
    site.files[f"/{RAR}"] = b"<!DOCTYPE html><p>moved"
    code, _ = get(["videos"])
    assert "a web page" in code
    assert not (tmp_path / "ucf101" / "UCF-101").exists()


def test_a_file_that_has_moved(get, site, unpacks):
    del site.files[f"/{RAR}"]
    code, _ = get(["videos"])
    assert code.startswith(f"error: {site.url}/{RAR}: the server answers 404 Not Found")


@pytest.mark.parametrize("verb", ["ucf101", "fibsem"])
def test_an_interruption_says_how_to_go_on(verb, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "source_files", interrupt)
    assert call(verb) == 130
    assert "run it again" in capsys.readouterr().err


def test_the_commands_fit_the_list_of_this_project():
    listed = {file.path.as_posix() for file in source_files("ucf101")}
    assert listed == set(data.ARCHIVES.values())


@pytest.mark.sample
def test_the_official_lists_are_complete(sample_data):
    data.check_complete(sample_data / "ucf101", data.LISTS)


def volume_files():
    """The six files of FIB-25, tiny: supervoxels 1 and 2 are neuron 7, 3 is neuron 9."""
    rng = np.random.default_rng(0)
    files = {}
    for name in FIBSEM_FILES:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            if name.endswith("groundtruth.h5"):
                file["stack"] = np.array([1, 2, 3], np.uint64).repeat(9).reshape(3, 3, 3)
                file["transforms"] = np.array([[1, 7], [2, 7], [3, 9]], np.uint64)
            else:
                file["raw"] = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        files[name] = buffer.getvalue()
    return files


@pytest.fixture
def get_fibsem(tmp_path, capsys):
    """Function: download FIB-25; with its site and the contents of the files."""
    contents = volume_files()
    with serving(Site({f"/{name}": content for name, content in contents.items()})) as site:
        listing = tmp_path / "sources.yaml"
        files = [
            {
                "path": f"data/fibsem/{name}",
                "url": f"{site.url}/{name}",
                "size": "unknown",
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for name, content in contents.items()
        ]
        listing.write_text(yaml.safe_dump({"fibsem": {"files": files}}))

        def run():
            code = call("fibsem", "--folder", tmp_path / "fibsem", "--sources", listing)
            return code, capsys.readouterr().out

        yield run, site, contents


def test_fib25_lands_where_it_is_read_with_neurons_as_labels(get_fibsem, tmp_path):
    run, site, contents = get_fibsem
    code, printed = run()
    assert (code, printed.count(": fetched (")) == (0, 6)
    for name, content in contents.items():
        assert (tmp_path / "fibsem" / name).read_bytes() == content
    for folder in {name.split("/")[0] for name in FIBSEM_FILES}:
        volume = read_volume(tmp_path / "fibsem" / folder)
        assert volume.labels.reshape(3, 9)[:, 0].tolist() == [7, 7, 9]
    code, printed = run()
    assert (code, printed.count(": is there (")) == (0, 6)
    assert len(site.requests) == 6


def test_the_sample_is_cut_of_one_volume_and_compared_with_the_records(
    get_fibsem, tmp_path, monkeypatch, capsys
):
    _, site, _ = get_fibsem
    monkeypatch.setattr(data, "SAMPLE_SECTIONS", 2)
    places = ("--sources", tmp_path / "sources.yaml", "--folder", tmp_path / "fibsem")
    command = ("sample", *places, "--output", tmp_path / "sample")
    path = tmp_path / "sample" / "em/fib25/training_sample2_z000-207.h5"
    told = call(*command)
    assert told == (
        f"error: {path}: 2 × 3 × 3 voxels, but not those that the records' sample holds"
        " (volumes/raw, volumes/labels/neuron_ids differ); scores on it cannot be set beside theirs"
    )
    assert sorted(paths(site)) == [f"/{name}" for name in sorted(FIBSEM_FILES[:2])]
    whole = read_volume(tmp_path / "fibsem" / "training_sample2")
    raw, labels = whole.raw[:2], np.array([7] * 18, "<u8")  # supervoxels 1 and 2 are of body 7
    sums = [hashlib.sha256(array.tobytes()).hexdigest() for array in (raw, labels)]
    monkeypatch.setattr(data, "SAMPLE_CONTENT", dict(zip(data.SAMPLE_CONTENT, sums, strict=True)))
    for _ in range(2):
        capsys.readouterr()
        assert call(*command) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"{path}: 2 × 3 × 3 voxels, those that the reduced records rest")
        assert printed.endswith(f"export PSC_SAMPLE_DATA={tmp_path / 'sample'}\n")
    assert len(site.requests) == 2
    cut = read_volume(path)
    assert np.array_equal(cut.raw, raw)
    assert cut.labels.ravel().tolist() == labels.tolist()
    assert cut.voxel_size == (8, 8, 8)


def test_the_records_sample_is_the_one_that_is_compared_with(sample_em):
    """And its first sections are those of the original layout, with supervoxels made bodies."""
    sample = read_volume(sample_em / "fib25" / "training_sample2_z000-207.h5")
    held = (sample.raw, sample.labels.astype("<u8"))
    sums = [hashlib.sha256(array.tobytes()).hexdigest() for array in held]
    assert sums == list(data.SAMPLE_CONTENT.values())
    first = read_volume(sample_em / "neuroproof_layout")
    assert np.array_equal(first.raw, sample.raw[:24])
    assert np.array_equal(first.labels, sample.labels[:24])


def test_fib25_goes_on_with_what_is_missing_and_stops_at_what_is_wrong(get_fibsem, tmp_path):
    run, site, contents = get_fibsem
    run()
    lost, damaged = (tmp_path / "fibsem" / FIBSEM_FILES[i] for i in (2, 4))
    lost.unlink()
    damaged.write_bytes(b"damaged")
    code, _ = run()
    assert code.startswith(f"error: {damaged} is there, but its sha256 is")
    assert lost.read_bytes() == contents[FIBSEM_FILES[2]]
    assert damaged.read_bytes() == b"damaged"
    assert len(site.requests) == 7


def test_fib25_from_a_server_with_other_files(get_fibsem, tmp_path):
    run, site, _ = get_fibsem
    site.files[f"/{FIBSEM_FILES[0]}"] = b"other"
    code, _ = run()
    assert "instead of" in code
    assert not (tmp_path / "fibsem" / FIBSEM_FILES[0]).exists()


def test_fib25_of_a_list_that_lacks_a_file(tmp_path):
    listing = tmp_path / "sources.yaml"
    listing.write_text("fibsem:\n  files: []\n")
    told = call("fibsem", "--sources", listing, "--folder", tmp_path)
    assert "fibsem must list training_sample2/gray" in told


CLASSES = [f"Class{letter}" for letter in "ABCDEF"]
FRAMES = 12


@pytest.fixture
def films(tmp_path):
    rng = np.random.default_rng(0)
    for action in CLASSES:
        frames = rng.integers(0, 256, (FRAMES, 48, 64, 3), dtype=np.uint8)
        write_avi(tmp_path / "films" / action / f"v_{action}_g01_c01.avi", frames)
    return tmp_path / "films"


def prepare(*arguments):
    return call("ucf101", *arguments)


def test_prepares_reports_and_fails_only_when_asked_to(films, tmp_path, capsys):
    output = tmp_path / "prepared"
    broken = films / "ClassA" / "v_ClassA_g02_c01.avi"
    broken.write_text("not, a video")
    options = (films, "--output", output, "--size", 24, 32, "--workers", 1)
    assert prepare(*options) == 0
    shown = capsys.readouterr()
    assert "6 videos prepared, 0 were there already" in shown.out
    assert "1 could not be prepared and are left out" in shown.err
    assert "7/7" in shown.err  # the progress bar
    with (output / "unreadable.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["source"] == "ClassA/v_ClassA_g02_c01.avi"
    assert "no frame can be decoded" in row["reason"]
    assert PreparedVideos(output).read("v_classa_g01_c01", 0, FRAMES).shape == (3, 12, 24, 32)

    assert prepare(*options, "--strict") == 1
    assert "0 videos prepared, 6 were there already" in capsys.readouterr().out

    broken.unlink()
    assert prepare(*options, "--strict") == 0
    assert not (output / "unreadable.csv").exists()


def test_errors_are_one_line_and_a_status(tmp_path):
    assert prepare(tmp_path / "nowhere", "--output", tmp_path / "prepared") == (
        f"error: {tmp_path / 'nowhere'} is not a folder; give the one that UCF101.rar unpacks to"
    )


def test_defaults_are_the_paper_s_and_downloads_land_where_they_are_read():
    chosen = data._parser().parse_args(["ucf101"])
    assert (chosen.short_side, chosen.size) == (80, None)
    config = yaml.safe_load((ROOT / "configs/dataset/ucf101.yaml").read_text(encoding="utf-8"))
    assert ROOT / config["videos"] == chosen.folder / data.VIDEOS
    assert ROOT / config["lists"] == chosen.folder / data.LISTS
    assert ROOT / config["prepared"] == chosen.folder / "prepared"


def children(process):
    return [
        int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{process}/status").read_text()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
def test_killed_with_its_workers_at_work_it_resumes(films, tmp_path):
    output = tmp_path / "prepared"
    options = [films, "--output", output, "--size", 24, 32, "--workers", 2]
    process = multiprocessing.get_context("fork").Process(target=prepare, args=options)
    process.start()
    wait_until((output / "index.json").exists, seconds=200)
    workers = children(process.pid)
    process.kill()
    process.join()
    assert workers
    wait_until(lambda: not any(alive(worker) for worker in workers), seconds=60)
    assert len(PreparedVideos(output).videos) >= 1

    assert prepare(*options[:-1], 1) == 0
    prepare_videos(films, tmp_path / "at once", PreparationSettings(size=(24, 32)))
    store, expected = PreparedVideos(output), PreparedVideos(tmp_path / "at once")
    assert store.record() == expected.record()
    for key in expected.videos:
        np.testing.assert_array_equal(store.read(key, 0, FRAMES), expected.read(key, 0, FRAMES))
    assert len(list(output.iterdir())) == len(CLASSES) + 1


@pytest.mark.parametrize(
    ("option", "values"), [("--short-side", [0]), ("--workers", [0]), ("--size", [80, "-1"])]
)
def test_impossible_numbers_are_refused_before_any_download(tmp_path, capsys, option, values):
    assert call("ucf101", "--folder", tmp_path, option, *values) == 2
    assert f"argument {option}: '{values[-1]}' is no positive" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
