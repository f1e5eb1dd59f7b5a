"""docs/your-own-data.md, MRI: every command as it is typed there, on small files of other tools."""

import json
import re
import shlex
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_brains
from tiny_brains import CODES, write_bids

from psc.config import compose
from psc.mri.data import read_cohort
from psc.training.records import read_record

PROJECT = Path(__file__).parents[2]
DOCUMENT = (PROJECT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
SECTION = re.split(r"^## ", DOCUMENT.split("\n## MRI")[1], flags=re.MULTILINE)[0]
COMMANDS = [
    line
    for code in re.findall(r"^```\n(.*?)^```$", SECTION, flags=re.MULTILINE | re.DOTALL)
    for line in code.splitlines()
]
SMALL = tiny_brains.overrides(".")
SMALL = [key for key in SMALL if key.startswith(("backbone.", "recipe.", "trainer.", "budget="))]


@pytest.fixture
def typed(program, tmp_path):
    """Function: run a command in tmp_path, a training on a small network; what it printed."""

    def run(command):
        python, script, *arguments = shlex.split(command)
        assert python == "python"
        small = SMALL if script == "train.py" else []
        result = program(script, *arguments, *small, folder=tmp_path)
        assert result.code == 0, result.errors
        return result.output + result.errors

    return run


def values_of(path):
    return np.asanyarray(nibabel.load(path).dataobj)


@pytest.mark.slow
def test_a_cross_validation_of_bids_its_table_and_the_ensemble(typed, tmp_path):
    bids = write_bids(tmp_path)
    bids.rename(tmp_path / "my_brains")
    new = tmp_path / "new_brains"
    new.mkdir()
    for number in (1, 2):
        source = tmp_path / f"my_brains/sub-0{number}/anat/sub-0{number}_T1w.nii.gz"
        (new / f"patient{number}.nii.gz").write_bytes(source.read_bytes())
    train, compare, segment, *_ = COMMANDS

    said = typed(train)
    assert "6 subjects: train 3 (" in said
    assert "on own_mri, fold 2 of 3" in said
    assert "labels as they are in their files; classes: 0 background, 10 csf" in said
    runs = sorted((tmp_path / "runs").glob("own_mri-densenet-p2sc2-fold*"))
    assert [run.name.split("-")[3] for run in runs] == ["fold0", "fold1", "fold2"]
    records = [read_record(run / "result.json") for run in runs]
    tested = [name for record in records for name in record.data["splits"]["test"]]
    assert sorted(tested) == [f"sub-0{i}" for i in range(1, 7)]
    for run, record in zip(runs, records, strict=True):
        for name in record.data["splits"]["test"]:
            values = values_of(run / "evaluation" / f"{name}_tissues.nii.gz")
            assert set(np.unique(values)) <= {0, *CODES.values()}
            labels = next((tmp_path / "my_brains").glob(f"derivatives/*/{name}/anat/*_dseg.nii.gz"))
            one, other = values == 250, values_of(labels) == 250
            dice = 2 * (one & other).sum() / (one.sum() + other.sum())
            assert record.metrics["subjects"][name]["dice_wm"] == pytest.approx(dice)

    table = typed(compare)
    (row,) = [line for line in table.splitlines() if line.startswith("| p2sc2 |")]
    scores = {
        name: record.metrics["subjects"][name]["dice_wm"]
        for record in records
        for name in record.data["splits"]["test"]
    }
    dice = 100 * np.array(list(scores.values()))
    assert f"{dice.mean():.1f} ± {dice.std(ddof=1):.1f}" in row
    assert "0, 1, 2 of 3" in row
    assert "6 subjects" in table
    assert "labels as they are in their files" in table
    assert (tmp_path / "runs" / "summary.md").read_text() in table

    typed(segment)
    for number in (1, 2):
        values = values_of(tmp_path / "tissues" / f"patient{number}_tissues.nii.gz")
        assert values.shape == values_of(new / f"patient{number}.nii.gz").shape
        assert {10, 250} <= set(np.unique(values)) <= {0, *CODES.values()}


@pytest.mark.slow
def test_an_nnunet_folder_and_files_by_pattern(typed, tmp_path, monkeypatch):
    bids = write_bids(tmp_path, subjects=4)
    raw = tmp_path / "Dataset001_Brains"
    for number in range(1, 5):
        image = bids / f"sub-0{number}/anat/sub-0{number}_T1w.nii.gz"
        labels = bids / f"derivatives/drawn/sub-0{number}/anat/sub-0{number}_dseg.nii.gz"
        drawn = nibabel.load(labels)
        lesion = nibabel.Nifti1Image((values_of(labels) == 250).astype(np.uint8), drawn.affine)
        for path, content in (
            (raw / f"imagesTr/b{number}_0000.nii.gz", nibabel.load(image)),
            (raw / f"labelsTr/b{number}.nii.gz", drawn),
            (tmp_path / f"scans/p{number}_t1.nii.gz", nibabel.load(image)),
            (tmp_path / f"drawn/p{number}.nii.gz", lesion),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(content, path)
    description = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "CSF": 10, "brain": [150, 250]},
        "numTraining": 4,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))

    nnunet, pattern = COMMANDS[3:]
    assert "classes: 0 background, 10 CSF, 150 or 250 brain" in typed(nnunet)
    (run,) = (tmp_path / "runs").glob("own_mri-densenet-p2sc2-fold0-*")
    record = read_record(run)
    assert {"dice_CSF", "dice_brain", "dice_mean"} <= record.metrics["test"].keys()
    assert record.metrics["baseline"]["method"] == "brain only"

    monkeypatch.chdir(tmp_path)  # read as the command reads it, which trains as the others do
    config = compose([*shlex.split(pattern)[2:], *SMALL])
    subjects, _, labels = read_cohort(config.dataset).description()
    assert "train 1 (p2), validation 1 (p3), test 2 (p1, p4); dataset.split" in subjects
    assert labels.endswith("classes: 0 background, 1 lesion")
    assert config.backbone.classes == 2
