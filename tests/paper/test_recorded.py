"""Records find their rows by their configuration; what is wrong with one stops everything."""

import json
import shutil
from dataclasses import replace

import pytest

from psc.errors import DataError
from psc.paper.experiments import collect, read_experiment, read_records
from psc.training.records import Record, read_record, write_record


def records(folder):
    return read_records(read_experiment(folder))


def test_each_at_its_row_and_protocol(experiment_folder, add_record):
    add_record("3d", "cpu", seed=1)
    add_record("p2sc2", "paper", kind="real")
    found = {
        (r.protocol.name, r.planned.row.name, r.record.seed) for r in records(experiment_folder)
    }
    assert found == {("cpu", "3d", 1), ("paper", "p2sc2", 0)}


def changed(path, **settings):
    """The record with other values of its configuration, sealed again."""
    record = read_record(path)
    config = json.loads(json.dumps(record.config))
    for key, value in settings.items():
        part, name = key.split("__")
        config[part][name] = value
    return write_record(replace(record, config=config), path.parent)


def test_what_cannot_change_a_result_does_not_count(experiment_folder, add_record):
    path = add_record()
    changed(path, trainer__workers=3, trainer__devices="auto", logger__wandb=True)
    changed(path, trainer__precision="auto")  # which was float32 on a CPU
    assert records(experiment_folder)[0].planned.row.name == "3d"


def test_keys_that_older_code_did_not_know_have_their_defaults(experiment_folder, add_record):
    path = add_record()
    record = read_record(path)
    config = json.loads(json.dumps(record.config))
    del config["recipe"]["malis_from"], config["backbone"]["in_channels"], config["block"]["merge"]
    write_record(replace(record, config=config), path.parent)
    assert records(experiment_folder)[0].planned.row.name == "3d"


def test_missing_runs(experiment_folder, add_record):
    add_record(seed=1)
    experiment = read_experiment(experiment_folder)
    rows = experiment.protocol("cpu").rows
    runs = read_records(experiment)
    records = [[run.record for run in runs if run.planned is row] for row in rows]
    missing = [row.missing(own) for row, own in zip(rows, records, strict=True)]
    assert missing == [[(0, 0)], [(0, 0), (1, 0)]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe__iterations": 50}, "recipe.iterations=50 and not 1200"),
        ({"backbone__base_width": 24}, "backbone.base_width=24 and not 8"),
        ({"segmentation__scoring": "mean"}, "segmentation.scoring=mean and not hist_quant_50"),
        ({"trainer__precision": "bf16-mixed"}, "trainer.precision=bf16-mixed and not 32-true"),
        ({"dataset__test": [{"raw": "x.h5", "z": [0, 9]}]}, "dataset.test="),
    ],
)
def test_a_record_of_another_table_is_refused(experiment_folder, add_record, settings, message):
    changed(add_record(), **settings)
    with pytest.raises(
        DataError, match=r"fits no row of table-0\. The nearest is row 3d of"
    ) as error:
        records(experiment_folder)
    assert message in str(error.value)


def test_a_record_of_another_application_is_refused(experiment_folder, add_record):
    path = add_record()
    write_record(replace(read_record(path), config={"backbone": {"name": "mlp"}}), path.parent)
    with pytest.raises(DataError, match="fits no row of table-0"):
        records(experiment_folder)


def test_two_records_of_one_run_are_refused(experiment_folder, add_record):
    path = add_record()
    shutil.copytree(path.parent, path.parent.with_name("copy"))
    with pytest.raises(DataError, match="are records of one run, cpu-3d-seed0-aaaa; delete one"):
        records(experiment_folder)


def test_a_number_changed_by_hand_is_refused(experiment_folder, add_record):
    path = add_record(total=2.0)
    text = path.read_text()
    assert text.count('"total": 2.0') == 1
    path.write_text(text.replace('"total": 2.0', '"total": 1.0'))
    with pytest.raises(DataError, match="was edited by hand"):
        records(experiment_folder)


def test_a_seed_that_nobody_planned_is_refused(experiment_folder, add_record):
    add_record(seed=5)
    with pytest.raises(DataError, match=r"seed 5 is not one of row 3d of protocol cpu \(0, 1\)"):
        records(experiment_folder)


@pytest.mark.parametrize("kind", ["synthetic", "real sample"])
def test_the_papers_protocol_takes_real_data_only(experiment_folder, add_record, kind):
    add_record("3d", "paper", kind=kind)
    with pytest.raises(
        DataError, match=f"is of {kind} data, but row 3d of protocol paper has real"
    ):
        records(experiment_folder)


def test_record_has_no_field_for_a_seal():
    assert "seal" not in Record.__dataclass_fields__  # it always fits the content


def test_a_time_limit_counts_only_where_it_has_ended_the_training(experiment_folder, add_record):
    path = add_record("3d", "cpu")
    record = read_record(path)
    recipe = record.config["recipe"] | {"max_minutes": 30}
    limited = replace(record, config=record.config | {"recipe": recipe})
    write_record(limited, path.parent)
    (run,) = records(experiment_folder)
    assert run.protocol.name == "cpu"
    write_record(replace(limited, iterations=record.iterations - 1), path.parent)
    with pytest.raises(DataError, match=r"recipe\.max_minutes=30\.0 and not None"):
        records(experiment_folder)


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
    other = replace(original, run="other", seed=1, config={**original.config, "seed": 1})
    (runs / "other").mkdir()
    write_record(other, runs / "other")
    with pytest.raises(DataError, match=f"another record of run {original.run}; .*collected: 1"):
        collect(experiment, runs)
    assert read_record(there) == copied
    assert read_record(there.with_name("other")).run == "other"  # the new one is not lost


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
