"""Sweeps without processes: what their configurations stand for, and what a job does."""

import io
import itertools
import json
import pickle
import sys
from concurrent.futures import BrokenExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf

from psc import cli, machine
from psc.config import choices, compose
from psc.config.compose import CONFIG_DIRECTORY, register
from psc.errors import ConfigError
from psc.training import training
from psc.training.records import write_record


def with_hydra(*overrides):
    """The composed configuration and Hydra's own, resolved."""
    register()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        return hydra_compose("train", overrides=list(overrides), return_hydra_config=True)


def jobs_of(sweep, *arguments):
    """Overrides of every job that ``train.py sweep=<sweep> <arguments>`` starts."""
    params = with_hydra(f"sweep={sweep}").hydra.sweeper.params
    overrides = OverridesParser.create().parse_overrides(
        [*(f"{key}={value}" for key, value in params.items()), f"sweep={sweep}", *arguments]
    )
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def test_mn_is_every_m_and_n():
    jobs = [dict(override.split("=", 1) for override in job) for job in jobs_of("mn")]
    found = [(int(job["block.m"]), int(job["block.n"])) for job in jobs]
    assert found == list(itertools.product((1, 2, 3), repeat=2))
    config = compose(jobs_of("mn")[-1])
    assert (config.block.m, config.block.n, config.resume) == (3, 3, True)


def test_grid_is_every_block_of_every_backbone_that_trains():
    jobs = [dict(override.split("=", 1) for override in job) for job in jobs_of("grid")]
    blocks = {path.stem for path in (CONFIG_DIRECTORY / "block").glob("*.yaml")}
    # Not a block of its own: any m and n, and a width that is a calibration of ours
    blocks = {name for name in blocks if name != "psc" and not name.endswith("_calibrated")}
    recipes = {path.name for path in (CONFIG_DIRECTORY / "recipe").iterdir()}
    # torchvision's size, and a baseline that is what it is with its own convolutions only
    recipes -= {"resnet18", "densenet_bui"}
    found = [(job["backbone"], job["block"]) for job in jobs]
    assert sorted(found) == sorted(itertools.product(recipes, blocks))
    config = compose(jobs_of("grid")[-1])
    assert (config.backbone.name, config.block.name) == found[-1]


def test_the_command_line_wins():
    assert len(jobs_of("mn", "block.m=2", "seed=0,1")) == 6
    assert compose(["sweep=mn", "resume=false"]).resume is False
    assert compose([]).resume is False
    for name in ("mn", "grid"):
        assert with_hydra(f"sweep={name}").hydra.mode == RunMode.MULTIRUN
    assert with_hydra().hydra.mode is None


@pytest.mark.parametrize(("gpus", "expected"), [(0, -1), (4, 4)])
def test_local_runs_one_job_per_gpu_or_core(monkeypatch, gpus, expected):
    monkeypatch.setattr(choices, "gpus", lambda: gpus)
    launcher = with_hydra("hydra/launcher=local").hydra.launcher
    assert launcher.n_jobs == expected
    assert launcher.batch_size == "1"


def test_slurm_asks_for_what_a_run_needs(tmp_path, monkeypatch):
    """The script that sbatch would get, by Hydra's launcher and submitit themselves."""
    (tmp_path / "srun").touch(mode=0o755)  # submitit only looks whether it is there
    monkeypatch.setenv("PATH", str(tmp_path))
    scripts = []

    def submit(executor, *_):
        scripts.append(executor._executor._make_submission_file_text("python run", "uid"))
        return []

    monkeypatch.setattr("submitit.AutoExecutor.map_array", submit)
    config = with_hydra(
        "hydra/launcher=slurm",
        "hydra.launcher.partition=gpu",
        "hydra.job.name=train",
        "hydra.job.num=0",
        "trainer.devices=2",
        f"output_directory={tmp_path}",
    )
    HydraConfig.instance().set_config(config)
    launcher = instantiate(config.hydra.launcher)
    launcher.setup(hydra_context=None, task_function=None, config=config)
    launcher.launch([["block=3d"], ["block=p1sc1"]], initial_job_idx=0)
    for line in (
        "#SBATCH --job-name=train",
        "#SBATCH --partition=gpu",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --time=720",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --cpus-per-task=6",
        "export OMP_NUM_THREADS=6",
        "export SRUN_CPUS_PER_TASK=6",
    ):
        assert line in scripts[0].splitlines()


def test_the_dry_run_needs_no_cluster():
    launcher = with_hydra("hydra/launcher=slurm_dry_run").hydra.launcher
    assert launcher._target_.endswith("LocalLauncher")


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep in ``tmp_path/sweep`` whose present job is number 3; returns Hydra's settings."""
    folder = tmp_path / "sweep" / "3"
    folder.mkdir(parents=True)
    hydra = SimpleNamespace(
        mode=RunMode.MULTIRUN,
        overrides=SimpleNamespace(task=["block=3d", "seed=1"]),
        runtime=SimpleNamespace(output_dir=str(folder)),
        launcher=OmegaConf.create({}),
    )
    monkeypatch.setattr(cli.HydraConfig, "get", lambda: hydra)
    return hydra


CONFIG = OmegaConf.create({"resume": False})


def job(main):
    return cli.Job(main, Path("/there/train.py"))


def raising(error):
    def main(config):
        raise error

    return main


def test_a_failure_is_noted_with_its_overrides_and_reported(sweep, tmp_path):
    for number in (0, 1, 10):
        (tmp_path / "sweep" / str(number)).mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    with pytest.raises(cli.JobFailedError) as failed:
        job(raising(ConfigError("block.m=4: allowed are 1, 2 and 3")))(CONFIG)
    # What reaches the process that started the sweep is pickled
    (folder,) = pickle.loads(pickle.dumps(failed.value)).args
    report = cli.failure_report(Path(folder))
    assert report.startswith("1 of 4 runs failed")
    assert "#3: block=3d seed=1" in report
    assert "    block.m=4: allowed are 1, 2 and 3" in report
    assert "Traceback" not in report


def test_a_defect_of_ours_keeps_its_traceback(sweep):
    with pytest.raises(cli.JobFailedError) as failed:
        job(raising(ZeroDivisionError("oh")))(CONFIG)
    report = cli.failure_report(Path(failed.value.args[0]))
    assert "Traceback" in report
    assert "ZeroDivisionError: oh" in report


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_failure(sweep, error):
    with pytest.raises(error):
        job(raising(error()))(CONFIG)
    assert not list(Path(sweep.runtime.output_dir).iterdir())


def test_outside_a_sweep_an_error_is_told_and_a_defect_left_alone(sweep, capsys):
    sweep.mode = RunMode.RUN
    with pytest.raises(SystemExit, match="1"):
        job(raising(ConfigError("why")))(CONFIG)
    assert capsys.readouterr().err == "error: why\n"
    with pytest.raises(ValueError, match="ours"):
        job(raising(ValueError("ours")))(CONFIG)


def test_a_job_s_command_line_is_its_own(sweep, monkeypatch):
    """Lightning repeats it for every other process of a distributed run."""
    main_module = sys.modules["__main__"]
    before = list(sys.argv), main_module.__spec__
    seen = []
    job(lambda config: seen.append((sys.argv, main_module.__spec__)))(CONFIG)
    # With the mode, as sweep=mn would make a sweep of its own of it
    assert seen == [(["/there/train.py", "block=3d", "seed=1", "hydra.mode=RUN"], None)]
    assert (sys.argv, main_module.__spec__) == before


def test_a_job_that_is_queued_again_must_resume(sweep):
    sweep.launcher = OmegaConf.create({"max_num_timeout": 20})
    done = []
    with pytest.raises(cli.JobFailedError):
        job(done.append)(CONFIG)
    note = json.loads((Path(sweep.runtime.output_dir) / cli.FAILURE).read_text())
    assert "set resume=true" in note["message"]
    job(done.append)(OmegaConf.create({"resume": True}))
    assert done == [{"resume": True}]


def test_a_job_prepares_the_process_that_receives_it(monkeypatch):
    prepared = []
    pickled = cloudpickle.dumps(job(lambda config: None))
    monkeypatch.setattr(machine, "prepare_worker", lambda: prepared.append(True))
    received = pickle.load(io.BytesIO(pickled))
    assert prepared == [True]
    assert received.script == Path("/there/train.py")
    assert received.__wrapped__ is received.main  # Hydra takes the program's name from it


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (BrokenExecutor("exit codes: {SIGKILL(-9)}"), 1, "hydra.launcher.n_jobs"),
        (KeyboardInterrupt(), 130, "resume=true continues"),
    ],
)
def test_a_sweep_that_ends_early_says_how_to_go_on(monkeypatch, capsys, error, status, message):
    def program():
        raise error

    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr("hydra.main", lambda **_: lambda job: program)
    with pytest.raises(SystemExit) as ended:
        cli.run("train", lambda config: None)
    assert ended.value.code == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("same_code", [True, False])
def test_a_finished_run_of_other_code_is_skipped_but_not_silently(
    finished_run, tmp_path, monkeypatch, caplog, same_code
):
    record, _, overrides = finished_run
    commit, now = "a" * 40, {"commit": ("a" if same_code else "b") * 40, "dirty": False}
    (tmp_path / record.run).mkdir()
    old = replace(record, git={"commit": commit, "dirty": False})
    write_record(old, tmp_path / record.run)
    monkeypatch.setattr(training, "_code_of_this_process", lambda: now)
    again = training.train(compose([*overrides, "resume=true", f"output_directory={tmp_path}"]))
    assert again == old
    warnings = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    if same_code:
        assert not warnings
    else:
        (warning,) = warnings
        for text in (record.run, "aaaaaaaa", "bbbbbbbb", "resume=false"):
            assert text in warning
