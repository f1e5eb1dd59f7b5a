"""Records move into a table's folder unchanged but for the machine's path, once, or not at all."""

import json
from dataclasses import replace

import pytest

from psc.errors import DataError
from psc.paper.collecting import collect
from psc.paper.experiments import read_experiment
from psc.training.records import read_record, write_record


@pytest.fixture
def runs(experiment_folder, add_record, tmp_path):
    """A folder with one finished run of the table, which is not recorded yet."""
    folder = add_record("3d", "cpu").parent
    record = read_record(folder)
    moved = tmp_path / "runs" / folder.name
    moved.parent.mkdir()
    folder.rename(moved)
    write_record(replace(record, config={**record.config, "output_directory": "/home/me"}), moved)
    (moved / "metrics.csv").write_text("step\n")
    return moved.parent


def test_copied_once_without_the_machines_path(experiment_folder, runs):
    experiment = read_experiment(experiment_folder)
    (run,) = runs.iterdir()
    there = experiment_folder / "records" / run.name
    assert collect(experiment, runs) == [there]
    original, copied = read_record(run), read_record(there)
    assert copied == replace(original, config={**original.config, "output_directory": "runs"})
    assert "/home/me" not in (there / "result.json").read_text()
    assert (there / "metrics.csv").read_text() == "step\n"
    assert collect(experiment, runs) == []

    write_record(replace(original, parameters=1), run)
    with pytest.raises(DataError, match=f"another record of run {original.run}"):
        collect(experiment, runs)
    assert read_record(there) == copied


def test_nothing_is_copied_if_one_run_is_of_another_table(experiment_folder, runs):
    (run,) = runs.iterdir()
    record = read_record(run)
    config = json.loads(json.dumps(record.config))
    config["recipe"]["iterations"] += 1
    (runs / "z").mkdir()
    write_record(replace(record, run="z", config=config), runs / "z")
    with pytest.raises(DataError, match="fits no row"):
        collect(read_experiment(experiment_folder), runs)
    assert list((experiment_folder / "records").iterdir()) == []


def test_a_record_that_was_changed_by_hand_is_not_copied(experiment_folder, runs):
    (run,) = runs.iterdir()
    text = (run / "result.json").read_text()
    (run / "result.json").write_text(text.replace('"total": 2.0', '"total": 1.0'))
    with pytest.raises(DataError, match="seal"):
        collect(read_experiment(experiment_folder), runs)
    assert list((experiment_folder / "records").iterdir()) == []
