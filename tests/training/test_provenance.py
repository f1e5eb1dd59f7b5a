"""Commit, dirty flag, versions and hardware as they are."""

import subprocess

from psc.training.provenance import git_state, hardware, versions


def git(folder, *arguments):
    subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True)


def test_git_state_of_a_clean_a_changed_and_no_checkout(tmp_path):
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    git(tmp_path, "init")
    git(tmp_path, "config", "user.email", "a@b.c")
    git(tmp_path, "config", "user.name", "a")
    (tmp_path / "f").write_text("1")
    git(tmp_path, "add", "f")
    git(tmp_path, "commit", "-m", "one")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "untracked").touch()
    assert git_state(tmp_path)["dirty"] is False
    (tmp_path / "f").write_text("2")
    assert git_state(tmp_path)["dirty"] is True


def test_versions_and_hardware_name_what_is_there():
    found = versions()
    assert found["python"].startswith("3.")
    assert found["torch"]
    cpu = hardware("cpu")
    assert cpu["device"] == cpu["cpu"] != ""
    assert cpu["cpu_cores"] >= 1
