"""What is left to run of a table, as commands; failures of one row stop no other."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from psc.errors import ConfigError, DataError
from psc.paper import experiments as module
from psc.paper.experiments import LaunchError, RecordedRun, launch, launches, read_experiment
from psc.training.records import Record

SCRIPT = Path(__file__).parents[2] / "scripts" / "paper.py"


def pending(folder, tmp_path, **options):
    experiment = read_experiment(folder)
    return launches(experiment, experiment.protocol("cpu"), tmp_path / "runs", **options)[0]


def test_only_seeds_without_a_record_are_run(experiment_folder, add_record, tmp_path):
    add_record("3d", "cpu", seed=1)
    first, second = pending(experiment_folder, tmp_path, overrides=["trainer.workers=0"])
    assert (first.planned.row.name, first.seeds) == ("3d", (0,))
    assert first.arguments == (
        "--multirun",
        *("backbone=unet", "block=3d", "budget=quick", "dataset=fibsem_sample"),
        *("trainer.precision=32-true", "seed=0"),
        f"output_directory={tmp_path / 'runs'}",
        "logger.group=table-0",
        "resume=true",
        "trainer.workers=0",
    )
    assert (second.planned.row.name, second.seeds) == ("p2sc2", (0, 1))
    assert "seed=0,1" in second.command.split()

    add_record("3d", "cpu", seed=0)
    assert [one.planned.row.name for one in pending(experiment_folder, tmp_path)] == ["p2sc2"]


def test_rows_can_be_chosen(experiment_folder, tmp_path):
    (only,) = pending(experiment_folder, tmp_path, rows=["p2sc2"])
    assert only.planned.row.name == "p2sc2"
    with pytest.raises(ConfigError, match="no row p9; there are 3d, p2sc2"):
        pending(experiment_folder, tmp_path, rows=["p9"])


@pytest.fixture
def program(monkeypatch, tmp_path):
    """train.py replaced by a program that notes its arguments and fails for block=3d."""
    (tmp_path / "train.py").write_text(
        "import pathlib, sys\n"
        "with (pathlib.Path(__file__).parent / 'noted').open('a') as file:\n"
        "    print(*sys.argv[1:], file=file)\n"
        "sys.exit(int('code' in sys.argv) * 130 or int('block=3d' in sys.argv))\n"
    )
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    return tmp_path / "noted"


@pytest.mark.parametrize(
    ("queue", "at_once"), [((), 1), ((), 2), (("hydra/launcher=slurm",), 1)], ids=str
)
def test_a_failing_row_stops_no_other(experiment_folder, tmp_path, program, queue, at_once):
    ones = pending(experiment_folder, tmp_path, overrides=queue)
    with pytest.raises(LaunchError, match="runs of 3d failed"):
        launch(ones, at_once)
    lines = [
        line.removesuffix(" trainer.progress_bar=false")
        for line in program.read_text().splitlines()
    ]
    assert sorted(lines) == sorted(" ".join(one.arguments) for one in ones)


def test_rows_at_a_time_share_the_cores_and_say_which_they_are(
    experiment_folder, tmp_path, program, capsys, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("psc.paper.experiments.cores", lambda: 6)
    (tmp_path / "train.py").write_text("import os; print(os.environ['OMP_NUM_THREADS'], 'threads')")
    launch(pending(experiment_folder, tmp_path), at_once=2)
    assert sorted(capsys.readouterr().out.splitlines()) == ["(2,2): 3 threads", "3D: 3 threads"]


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_interruption_ends_it(experiment_folder, tmp_path, program, at_once):
    (_, last) = pending(experiment_folder, tmp_path)
    stopped = replace(last, arguments=(*last.arguments, "code"))
    with pytest.raises(KeyboardInterrupt):
        launch([stopped] * at_once + [last], at_once)
    assert len(program.read_text().splitlines()) == at_once


def test_the_command_checks_all_tables_and_says_what_it_would_run(
    experiment_folder, monkeypatch, capsys
):
    script = runpy.run_path(str(SCRIPT))
    where = ["--experiments", str(experiment_folder.parent), "--dry-run"]
    command = ["paper.py", "run", "table-0", "--protocol", "cpu", "trainer.workers=0", *where]
    monkeypatch.setattr(sys, "argv", command)
    script["main"]()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("python train.py --multirun backbone=unet block=3d budget=quick")
    assert "output_directory=runs/table-0-cpu" in first
    assert second.endswith("trainer.workers=0")

    monkeypatch.setattr(sys, "argv", [*command, "--rows", "p9"])
    with pytest.raises(SystemExit, match="no row p9"):
        script["main"]()


def experiment_script(monkeypatch, folder, *arguments):
    script = runpy.run_path(str(SCRIPT))
    where = ["--experiments", str(folder.parent), "--output", str(folder.parent / "runs")]
    monkeypatch.setattr(sys, "argv", ["paper.py", "run", *arguments, *where])
    script["main"]()


def test_where_all_is_recorded_nothing_is_run(experiment_folder, add_record, monkeypatch, capsys):
    for row in ("3d", "p2sc2"):
        for seed in (0, 1):
            add_record(row, "cpu", seed=seed)
    experiment_script(monkeypatch, experiment_folder, "table-0", "--protocol", "cpu")
    told = "table-0, protocol cpu: nothing to run: 4 records have it all; --again runs it anew\n"
    assert capsys.readouterr().err == told
    experiment_script(
        *(monkeypatch, experiment_folder, "table-0", "--protocol", "cpu"),
        *("--dry-run", "--rows", "3d", "trainer.workers=0", "seed=1"),
    )
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "nothing to run: 1 record has it all; --again" in printed.err


@pytest.mark.parametrize(
    "asked",
    [("seed=7,8",), ("--rows", "3d", "p2sc2", "seed=7,8"), ("--seeds", "7,8", "trainer.workers=0")],
)
def test_a_seed_that_has_no_record_is_run(
    experiment_folder, add_record, monkeypatch, capsys, asked
):
    """A reviewer's own: every row is recorded, with seeds 0 and 1."""
    for row in ("3d", "p2sc2"):
        for seed in (0, 1):
            add_record(row, "cpu", seed=seed)
    command = ("table-0", "--protocol", "cpu", *asked, "--dry-run")
    experiment_script(monkeypatch, experiment_folder, *command)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split().count("seed=7,8") for line in lines] == [1, 1]
    assert all("output_directory=" in line and "/table-0-cpu-own " in line for line in lines)


def test_an_override_that_changes_the_result_has_no_record(experiment_folder, add_record, tmp_path):
    for seed in (0, 1):
        add_record("3d", "cpu", seed=seed)
    for changing in ("recipe.iterations=7", "recipe.iterations=7,8"):
        one, _ = pending(experiment_folder, tmp_path, overrides=[changing])
        assert (one.seeds, one.of_table, one.output.name) == ((0, 1), False, "runs-own")
    for harmless in ("trainer.workers=0", "hydra/launcher=slurm", "hydra.launcher.partition=gpu"):
        (one,) = pending(experiment_folder, tmp_path, overrides=[harmless])
        assert (one.planned.row.name, one.of_table, one.output.name) == ("p2sc2", True, "runs")
    (one,) = pending(experiment_folder, tmp_path, rows=["3d"], seeds=[1, 2])
    assert (one.seeds, one.of_table) == ((2,), False)
    with pytest.raises(DataError, match=r"row 3d: .*no\.such"):
        pending(experiment_folder, tmp_path, overrides=["no.such=1"])


@pytest.mark.parametrize(
    "seeds", [("--seeds", "7,x"), ("seed=-1",), ("seed=1,1",), ("seed=1", "--seeds", "2")]
)
def test_seeds_that_are_none_are_refused(experiment_folder, monkeypatch, capsys, seeds):
    with pytest.raises(SystemExit):
        experiment_script(monkeypatch, experiment_folder, "table-0", *seeds)
    assert "seeds" in capsys.readouterr().err.splitlines()[-1]


def test_runs_of_no_row_are_not_collected(experiment_folder, monkeypatch, program, capsys):
    experiment_script(
        *(monkeypatch, experiment_folder, "table-0", "--protocol", "cpu"),
        *("--rows", "p2sc2", "seed=7"),
    )
    own = experiment_folder.parent / "runs" / "table-0-cpu-own"
    assert f"output_directory={own}" in program.read_text()
    assert f"{own}: of no row of table-0; python scripts/compare.py" in capsys.readouterr().out


def test_finished_runs_are_collected_although_another_row_fails(
    experiment_folder, add_record, monkeypatch, program
):
    folder = add_record("p2sc2", "cpu").parent
    finished = experiment_folder.parent / "runs" / "table-0-cpu" / folder.name
    finished.parent.mkdir(parents=True)
    folder.rename(finished)
    with pytest.raises(SystemExit, match="runs of 3d failed"):
        experiment_script(monkeypatch, experiment_folder, "table-0", "--protocol", "cpu")
    assert (experiment_folder / "records" / folder.name / "result.json").is_file()


@pytest.mark.parametrize("wrong", [("table-0", "--protocl", "cpu"), ("trainer.workers=0",)])
def test_a_mistyped_option_is_no_override(experiment_folder, monkeypatch, wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        experiment_script(monkeypatch, experiment_folder, *wrong)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def write_folds(folder, seeds):
    """A table with a protocol of three folds."""
    (folder / "runs.yaml").write_text(
        "title: t\nrows:\n  - {row: 3d, label: 3D, overrides: [backbone=densenet, block=3d]}\n"
        "paper: {title: p, seeds: [0], overrides: [budget=quick, dataset=ibsr]}\n"
        f"reduced:\n  - name: folds\n    title: f\n    seeds: {seeds}\n    rows: [3d]\n"
        "    overrides: [budget=quick, dataset=ibsr_sample, dataset.folds=3]\n"
    )
    (folder / "paper.csv").write_text("row,metric,against,value,unit,place\n")


def folded(seed, fold):
    config = {"dataset": {"folds": 3, "fold": fold}}
    return Record("r", config, *[{}] * 5, seed, *[{}] * 4, "now")


def test_every_fold_of_a_cross_validation_is_a_run(tmp_path):
    write_folds(tmp_path, seeds="[4, 5]")
    experiment = read_experiment(tmp_path)
    ((one,), _) = launches(experiment, experiment.protocol("folds"), tmp_path / "runs")
    assert {"dataset.fold=0,1,2", "seed=4,5"} <= set(one.arguments)
    (planned,) = experiment.protocol("folds").rows
    done = [(4, 0), (4, 1), (4, 2), (5, 0), (5, 2)]
    records = [folded(*one) for one in done]
    assert planned.missing(records) == [(5, 1)]


def test_only_folds_without_a_record_are_run(tmp_path, monkeypatch):
    write_folds(tmp_path, seeds="[4, 5, 6, 7]")
    experiment = read_experiment(tmp_path)
    protocol = experiment.protocol("folds")
    (planned,) = protocol.rows
    done = [(4, 0), (4, 1), (4, 2), (5, 0), (5, 2), (6, 0), (6, 2), (7, 1)]
    runs = [RecordedRun(tmp_path, folded(*one), protocol, planned) for one in done]
    monkeypatch.setattr(module, "read_records", lambda _: runs)
    found, records = launches(experiment, protocol, tmp_path / "runs")
    assert [(one.seeds, one.folds) for one in found] == [((5, 6), (1,)), ((7,), (0, 2))]
    assert {"dataset.fold=0,2", "seed=7"} <= set(found[1].arguments)
    assert records == len(done)
