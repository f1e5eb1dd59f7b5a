"""A run as a job of a sweep: its failure is noted and told at the end, and stops no other job.

Hydra starts the jobs, by one of its launchers (``configs/hydra/launcher``): one after the other in
this process, several at once in processes of joblib's, or through SLURM on other machines.
"""

import functools
import itertools
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from psc.errors import ConfigError
from psc.files import try_lock
from psc.training.records import write_json

# ----------------------------------------
# Processes in which joblib runs several jobs of a sweep at once.
#
# Each ends with the process that started it, and has a GPU to itself where there are several.
# (joblib itself divides the cores among them: OMP_NUM_THREADS and its like.)


WATCH_SECONDS = 1.0
"""A worker outlives its parent by no more than about this."""

_prepared = threading.Event()
_held: list[ExitStack] = []


def prepare_worker() -> None:
    """Called in every process that receives a job; does its work once, and only in a worker."""
    if not multiprocessing.current_process().name.startswith("LokyProcess"):
        return
    if not _prepared.is_set():
        _prepared.set()
        _end_with_parent()
        claim_gpu()


def _end_with_parent() -> None:
    """End this process when its parent does, however that ended; last.ckpt is complete anyway.

    A worker that goes on alone would be in the way of the sweep that is started again.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def claim_gpu(folder: Path | None = None) -> None:
    """Let this process see one GPU only: the one that the fewest other workers have claimed.

    Must come before CUDA is initialised. Nothing happens where there is one GPU or none.

    Args:
        folder: where the claims of this machine's processes are; by default a temporary one.
    """
    count = torch.cuda.device_count()
    if count < 2:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[:count] if visible else [str(i) for i in range(count)]
    folder = folder or Path(tempfile.gettempdir()) / f"psc-gpus-{os.getuid()}"
    for turn in itertools.count():
        for gpu in gpus:
            if lock := try_lock(folder / f"{gpu}-{turn}.lock"):
                _held.append(lock)  # until this process ends
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                return


log = logging.getLogger(__name__)

FAILURE = "failure.json"
"""In the folder of a job that failed, ``<output_directory>/sweeps/<date>/<number>/``."""


class JobFailedError(Exception):
    """At least one job of a sweep has failed; its only argument is the sweep's folder."""


def register() -> None:
    """Make ``parallel_runs`` known to Hydra's configuration (idempotent)."""
    OmegaConf.register_new_resolver("parallel_runs", parallel_runs, replace=True)


def parallel_runs() -> int:
    """Runs at once on this machine, in joblib's terms: one per GPU, else -1, one per core."""
    return torch.cuda.device_count() or -1


class Job:
    """What Hydra calls for every run; it may be called in another process than it was made in.

    Args:
        main: the program of one run.
        script: path of the program, to start it again.
        explain: an exception in words for the user.
    """

    def __init__(
        self,
        main: Callable[[DictConfig], object],
        script: Path,
        explain: Callable[[BaseException], str],
    ) -> None:
        functools.update_wrapper(self, main)  # Hydra takes names from it
        self.main, self.script, self.explain = main, script, explain

    def __call__(self, config: DictConfig) -> None:
        """Run; in a sweep note a failure before it is raised.

        Raises:
            JobFailedError: in a sweep, for any exception but an interruption. Hydra still starts
                the other jobs of the sweep.
        """
        hydra = HydraConfig.get()
        if hydra.mode != RunMode.MULTIRUN:
            self.main(config)
            return
        overrides = [str(override) for override in hydra.overrides.task]
        try:
            _check_requeueing(config)
            with _command_line(self.script, overrides):
                self.main(config)
        except Exception as error:
            message = self.explain(error)
            log.error("failed: %s\n%s", " ".join(overrides), message)
            folder = Path(hydra.runtime.output_dir)
            write_json({"overrides": overrides, "message": message}, folder / FAILURE)
            # Plain text, as not every exception survives the way back from another process.
            raise JobFailedError(str(folder.parent)) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled for another process, which is prepared before Hydra composes anything there."""
        return _job_in_a_worker, (self.main, self.script, self.explain)


def _job_in_a_worker(*arguments: Any) -> Job:
    prepare_worker()
    return Job(*arguments)


def _check_requeueing(config: DictConfig) -> None:
    """Refuse a job that its launcher queues again, and that would then begin at the beginning."""
    launcher = HydraConfig.get().launcher
    if OmegaConf.select(launcher, "max_num_timeout") and config.get("resume") is False:
        raise ConfigError(
            "resume=false with hydra.launcher.max_num_timeout="
            f"{launcher.max_num_timeout}: a job that is queued again would train from the "
            "beginning; set resume=true"
        )


def failure_report(sweep: Path) -> str:
    """Which jobs of a sweep have failed, with what overrides, and why.

    Args:
        sweep: its folder, with one folder for each job.
    """
    jobs = sorted((p for p in sweep.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    failed = {job: json.loads((job / FAILURE).read_text()) for job in jobs if _has_failed(job)}
    lines = [f"{len(failed)} of {len(jobs)} runs failed; the others are finished"]
    for job, failure in failed.items():
        lines.append(f"#{job.name}: {' '.join(failure['overrides'])}")
        lines += [f"    {line}" for line in failure["message"].splitlines()]
    lines.append(f"(noted in {sweep}; the same sweep with resume=true runs these only)")
    return "\n".join(lines)


def _has_failed(job: Path) -> bool:
    return (job / FAILURE).is_file()


@contextmanager
def _command_line(script: Path, overrides: list[str]) -> Iterator[None]:
    """Make the process's command line that of the job alone.

    Lightning starts the other processes of a distributed run by repeating the command line, which
    would start the whole sweep again in each of them, or a worker of the launcher's.
    """
    program: Any = sys.modules["__main__"]
    saved = sys.argv, program.__spec__
    sys.argv = [str(script), *overrides, f"hydra.mode={RunMode.RUN.name}"]
    program.__spec__ = None  # else it is repeated as python -m <module of the launcher>
    try:
        yield
    finally:
        sys.argv, program.__spec__ = saved
