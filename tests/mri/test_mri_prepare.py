"""IBSR put in place from archives and folders of eight tiny subjects, once and again."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from psc.errors import DataError
from psc.files import try_lock
from psc.mri import prepare as preparation
from psc.mri.data import read_split
from psc.mri.finding import find_subjects
from psc.mri.prepare import EXPECTED, prepare_ibsr, table

SPLIT = Path(__file__).parents[2] / "data" / "splits" / "ibsr.yaml"
NAMES = [f"IBSR_{number:02d}" for number in (1, 2, 3, 5, 7, 11, 12, 18)]
"""For these tests, of all 18: reading the files of one takes its time."""
AFFINE = np.diag([0.9375, 1.5, 0.9375, 1.0])
IMAGE, FILLED, UNFILLED = "_ana_strip.nii.gz", "_segTRI_fill_ana.nii.gz", "_segTRI_ana.nii.gz"


def nifti(data, affine=AFFINE, description=b""):
    """Bytes of a .nii.gz."""
    image = nibabel.Nifti1Image(data, affine)
    image.header["descrip"] = description
    content = io.BytesIO()
    image.to_file_map({"image": nibabel.FileHolder(fileobj=content)})
    return gzip.compress(content.getvalue())


def write_subject(folder, name, rng, *, endings=(IMAGE, FILLED, UNFILLED)):
    data = np.zeros((6, 4, 5, 1), dtype=np.int16)
    data[1:5, 1:3, 1:4] = rng.integers(20, 99, (4, 2, 3, 1))
    contents = {
        IMAGE: data,
        FILLED: np.where(data > 0, data % 3 + 1, 0).astype(np.uint8),
        UNFILLED: np.where(data > 40, data % 3 + 1, 0).astype(np.uint8),
    }
    (folder / name).mkdir(parents=True)
    for ending in endings:
        (folder / name / f"{name}{ending}").write_bytes(nifti(contents[ending]))


@pytest.fixture(scope="session")
def nitrc(tmp_path_factory):
    """A folder as NITRC's archive holds it; not to be changed."""
    folder = tmp_path_factory.mktemp("nitrc") / "IBSR_nifti_stripped"
    rng = np.random.default_rng(0)
    for name in NAMES:
        write_subject(folder, name, rng)
        (folder / name / f"{name}_ana.nii.gz").write_bytes(b"with the skull: never read")
        (folder / name / f"{name}_seg_ana.nii.gz").write_bytes(b"structures: never read")
        (folder / name / f"._{name}_ana_strip.nii.gz").write_bytes(b"a Mac's")
    return folder


@pytest.fixture
def copy_of(nitrc, tmp_path):
    """A copy of it that may be changed."""
    return Path(shutil.copytree(nitrc, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(preparation, "EXPECTED", tuple(NAMES))


def packed(folder, path):
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, folder.name)
    return path


def run(*sources, output, **options):
    """The message of the error, or None."""
    try:
        prepare_ibsr(sources, output, **({"allow_missing": False, "overwrite": False} | options))
    except DataError as error:
        return str(error)
    return None


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def output(tmp_path):
    """Where the data go; the folder around it must hold nothing else in the end."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "ibsr"


def test_nitrc_s_archive_becomes_the_data_set(nitrc, tmp_path, output):
    archive = packed(nitrc, tmp_path / "IBSR_V2.0_nifti_stripped.tgz")
    assert run(archive, output=output) is None
    assert names(output.parent) == ["ibsr"]
    assert names(output) == [*NAMES, "ibsr.json"]
    assert names(output / "IBSR_07") == [f"IBSR_07{end}" for end in (IMAGE, UNFILLED, FILLED)]

    manifest = json.loads((output / "ibsr.json").read_text(encoding="utf-8"))
    assert manifest["sources"] == ["IBSR_V2.0_nifti_stripped.tgz"]
    assert manifest["missing"] == []
    assert manifest["prepared"][:2] == "20"
    assert [subject["name"] for subject in manifest["subjects"]] == NAMES
    for subject in manifest["subjects"]:
        assert subject["shape"] == [6, 4, 5]
        assert subject["brain_voxels"] == 24
        assert len(subject["files"]) == 3
        for file in subject["files"]:
            content = (output / subject["name"] / file["name"]).read_bytes()
            assert content == (nitrc / subject["name"] / file["name"]).read_bytes()
            assert file["bytes"] == len(content)
            assert file["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_folder_is_copied_and_left_as_it_was(copy_of, output):
    before = {path: path.read_bytes() for path in copy_of.rglob("*") if path.is_file()}
    assert run(copy_of, output=output) is None
    assert {path: path.read_bytes() for path in copy_of.rglob("*") if path.is_file()} == before
    assert not any(path.is_symlink() for path in output.rglob("*"))
    shutil.rmtree(copy_of)
    assert len(find_subjects(output)) == 8


def test_images_and_labels_apart_are_merged(copy_of, tmp_path, output):
    labels = tmp_path / "labels"
    for path in sorted(copy_of.rglob("*_segTRI_*")):
        (labels / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(labels / path.parent.name / path.name)
    with zipfile.ZipFile(tmp_path / "labels.zip", "w") as file:
        for path in labels.rglob("*.gz"):
            file.write(path, path.relative_to(tmp_path))
    images = packed(copy_of, tmp_path / "images.tgz")
    assert "incomplete: IBSR_01 (no labels), " in run(images, output=output)
    assert run(tmp_path / "labels.zip", images, output=output) is None
    assert all(files.filled and files.unfilled for files in find_subjects(output).values())
    assert json.loads((output / "ibsr.json").read_text())["sources"] == ["labels.zip", "images.tgz"]


def test_course_copies(tmp_path, output):
    rng = np.random.default_rng(0)
    for name in NAMES:
        write_subject(tmp_path / "course", name, rng, endings=(IMAGE, UNFILLED))
        place = tmp_path / "course" / name
        (place / f"{name}{IMAGE}").rename(place / f"{name}.nii.gz")
        (place / f"{name}{UNFILLED}").rename(place / f"{name}_seg.nii.gz")
    assert run(tmp_path / "course", output=output) is None
    assert names(output / "IBSR_18") == ["IBSR_18.nii.gz", "IBSR_18_seg.nii.gz"]
    subjects = json.loads((output / "ibsr.json").read_text())["subjects"]
    assert {tuple(subject["labels"]) for subject in subjects} == {("unfilled",)}


def refused(message, output, *parts):
    """Whether the message is an error with these parts, and nothing was left behind."""
    assert isinstance(message, str)
    for part in parts:
        assert part in message
    return names(output.parent) == []


def test_an_incomplete_copy_is_refused_unless_allowed(copy_of, output, caplog):
    shutil.rmtree(copy_of / "IBSR_12")
    for ending in (FILLED, UNFILLED):
        (copy_of / "IBSR_02" / f"IBSR_02{ending}").unlink()
    listed = "2 of 8 subjects are incomplete: IBSR_02 (no labels), IBSR_12 (no image)"
    message = run(copy_of, output=output)
    assert refused(message, output, str(copy_of), listed, "--allow-missing")

    assert run(copy_of, output=output, allow_missing=True) is None
    assert listed in caplog.text
    assert json.loads((output / "ibsr.json").read_text())["missing"] == ["IBSR_12"]
    assert names(output / "IBSR_02") == [f"IBSR_02{IMAGE}"]


def test_other_subjects_are_left_out_and_phantoms_refused(copy_of, tmp_path, output, caplog):
    write_subject(copy_of, "OTHER_01", np.random.default_rng(0))
    assert run(copy_of, output=output) is None
    assert "left out, as they are not of IBSR: OTHER_01" in caplog.text
    assert names(output) == [*NAMES, "ibsr.json"]
    shutil.rmtree(output)

    message = run(copy_of / "OTHER_01", output=output, allow_missing=True)
    assert refused(message, output, "no subject of IBSR", "IBSR_01_ana_strip")

    data = np.pad(np.arange(24, 48, dtype=np.int16).reshape(4, 2, 3), 1)
    disguised = copy_of / "IBSR_05" / f"IBSR_05{IMAGE}"
    disguised.write_bytes(nifti(data, description=b"psc synthetic phantom, seed 0"))
    assert refused(run(copy_of, output=output), output, f"{disguised} is a phantom")


def test_a_truncated_volume_names_the_archive_that_it_came_in(copy_of, tmp_path, output):
    damaged = copy_of / "IBSR_03" / f"IBSR_03{IMAGE}"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    archive = packed(copy_of, tmp_path / "IBSR.tgz")
    message = run(archive, output=output)
    path = f"{archive}/IBSR_03/IBSR_03{IMAGE}"
    assert refused(message, output, "1 of 8 subjects cannot be used", path, "download")
    assert ".preparing" not in message


def test_a_damaged_archive(nitrc, tmp_path, output):
    archive = packed(nitrc, tmp_path / "IBSR.tgz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    assert refused(run(archive, output=output), output, str(archive), "cut off", "download it")


def test_an_archive_that_leaves_the_folder(nitrc, tmp_path, output):
    archive = tmp_path / "IBSR.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(nitrc, nitrc.name)
        file.addfile(tarfile.TarInfo("IBSR_nifti_stripped/../../evil"))
    message = run(archive, output=output)
    assert refused(message, output, str(archive), "leads out of the folder; nothing was unpacked")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("ending", "data", "affine", "parts"),
    [
        (FILLED, np.full((6, 4, 5), 4, dtype=np.uint8), AFFINE, ["4 (120 voxels)", "0 background"]),
        (UNFILLED, np.full((6, 4, 5), 1.5, dtype=np.float32), AFFINE, ["1.5 (120 voxels)"]),
        (UNFILLED, np.ones((6, 4, 4), dtype=np.uint8), AFFINE, ["(6, 4, 5)", "(6, 4, 4)"]),
        (FILLED, np.ones((6, 4, 5), dtype=np.uint8), 2 * AFFINE, ["affine"]),
        (IMAGE, np.zeros((6, 4, 5), dtype=np.int16), AFFINE, ["every voxel is 0"]),
    ],
)
def test_a_wrong_volume(copy_of, output, ending, data, affine, parts):
    wrong = copy_of / "IBSR_11" / f"IBSR_11{ending}"
    wrong.write_bytes(nifti(data, affine))
    assert refused(run(copy_of, output=output), output, str(wrong), *parts)


def test_a_subject_twice(nitrc, tmp_path, output):
    archive = packed(nitrc, tmp_path / "IBSR.tgz")
    one = f"{archive}/IBSR_01/IBSR_01{IMAGE}"
    other = str(nitrc / "IBSR_01" / f"IBSR_01{IMAGE}")
    assert refused(run(archive, nitrc, output=output), output, "two files", one, other)


def test_sources_that_are_not_there_or_no_archive(tmp_path, output):
    missing = tmp_path / "missing.tgz"
    assert refused(run(missing, output=output), output, f"{missing} is not there", "Register")
    page = tmp_path / "page.tgz"
    page.write_text("<html>Please log in</html>")
    assert refused(run(page, output=output), output, str(page), "a web page")
    volume = tmp_path / "IBSR_01.nii.gz"
    volume.write_bytes(nifti(np.ones((2, 2, 2), dtype=np.int16)))
    assert refused(run(volume, output=output), output, str(volume), "no tar archive")
    (tmp_path / "empty").mkdir()
    message = run(tmp_path / "empty", output=output)
    assert refused(message, output, f"{tmp_path / 'empty'} holds no subject", "nitrc.org")


def test_what_is_there_is_replaced_only_when_asked_to_and_only_once_complete(
    nitrc, copy_of, output
):
    assert run(nitrc, output=output) is None
    before = (output / "ibsr.json").read_bytes()
    assert run(nitrc, output=output).startswith(f"{output} exists; --overwrite ")

    shutil.rmtree(copy_of / "IBSR_18")
    assert "incomplete" in run(copy_of, output=output, overwrite=True)
    assert (output / "ibsr.json").read_bytes() == before
    assert names(output) == [*NAMES, "ibsr.json"]

    assert run(copy_of, output=output, overwrite=True, allow_missing=True) is None
    assert names(output) == [*NAMES[:-1], "ibsr.json"]
    assert names(output.parent) == ["ibsr"]


@pytest.mark.parametrize("what", ["no manifest", "a broken manifest", "another file", "a file"])
def test_somebody_else_s_files_are_never_replaced(nitrc, output, what):
    if what == "a file":
        output.write_text("mine")
    elif what == "another file":
        assert run(nitrc, output=output) is None
        (output / "IBSR_01" / "notes.txt").write_text("mine")
    else:
        output.mkdir()
        (output / "mine").write_text("mine")
        if what == "a broken manifest":
            (output / "ibsr.json").write_text('["subjects"]')
    before = sorted(output.rglob("*"))
    message = run(nitrc, output=output, overwrite=True)
    assert message.startswith(f"{output} is not replaced: ")
    assert ("it holds IBSR_01/notes.txt" in message) is (what == "another file")
    assert sorted(output.rglob("*")) == before
    assert output.exists()


def test_an_empty_folder_is_nothing(nitrc, output):
    output.mkdir()
    assert run(nitrc, output=output) is None
    assert len(find_subjects(output)) == 8


def test_a_link_to_another_disk_stays_one(nitrc, tmp_path, output):
    (tmp_path / "disk").mkdir()
    output.symlink_to(tmp_path / "disk")
    assert run(nitrc, output=output) is None
    assert output.is_symlink()
    assert len(find_subjects(tmp_path / "disk")) == 8


def test_an_archive_in_the_output_is_not_lost(nitrc, output):
    output.mkdir()
    archive = packed(nitrc, output / "IBSR.tgz")
    message = run(archive, output=output, overwrite=True)
    assert message.startswith(f"{archive} lies in {output}, which is made anew")
    assert names(output) == ["IBSR.tgz"]
    assert "lies in" in run(output, output=output, overwrite=True)


def test_what_a_killed_run_left_is_cleared_away_or_brought_back(nitrc, output):
    left = output.parent / ".ibsr.preparing" / "complete" / "IBSR_01"
    left.mkdir(parents=True)
    assert run(nitrc, output=output) is None
    assert names(output.parent) == ["ibsr"]

    output.rename(output.parent / ".ibsr.previous")  # killed while it replaced
    assert "exists; --overwrite" in run(nitrc, output=output)
    assert len(find_subjects(output)) == 8
    assert names(output.parent) == ["ibsr"]


def test_an_interruption_leaves_nothing(nitrc, output, monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "replace_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(nitrc, output=output)
    assert names(output.parent) == []


def test_a_full_disk(nitrc, output, monkeypatch):
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
        message = run(nitrc, output=output)
    assert refused(message, output, f"the copy to {output} needs", "choose another")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    message = run(nitrc, output=output)
    assert refused(message, output, f"{output} cannot be written", "No space left", "make room")


def test_one_at_a_time(nitrc, output):
    with try_lock(output.parent / ".ibsr.preparing.lock"):
        assert "is being prepared by process" in run(nitrc, output=output)
    assert names(output.parent) == []


@pytest.mark.sample
def test_the_real_sample(sample_data, output):
    source = sample_data / "mri" / "ibsr18"
    message = run(source, output=output)
    assert refused(message, output, "2 of 8 subjects are incomplete", "IBSR_12 (no image)")
    # Two of its subjects: reading all takes half a minute.
    two = [source / "IBSR_01", source / "IBSR_02"]
    assert run(*two, output=output, allow_missing=True) is None
    assert names(output) == ["IBSR_01", "IBSR_02", "ibsr.json"]
    subjects = json.loads((output / "ibsr.json").read_text())["subjects"]
    assert [subject["labels"] for subject in subjects] == [["unfilled"], []]
    assert subjects[0]["shape"] == [256, 128, 256]
    assert subjects[0]["voxel_size"] == [0.9375, 1.5, 0.9375]


def test_the_paper_s_split_has_the_subjects_that_are_expected():
    assert sorted(sum(read_split(SPLIT).parts.values(), ())) == list(EXPECTED)
    assert len(EXPECTED) == 18


def test_all_problems_are_reported(copy_of, output):
    (copy_of / "IBSR_01" / f"IBSR_01{UNFILLED}").write_bytes(nifti(np.ones((6, 4, 4), np.uint8)))
    (copy_of / "IBSR_02" / f"IBSR_02{IMAGE}").write_bytes(nifti(np.zeros((6, 4, 5), np.int16)))
    first, *problems = run(copy_of, output=output).splitlines()
    assert first == "2 of 8 subjects cannot be used:"
    assert f"IBSR_01{UNFILLED}" in problems[0]
    assert f"IBSR_02{IMAGE}" in problems[1]


def test_what_is_printed_of_subjects(copy_of, output):
    (copy_of / "IBSR_02" / f"IBSR_02{UNFILLED}").unlink()
    (copy_of / "IBSR_02" / f"IBSR_02{FILLED}").unlink()
    options = {"allow_missing": True, "overwrite": False}
    assert table(prepare_ibsr([copy_of], output, **options)).splitlines()[:3] == [
        "subject  shape  voxel size [mm]    labels            brain voxels",
        "IBSR_01  6×4×5  0.9375×1.5×0.9375  filled, unfilled  24",
        "IBSR_02  6×4×5  0.9375×1.5×0.9375  none              24",
    ]
