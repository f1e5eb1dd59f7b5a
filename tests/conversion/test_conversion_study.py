"""The study of converted networks: every start is run as commands, recorded, and reported."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest

from psc.errors import ConfigError, DataError
from psc.training.records import read_record

ROOT = Path(__file__).parents[2]
COLLECTED = ROOT / "experiments" / "conversion"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("study", COLLECTED / "study.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["study"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_start_is_converted_tested_trained_on_and_collected_once(
    study, program, tiny_run, tmp_path, monkeypatch, capfd
):
    commands = []

    def run(*command):
        commands.append(command)
        done = program(*command)
        assert done.code == 0, done.errors

    monkeypatch.setattr(study, "_run", run)
    overrides = tuple(text for text in tiny_run if not text.startswith("output_directory="))
    into = tmp_path / "collected"
    seed_0 = study.Study(tmp_path / "runs", 0, 4, 1e-3, into, overrides)
    (start,) = (start for start in study.STARTS if start.name == "p2sc1-calibrated")
    trained = seed_0.trained()
    seed_0.follow(start, trained)
    assert [command[0] for command in commands] == [
        "train.py",
        "scripts/convert.py",
        "evaluate.py",
        "train.py",
    ]
    assert "calibrate=true" in commands[1]
    names = ["3d-seed0", "p2sc1-calibrated-right-away-seed0", "p2sc1-calibrated-seed0"]
    assert sorted(path.name for path in (into / "records").iterdir()) == names
    record = read_record(into / "records" / names[2])
    assert record.data["conversion"]["m"] == 2
    assert record.config["initial_weights"] == "p2sc1-calibrated-seed0.ckpt"
    assert record.config["output_directory"] == "runs"
    with (into / "starts-seed0.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["initial_weights"] == record.data["initial_weights"]
    assert int(row["parameters"]) == record.parameters

    # What is there is not done again.
    def refuse(*command):
        raise AssertionError(command)

    monkeypatch.setattr(study, "_run", refuse)
    seed_0.follow(start, seed_0.trained())

    monkeypatch.setattr(sys, "argv", ["study.py", "--report", "--into", str(into)])
    monkeypatch.setattr(study, "PANELS", {"two streams": "p2sc1"})
    study.main()
    table = capfd.readouterr().out
    assert f"| {record.parameters:,} | {float(row['validation_loss']):.3f} |" in table
    assert (into / "curves.png").stat().st_size > 3_000


def test_the_readme_has_the_table_of_the_committed_records(study):
    outcomes = study.read_outcomes(COLLECTED)
    text = (COLLECTED / "README.md").read_text(encoding="utf-8")
    for outcome in outcomes.values():
        assert f"| {' | '.join(outcome.row())} |" in text
    of_one_start = [
        {record.config["recipe"]["iterations"] for record in outcome.after}
        for outcome in outcomes.values()
    ]
    assert all(len(iterations) == 1 for iterations in of_one_start)


def test_nothing_collected_is_said(study, tmp_path):
    with pytest.raises(DataError, match="run the study"):
        study.read_outcomes(tmp_path)


def test_curves_begin_before_the_first_iteration_and_are_means_over_seeds(study, tmp_path):
    paths = []
    for seed, (first, second) in enumerate([(0.5, 0.3), (0.7, 0.5)]):
        path = tmp_path / f"{seed}.csv"
        path.write_text(f"step,validation/loss\n24,{first}\n49,{second}\n")
        paths.append(path)
    outcome = study.Outcome("a", (0, 1), (0.9, 1.1), (), tuple(paths), ())
    x, y = outcome.points()
    assert x == [0, 25, 50]
    assert y == pytest.approx([1.0, 0.6, 0.4])
    paths[1].write_text("step,validation/loss\n24,1\n")
    with pytest.raises(ConfigError, match="a: seeds were validated at different iterations"):
        outcome.points()
