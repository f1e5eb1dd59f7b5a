"""The commands as a user types them: real processes, their output and exit codes."""

import os
import signal

import pytest

from psc.training.records import read_record


def records(folder):
    return [read_record(path) for path in sorted(folder.glob("*/result.json"))]


def test_multirun_leaves_one_record_per_run_and_compare_shows_them(program, tiny_run, tmp_path):
    result = program("train.py", "--multirun", *tiny_run, "block=3d,p1sc1")
    assert result.code == 0, result.errors
    found = records(tmp_path / "runs")
    assert [record.config["block"]["name"] for record in found] == ["3d", "p1sc1"]
    assert found[0].parameters != found[1].parameters

    summary = program("scripts/compare.py", tmp_path / "runs")
    assert summary.code == 0, summary.errors
    for record in found:
        assert f"{record.parameters:,}" in summary.output
        assert f"{record.metrics['test']['total']:.3f}" in summary.output
    assert "no network" in summary.output
    assert (tmp_path / "runs" / "summary.png").stat().st_size > 5_000


@pytest.mark.slow
def test_two_processes_train_one_network_and_then_another(start, tiny_run, tmp_path):
    distributed = ["trainer.devices=2", "trainer.strategy=ddp"]
    # By sweep=…, which the second process must not take for a sweep of its own
    sweep = ["sweep=mn", "block.m=1", "block.n=1", "seed=0,1"]
    result = start("train.py", *tiny_run, *distributed, *sweep)
    assert result.wait() == 0, result.text
    found = records(tmp_path / "runs")
    assert [(record.seed, record.iterations) for record in found] == [(0, 6), (1, 6)]
    assert {record.hardware["processes"] for record in found} == {2}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == sorted(
        ["sweeps", *(record.run for record in found)]
    )
    assert len(list((tmp_path / "runs" / "sweeps").iterdir())) == 1


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_continue_and_does(start, tiny_run, tmp_path):
    overrides = [*tiny_run, "recipe.iterations=20000"]
    interrupted = start("train.py", *overrides)
    interrupted.until(lambda: list(tmp_path.rglob("last.ckpt")))
    os.kill(interrupted.pid, signal.SIGINT)
    assert interrupted.wait() == 130
    assert "resume=true" in interrupted.text
    (folder,) = (tmp_path / "runs").iterdir()
    assert not (folder / "result.json").exists()
    # As configured it would take minutes to finish; that it goes on from the checkpoint is enough.
    resumed = start("train.py", *overrides, "resume=true")
    resumed.until(lambda: f"continues {folder / 'checkpoints' / 'last.ckpt'}" in resumed.text)


def test_help_shows_choices_and_examples(program):
    result = program("train.py", "--help")
    assert result.code == 0
    for text in ("python train.py backbone=unet block=p2sc2", "block: 3d, p1sc1", "resume"):
        assert text in result.output


MISTAKES = {
    "backbone.widht=4": ["backbone.widht", "base_width, depth, growth"],
    "block=4d": ["block/4d", "p2sc2"],
    "block=psc block.m=4": ["block.m=4", "1, 2 and 3"],
    "recipe.iterations=few": ["recipe.iterations", "Integer"],
    "dataset.train=[{raw:/nowhere.h5}]": ["/nowhere.h5", "does not exist"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_end_with_one_message_and_no_traceback(program, line, tmp_path):
    result = program("train.py", *line.split(), "budget=quick", f"output_directory={tmp_path}")
    assert result.code == 1
    assert "Traceback" not in result.errors
    assert "Error executing job" not in result.errors  # which is what Hydra says of it
    for message in MISTAKES[line]:
        assert message in result.errors


def test_evaluate_names_a_missing_checkpoint(start, tmp_path):
    """In a process of its own: the exit code is what a shell sees."""
    started = start("evaluate.py", f"checkpoint={tmp_path}/none.ckpt")
    assert started.wait() == 1
    assert "no checkpoint at" in started.text
    assert "Traceback" not in started.text
