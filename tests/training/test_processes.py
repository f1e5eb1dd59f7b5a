"""What the processes of one run tell each other, and what does not reach the next run."""

import os

import pytest

from psc.training.folder import RunFolder, folder_of_this_run, handed_to_children, is_first_process

CONFIG = {
    "backbone": {"name": "unet"},
    "block": {"name": "3d"},
    "dataset": {"name": "d"},
    "seed": 0,
    "resume": False,
    "recipe": {},
    "trainer": {},
}


@pytest.fixture(autouse=True)
def single_process(monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID", "PSC_RUN_FOLDER", "PSC_RESUME_FROM"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "RANK", "SLURM_PROCID"])
def test_any_launcher_s_first_process_is_the_first(monkeypatch, variable):
    assert is_first_process()
    monkeypatch.setenv(variable, "0")
    assert is_first_process()
    monkeypatch.setenv(variable, "1")
    assert not is_first_process()


def test_children_write_where_the_first_process_does(tmp_path, monkeypatch):
    config = CONFIG | {"output_directory": str(tmp_path)}
    with folder_of_this_run(config) as folder:
        (chosen := RunFolder(folder.path, tmp_path / "last.ckpt")).path.mkdir()
        with handed_to_children(chosen):
            monkeypatch.setenv("LOCAL_RANK", "1")
            with folder_of_this_run(config) as of_child:
                assert of_child == chosen


def test_nothing_is_left_in_the_environment_for_the_next_job(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    before = dict(os.environ)
    with handed_to_children(RunFolder(tmp_path)):
        assert os.environ["PSC_RUN_FOLDER"] == str(tmp_path)
        assert os.environ["PSC_RESUME_FROM"] == ""
        os.environ |= {"LOCAL_RANK": "0", "MASTER_PORT": "1234"}  # as Lightning does
        del os.environ["WORLD_SIZE"]
    assert dict(os.environ) == before


def test_a_process_that_torchrun_started_finds_the_folder_by_itself(tmp_path, monkeypatch):
    config = CONFIG | {"output_directory": str(tmp_path)}
    monkeypatch.setenv("RANK", "1")
    with folder_of_this_run(config) as folder:
        assert folder.path.parent == tmp_path
        assert not list(tmp_path.iterdir())  # the first process claims it, not this one
