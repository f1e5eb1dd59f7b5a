"""What systems leave beside data is passed over by every scanner, by one rule: psc.files."""

import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from psc.mri.finding import find_subjects
from psc.paper.groups import finished_runs
from psc.video.preparation import prepare_videos
from psc.video.synthetic import write_avi
from psc.volumes.reading import open_volume


def slices(folder, _):
    for z in range(3):
        Image.fromarray(np.full((4, 5), z, np.uint8)).save(folder / f"s{z}.png")
    return "s1.png", lambda: open_volume(folder).shape


def subjects(folder, _):
    for ending in ("", "_seg"):
        image = nibabel.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4))
        nibabel.save(image, folder / f"IBSR_01{ending}.nii.gz")
    return "IBSR_01.nii.gz", lambda: find_subjects(folder)


def films(folder, _):
    write_avi(folder / "v_Archery_g01_c01.avi", np.zeros((3, 16, 16, 3), np.uint8))
    store = folder.with_name("prepared")

    def scan():
        report = prepare_videos(folder, store)
        return len(report.prepared) + report.kept, report.unreadable

    return "v_Archery_g01_c01.avi", scan


def runs(folder, finished_run):
    shutil.copytree(finished_run[1], folder / "a-run")
    return "a-run", lambda: finished_runs(folder)


@pytest.mark.parametrize("scanner", [slices, subjects, films, runs])
def test_every_scanner_passes_over_the_same(scanner, tmp_path, finished_run):
    folder = tmp_path / "data"
    folder.mkdir()
    name, scan = scanner(folder, finished_run)
    before = scan()
    (folder / f"._{name}").write_bytes(b"\x00\x05\x16\x07" + bytes(99))
    for file in (".DS_Store", "Thumbs.db", "desktop.ini", ".nfs0001", f".{name}.part"):
        (folder / file).write_bytes(b"?")
    for place in ("@eaDir", "__MACOSX", "#recycle", ".Trashes", "lost+found"):
        (folder / place / name).mkdir(parents=True)
        (folder / place / f"._{name}").write_bytes(b"?")
        (folder / place / "result.json").write_bytes(b"?")
    assert scan() == before
