"""Sweeps as a user starts them: real processes of joblib's, and of a SLURM that is pretended."""

import os
import signal
import time
from pathlib import Path

import pytest

from psc.config import compose
from psc.training.records import read_record
from psc.training.training import train

FOREVER = "recipe.iterations=20000"  # as configured it would take minutes


def processes_of(session, library=""):
    """Ids of the running processes that a session has; only those that have loaded a library."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) != session or fields[0] == "Z":
                continue
            loaded = stat.with_name("maps").read_text()
        except OSError:
            continue  # ended meanwhile
        if library in loaded:
            found.append(int(stat.parent.name))
    return found


def ends(session, library="", seconds=20):
    deadline = time.monotonic() + seconds
    while processes_of(session, library) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(session, library)


@pytest.mark.slow
def test_parallel_runs_skip_what_is_finished_and_survive_what_fails(start, tiny_run, tmp_path):
    finished = train(compose([*tiny_run, "recipe.optimizer.learning_rate=0.001"]))
    sweep = start(
        *("train.py", "--multirun", *tiny_run, "hydra/launcher=local", "hydra.launcher.n_jobs=2"),
        *("recipe.optimizer.learning_rate=0.001,-1,0.002", "resume=true"),
        environment={name: None for name in os.environ if "NUM_THREADS" in name},
    )
    assert sweep.wait() == 1
    assert f"already finished: {tmp_path}/runs/{finished.run}" in sweep.text
    assert "1 of 3 runs failed" in sweep.text
    failure = sweep.text.split("1 of 3 runs failed")[1]
    assert "#1: " in failure
    assert "recipe.optimizer.learning_rate=-1 " in failure
    assert "learning_rate=-1.0: must be positive" in failure
    assert "Traceback" not in sweep.text

    records = [read_record(path) for path in (tmp_path / "runs").glob("*/result.json")]
    (new,) = [record for record in records if record != finished]
    assert len(records) == 2
    assert new.config["recipe"]["optimizer"]["learning_rate"] == 0.002
    cores = len(os.sched_getaffinity(0))
    assert new.hardware["torch_threads"] <= max(1, cores // 2)  # two trainings share the cores


@pytest.mark.slow
def test_an_interrupted_sweep_ends_its_workers_and_goes_on_where_it_stopped(
    start, tiny_run, tmp_path
):
    sweep = ["--multirun", *tiny_run, FOREVER, "resume=true"]
    sweep += ["hydra/launcher=local", "hydra.launcher.n_jobs=2"]
    interrupted = start("train.py", *sweep, "block=3d,p1sc1")
    interrupted.until(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2)
    assert len(processes_of(interrupted.pid)) > 2
    os.kill(interrupted.pid, signal.SIGINT)  # to the sweep alone: its workers must be told by it
    assert interrupted.wait(60) == 130
    assert "resume=true" in interrupted.text
    assert ends(interrupted.pid)
    assert not list(tmp_path.rglob("result.json"))

    runs = sorted(tmp_path.glob("runs/fibsem-*"))
    assert ["3d" in runs[0].name, "p1sc1" in runs[1].name, len(runs)] == [True, True, 2]
    killed = start("train.py", *sweep, "block=p1sc1")
    killed.until(lambda: f"continues {runs[1]}/checkpoints/last.ckpt" in killed.text)
    assert len(processes_of(killed.pid, "libtorch")) == 2
    os.kill(killed.pid, signal.SIGKILL)  # and nobody can tell them
    killed.wait()
    assert ends(killed.pid, "libtorch")  # joblib's second worker, which had no run, ends by itself
    assert len(list(tmp_path.glob("runs/fibsem-*"))) == 2


SBATCH = """#!/bin/bash
cp "$1" "$STATE/script.sh"
while
  rm -f "$STATE/requeued"
  SLURM_JOB_ID=42 SLURM_JOB_NAME=train bash "$1"
  [ -e "$STATE/requeued" ]
do :; done >"$STATE/output" 2>&1 </dev/null &
echo 'Submitted batch job 42'
"""

SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do
  [ "$1" = --output ] && file="${2//%j/42}"
  [[ "$1" == --output || "$1" == --error ]] && shift
  shift
done
mkdir -p "${file%/*}"  # submitit makes it only when sbatch has returned
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_NTASKS_PER_NODE=1
exec "$@" >>"${file//%t/0}" 2>&1
"""


@pytest.fixture
def slurm(tmp_path):
    """Environment with a SLURM that starts a job on this machine, and again if it is requeued."""
    state, programs = tmp_path / "state", tmp_path / "bin"
    state.mkdir()
    programs.mkdir()
    for name, text in {
        "sbatch": SBATCH,
        "srun": SRUN,
        "scontrol": '#!/bin/bash\necho "$@" >>"$STATE/requeued"\n',
        "sacct": "#!/bin/bash\nprintf 'JobID|State|NodeList\\n42|RUNNING|here\\n'\n",
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {"STATE": str(state), "PATH": f"{programs}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_a_slurm_job_is_queued_again_and_resumes(start, tiny_run, tmp_path, slurm):
    arguments = [*tiny_run, FOREVER, "resume=true", "hydra/launcher=slurm", "block=3d"]
    sweep = start("train.py", "--multirun", *arguments, environment=slurm)
    sweep.until(lambda: list(tmp_path.rglob("last.ckpt")))
    (log,) = tmp_path.rglob("42_0_log.out")
    job = next(
        pid
        for pid in processes_of(sweep.pid)
        if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"bash" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    os.kill(job, signal.SIGUSR2)  # SLURM's, before the time limit
    sweep.until(lambda: "continues" in log.read_text())
    assert "Requeued job 42" in log.read_text()
    sweep.kill()
    assert ends(sweep.pid)
    (run,) = tmp_path.glob("runs/fibsem-*")
    assert f"continues {run}/checkpoints/last.ckpt" in log.read_text()
    script = (tmp_path / "state" / "script.sh").read_text()
    for line in ("#SBATCH --requeue", "#SBATCH --gpus-per-node=1", "export OMP_NUM_THREADS=6"):
        assert line in script.splitlines()
