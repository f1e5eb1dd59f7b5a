"""Sweeps as a user starts them: real processes of joblib's, and of a SLURM that is pretended."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from psc.config import compose
from psc.training.records import read_record
from psc.training.training import train

PROJECT = Path(__file__).parents[2]
FOREVER = "recipe.iterations=20000"  # as configured it would take minutes


def command(*arguments):
    return [sys.executable, str(PROJECT / "train.py"), *arguments]


@contextmanager
def start(*arguments, **environment):
    """A running command; nothing of its session is left behind, also where a test fails."""
    process = subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=PROJECT,
        env=os.environ | environment,
        start_new_session=True,  # so that its processes can be told from others
        # A shell's background jobs ignore Ctrl-C, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def wait_until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)


def processes_of(session):
    """Ids of the running processes that a session has."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def ends(session, seconds=20):
    deadline = time.monotonic() + seconds
    while processes_of(session) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes_of(session)


@pytest.mark.slow
def test_parallel_runs_skip_what_is_finished_and_survive_what_fails(tiny_run, tmp_path):
    finished = train(compose([*tiny_run, "recipe.optimizer.learning_rate=0.001"]))
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    result = subprocess.run(
        command(
            *("--multirun", *tiny_run, "hydra/launcher=local", "hydra.launcher.n_jobs=2"),
            *("recipe.optimizer.learning_rate=0.001,-1,0.002", "resume=true"),
        ),
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 1
    assert f"already finished: {tmp_path}/runs/{finished.run}" in result.stdout
    assert "1 of 3 runs failed" in result.stderr
    failure = result.stderr.split("1 of 3 runs failed")[1]
    assert "#1: " in failure
    assert "recipe.optimizer.learning_rate=-1 " in failure
    assert "learning_rate=-1.0: must be positive" in failure
    assert "Traceback" not in result.stderr

    records = [read_record(path) for path in (tmp_path / "runs").glob("*/result.json")]
    (new,) = [record for record in records if record != finished]
    assert len(records) == 2
    assert new.config["recipe"]["optimizer"]["learning_rate"] == 0.002
    cores = len(os.sched_getaffinity(0))
    assert new.hardware["torch_threads"] <= max(1, cores // 2)  # two trainings share the cores


@pytest.mark.slow
def test_an_interrupted_sweep_ends_its_workers_and_goes_on_where_it_stopped(tiny_run, tmp_path):
    sweep = [
        *("--multirun", *tiny_run, FOREVER, "block=3d,p1sc1", "resume=true"),
        *("hydra/launcher=local", "hydra.launcher.n_jobs=2"),
    ]
    with start(*sweep) as process:
        wait_until(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, process)
        assert len(processes_of(process.pid)) > 2
        process.send_signal(signal.SIGINT)  # to the sweep alone: its workers must be told by it
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resume=true" in output
    assert ends(process.pid)
    assert not list(tmp_path.rglob("result.json"))

    with start(*sweep) as process:
        continued = set()
        for line in process.stdout:
            continued |= {run for run in tmp_path.glob("runs/fibsem-*") if f"in {run}" in line}
            if len(continued) == 2:
                break
        process.kill()  # and nobody can tell them
        assert ends(process.pid)
    assert len(continued) == 2
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
def test_a_slurm_job_is_queued_again_and_resumes(tiny_run, tmp_path, slurm):
    arguments = [*tiny_run, FOREVER, "resume=true", "hydra/launcher=slurm", "block=3d"]
    with start("--multirun", *arguments, **slurm) as process:
        wait_until(lambda: list(tmp_path.rglob("last.ckpt")), process)
        (log,) = tmp_path.rglob("42_0_log.out")
        job = next(
            pid
            for pid in processes_of(process.pid)
            if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes()
            and b"bash" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(job, signal.SIGUSR2)  # SLURM's, before the time limit
        wait_until(lambda: "continues" in log.read_text(), process)
        assert "Requeued job 42" in log.read_text()
        os.killpg(process.pid, signal.SIGKILL)
    assert ends(process.pid)
    (run,) = tmp_path.glob("runs/fibsem-*")
    assert f"continues {run}/checkpoints/last.ckpt" in log.read_text()
    script = (tmp_path / "state" / "script.sh").read_text()
    for line in ("#SBATCH --requeue", "#SBATCH --gpus-per-node=1", "export OMP_NUM_THREADS=6"):
        assert line in script.splitlines()
