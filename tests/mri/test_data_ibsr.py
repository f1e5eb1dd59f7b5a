"""scripts/data.py ibsr: what it says, and how it ends."""

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import data  # noqa: E402


def run(*arguments):
    """Exit status, or message, of the command, run in this process."""
    try:
        data.main(["ibsr", *map(str, arguments)])
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture
def subject(tmp_path):
    """A folder with IBSR_01 alone."""
    brain = np.pad(np.arange(24).reshape(4, 2, 3) + 20, 1)
    for ending, values in (("_ana_strip", brain), ("_segTRI_fill_ana", brain > 0)):
        image = nibabel.Nifti1Image(values.astype(np.int16), np.diag([0.9375, 1.5, 0.9375, 1]))
        (tmp_path / "copy").mkdir(exist_ok=True)
        nibabel.save(image, tmp_path / "copy" / f"IBSR_01{ending}.nii.gz")
    return tmp_path / "copy"


def test_without_an_argument_it_says_where_to_register():
    message = run()
    for word in (
        "Register",
        "https://www.nitrc.org/projects/ibsr",
        "IBSR V2.0 nifti stripped",
        "IBSR_XX_ana_strip.nii.gz",
        "make data-ibsr ARGS=",
    ):
        assert word in message


def test_what_it_prints(subject, tmp_path, capfd):
    output = tmp_path / "data" / "ibsr"
    assert run(subject, "--output", output).startswith(f"error: {subject}: 17 of 18 subjects are")
    assert run(subject, "--output", output, "--allow-missing") == 0
    assert capfd.readouterr().out.splitlines() == [
        "subject  shape  voxel size [mm]    labels  brain voxels",
        "IBSR_01  6×4×5  0.9375×1.5×0.9375  filled  24",
        f"{output}: 1 subjects, listed in ibsr.json",
    ]
    assert "exists; --overwrite" in run(subject, "--output", output, "--allow-missing")
    assert run(subject, "--output", output, "--allow-missing", "--overwrite") == 0


def test_an_interruption_is_no_traceback(subject, tmp_path, monkeypatch, capfd):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "prepare_ibsr", interrupted)
    assert run(subject, "--output", tmp_path / "ibsr") == 130
    assert "interrupted; run it again" in capfd.readouterr().err


def test_the_default_is_where_the_configuration_looks_and_make_calls_it():
    chosen = data._parser().parse_args(["ibsr", "archive"])
    assert chosen.output == ROOT / "data" / "ibsr"
    assert not chosen.overwrite
    assert not chosen.allow_missing
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "data-ibsr: $(STAMP) ##" in makefile
    assert "\t$(BIN)/python scripts/data.py ibsr $(ARGS)\n" in makefile
