"""Run folders: named by the configuration, found again by a resume, never shared."""

import os

import pytest

from psc.em.affinities import NEAREST
from psc.errors import CheckpointError
from psc.training import folder as run_folder
from psc.training.folder import choose_run_folder, claimed_run_folder, config_hash, run_name


@pytest.fixture
def config(tmp_path):
    return {
        "backbone": {"name": "unet"},
        "block": {"name": "p2sc2"},
        "dataset": {"name": "d"},
        "recipe": {"iterations": 5},
        "seed": 3,
        "resume": False,
        "logger": {"wandb": False},
        "trainer": {"devices": 1},
        "budget": {"name": "auto"},
        "output_directory": str(tmp_path),
    }


def make(folder, *, last=False, finished=False):
    (folder / "checkpoints").mkdir(parents=True)
    if last:
        (folder / "checkpoints" / "last.ckpt").touch()
    if finished:
        (folder / "result.json").touch()


def test_the_name_says_what_it_is_and_the_hash_what_it_computes(config):
    assert run_name(config).startswith("d-unet-p2sc2-seed3-")
    trainer = {"devices": 1, "progress_bar": False, "workers": 3}
    same = config | {"resume": True, "trainer": trainer, "logger": {"wandb": True}}
    assert config_hash(same) == config_hash(config)
    assert config_hash(config | {"trainer": {"devices": 2}}) != config_hash(config)
    assert config_hash(config | {"recipe": {"iterations": 6}}) != config_hash(config)


def test_a_key_that_earlier_code_lacked_renames_a_run_only_where_it_changes_it(config):
    nearest = [list(offset) for offset in NEAREST]
    for part, key, default, other in (
        ("block", "merge", "concatenate", "sum"),
        ("recipe", "offsets", nearest, [*nearest, [-3, 0, 0]]),
    ):
        same, changed = (config | {part: config[part] | {key: value}} for value in (default, other))
        assert run_name(same) == run_name(config)
        assert run_name(changed) != run_name(config)


def test_a_new_run_never_takes_an_existing_folder(config):
    first = choose_run_folder(config).path
    make(first)
    second = choose_run_folder(config).path
    assert second.name == f"{first.name}-2"
    make(second)
    assert choose_run_folder(config).path.name == f"{first.name}-3"


def test_resume_continues_the_newest(config):
    first = choose_run_folder(config).path
    make(first, finished=True)
    second = choose_run_folder(config).path
    make(second, last=True)
    resumed = choose_run_folder(config | {"resume": True})
    assert resumed.path == second
    assert resumed.resume_from == second / "checkpoints" / "last.ckpt"
    assert not resumed.is_finished


def test_resume_without_anything_to_resume_starts_anew(config):
    fresh = choose_run_folder(config | {"resume": True})
    assert fresh.resume_from is None
    make(fresh.path)  # interrupted before its first checkpoint
    again = choose_run_folder(config | {"resume": True})
    assert again.path == fresh.path
    assert again.resume_from is None


def test_resume_finds_that_it_is_finished(config):
    folder = choose_run_folder(config).path
    make(folder, last=True, finished=True)
    assert choose_run_folder(config | {"resume": True}).is_finished


def test_resume_from_a_path(config, tmp_path):
    folder = choose_run_folder(config).path
    make(folder, last=True)
    own = folder / "checkpoints" / "last.ckpt"
    assert choose_run_folder(config | {"resume": str(own)}).path == folder
    foreign = tmp_path / "foreign.ckpt"
    foreign.touch()
    elsewhere = choose_run_folder(config | {"resume": str(foreign)})
    assert elsewhere.path != folder
    assert elsewhere.resume_from == foreign
    with pytest.raises(CheckpointError, match="no such file"):
        choose_run_folder(config | {"resume": str(tmp_path / "none.ckpt")})


def test_new_runs_that_start_together_get_folders_of_their_own(config, tmp_path):
    with claimed_run_folder(config) as first, claimed_run_folder(config) as second:
        assert not first.path.exists()  # a run that fails early leaves nothing
        assert second.path.name == f"{first.path.name}-2"
        make(first.path)
        with claimed_run_folder(config) as third:
            assert third.path.name == f"{first.path.name}-3"
    assert [path.name for path in tmp_path.iterdir()] == [first.path.name]  # no lock is left


def test_a_run_in_another_process_s_hands_is_not_resumed(config):
    resumed = config | {"resume": True}
    with claimed_run_folder(config) as folder:
        for last in (False, True):  # before and after its first checkpoint
            with (
                pytest.raises(CheckpointError, match=f"trained by process {os.getpid()} on"),
                claimed_run_folder(resumed),
            ):
                pass
            if not last:
                make(folder.path, last=True)
    with claimed_run_folder(resumed) as again:
        assert again.path == folder.path
        assert again.resume_from is not None


def test_a_finished_run_needs_no_claim(config):
    make(choose_run_folder(config).path, last=True, finished=True)
    resumed = config | {"resume": True}
    with claimed_run_folder(resumed) as one, claimed_run_folder(resumed) as other:
        assert one == other
        assert one.is_finished


def test_a_run_that_finishes_between_choice_and_claim_is_seen_to_be_finished(config, monkeypatch):
    locked = run_folder.try_lock

    def finished_just_before(path):
        monkeypatch.setattr(run_folder, "try_lock", locked)
        make(choose_run_folder(config).path, last=True, finished=True)
        return locked(path)

    monkeypatch.setattr(run_folder, "try_lock", finished_just_before)
    with claimed_run_folder(config | {"resume": True}) as folder:
        assert folder.is_finished
