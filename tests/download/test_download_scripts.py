"""The download commands against a server on this machine: nothing twice, nothing half."""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
import textwrap
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from rar_writer import rar4
from web_server import Site, serving

from psc.config.choices import FIBSEM_FILES
from psc.download.download import source_files
from psc.volumes.reading import read_volume

ROOT = Path(__file__).parents[2]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


ucf101 = script("download_ucf101")
fibsem = script("download_fibsem")

RAR, ZIP = "UCF101.rar", "UCF101TrainTestSplits-RecognitionTask.zip"
CLIPS = {
    "UCF-101/Archery/v_Archery_g08_c01.avi": b"clip one",
    # As the archive spells it; the lists write HandStandPushups.
    "UCF-101/HandstandPushups/v_HandstandPushups_g01_c01.avi": b"clip two",
}
LISTS = dict.fromkeys(ucf101.LIST_FILES, b"") | {
    "classInd.txt": b"1 Archery\n2 HandStandPushups\n",
    "trainlist01.txt": b"Archery/v_Archery_g08_c01.avi 1\r\n\r\n",
    "testlist01.txt": b"HandStandPushups/v_HandStandPushups_g01_c01.avi\n",
}


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
def unrar(tmp_path, monkeypatch):
    """A stand-in for unrar, the only tool on the PATH."""
    program = tmp_path / "bin" / "unrar"
    program.parent.mkdir()
    body = f"""\
        #!{sys.executable}
        import pathlib, sys
        for name, content in {CLIPS!r}.items():
            path = pathlib.Path(sys.argv[-1]) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        """
    program.write_text(textwrap.dedent(body))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


@pytest.fixture
def get(site, tmp_path, capsys):
    """Function: run download_ucf101.py, return its exit code and what it printed."""
    listing = tmp_path / "sources.yaml"
    files = [
        {"path": f"data/ucf101/{RAR}", "size": "6.5 GB"},
        {"path": f"data/ucf101/{ZIP}", "size": "unknown"},
    ]
    for file in files:
        file |= {"url": f"{site.url}/{Path(file['path']).name}", "sha256": "unknown"}
    listing.write_text(yaml.safe_dump({"ucf101": {"files": files}}))

    def run(*arguments):
        folder = str(tmp_path / "ucf101")
        code = 0
        try:
            ucf101.main(["--folder", folder, "--sources", str(listing), *arguments])
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def paths(site):
    return [path for _, path, _ in site.requests]


def test_both_parts(get, site, unrar, tmp_path):
    code, printed = get()
    folder = tmp_path / "ucf101"
    assert code == 0
    assert "videos (6.5 GB)" in printed
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
    code, printed = get()
    assert code == 0
    assert printed.count("is there") == 2
    assert len(site.requests) == before


def test_one_part_and_its_archive(get, site, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # needs no tool for RAR
    assert get("--only", "splits", "--keep-archives")[0] == 0
    assert names(tmp_path / "ucf101") == sorted([ZIP, "downloads.json", "ucfTrainTestlist"])
    assert paths(site) == [f"/{ZIP}"]


def test_videos_alone(get, site, unrar, tmp_path):
    assert get("--only", "videos")[0] == 0
    assert names(tmp_path / "ucf101") == ["UCF-101", "downloads.json"]
    assert paths(site) == [f"/{RAR}"]


def test_an_archive_that_somebody_put_there_is_used(get, site, unrar, tmp_path):
    (tmp_path / "ucf101").mkdir()
    (tmp_path / "ucf101" / RAR).write_bytes(site.files[f"/{RAR}"])
    assert get("--only", "videos")[0] == 0
    assert names(tmp_path / "ucf101") == ["UCF-101"]
    assert site.requests == []


def test_a_broken_connection_is_taken_up(get, site, unrar, tmp_path):
    site.breaks = [10]
    assert get("--only", "videos")[0] == 0
    assert site.ranges_asked() == [None, "bytes=10-"]


def test_no_tool_is_told_before_the_download(get, site, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _ = get("--only", "videos")
    assert code.startswith("error: RAR archives need an outside program")
    assert site.requests == []


@pytest.mark.parametrize(("arrived", "fits"), [(0, 13.325), (6.0, 7.325), (6.5, 6.825)])
def test_no_room_is_told_before_the_download(
    get, site, unrar, tmp_path, monkeypatch, arrived, fits
):
    (tmp_path / "ucf101").mkdir()
    partial = tmp_path / "ucf101" / f"{RAR}.partial"
    with partial.open("wb") as file:
        file.truncate(round(arrived * 1e9))  # takes no room itself
    usage = shutil.disk_usage("/")
    free = round(fits * 1e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free - 1))
    code, _ = get("--only", "videos")
    assert "with the videos unpacked from it needs" in code
    assert site.requests == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    (source,) = [file for file in source_files("ucf101") if file.path.name == RAR]
    ucf101.require_space(source, tmp_path / "ucf101")
    partial.replace(partial.with_name(RAR))  # whole and in its place it counts as much
    ucf101.require_space(source, tmp_path / "ucf101")


@pytest.mark.parametrize("lost", CLIPS)
def test_videos_that_are_there_but_not_all(get, site, unrar, tmp_path, lost):
    get()
    (tmp_path / "ucf101" / lost).unlink()
    code, _ = get()
    listed = Path(lost).name.replace("Handstand", "HandStand")
    assert f"1 of 2 files are missing ({listed}, …). Move it away" in code
    assert len(site.requests) == 2


def test_a_list_that_is_missing(get, unrar, tmp_path):
    get()
    (tmp_path / "ucf101/ucfTrainTestlist/trainlist03.txt").unlink()
    code, _ = get("--only", "splits")
    assert "1 of 7 files are missing (trainlist03.txt, …)" in code


def test_an_empty_folder_is_no_data_set(get, tmp_path):
    (tmp_path / "ucf101" / "UCF-101").mkdir(parents=True)
    code, _ = get("--only", "videos")
    assert "holds no videos; move it away" in code


def test_an_archive_without_all_clips_stays(get, site, unrar, tmp_path):
    site.files[f"/{ZIP}"] = zipped(LISTS | {"testlist01.txt": b"Bowling/v_Bowling_g01_c01.avi\n"})
    code, _ = get()
    assert "1 of 2 files are missing (v_Bowling_g01_c01.avi" in code
    assert RAR in names(tmp_path / "ucf101")


def test_a_page_instead_of_an_archive(get, site, unrar, tmp_path):
    site.files[f"/{RAR}"] = b"<!DOCTYPE html><p>moved"
    code, _ = get("--only", "videos")
    assert "a web page" in code
    assert not (tmp_path / "ucf101" / "UCF-101").exists()


def test_a_file_that_has_moved(get, site, unrar):
    del site.files[f"/{RAR}"]
    code, _ = get("--only", "videos")
    assert code.startswith(f"error: {site.url}/{RAR}: the server answers 404 Not Found")


@pytest.mark.parametrize("name", ["download_ucf101", "download_fibsem"])
def test_an_interruption_says_how_to_go_on(name, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules[name], "source_files", interrupt)
    with pytest.raises(SystemExit) as end:
        sys.modules[name].main([])
    assert end.value.code == 130
    assert "run it again" in capsys.readouterr().err


def test_the_commands_fit_the_list_of_this_project():
    listed = {file.path.as_posix() for file in source_files("ucf101")}
    assert listed == {part.archive for part in ucf101.PARTS.values()}


def test_the_official_lists_are_complete_and_name_every_clip_once(sample_data):
    lists = sample_data / "ucf101" / "ucfTrainTestlist"
    ucf101.check_complete(lists.parent, ucf101.PARTS["splits"])
    clips = ucf101.listed_clips(lists)
    assert len({name.lower() for name in clips}) == len(clips) == 13_320


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
    """Function: run download_fibsem.py; with its site and the contents of the files."""
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
            code = 0
            try:
                fibsem.main(["--folder", str(tmp_path / "fibsem"), "--sources", str(listing)])
            except SystemExit as end:
                code = end.code
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
    with pytest.raises(SystemExit, match=r"fibsem must list training_sample2/gray"):
        fibsem.main(["--sources", str(listing), "--folder", os.fspath(tmp_path)])
