"""The process set up for computing: how its threads wait, what memory it keeps, which GPU it has.

``set_up`` is for programs, before anything imports torch, with which OpenMP reads how to wait;
``import psc`` as a library changes nothing. What the user has set always wins.

- A thread that spins at a barrier keeps the processor from the one that it waits for: on a machine
  that other jobs use, a small step took ten times as long. Threads of ours sleep.
- glibc takes every large array from the kernel and gives it back: a sixth of a training step was
  the kernel's, which clears those pages. Kept, the process holds its peak (and 15 % more).

Processes that this one starts inherit both by their environment.
"""

import ctypes
import itertools
import multiprocessing
import os
import platform
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from psc.files import try_lock

_MALLOC = {"MALLOC_MMAP_MAX_": (-4, 0), "MALLOC_TRIM_THRESHOLD_": (-1, -1)}
"""Environment variable → number and value of ``mallopt``: no array in a mapping of its own, and
nothing given back (-1 is the largest size)."""

WATCH_SECONDS = 1.0
"""A worker outlives its parent by no more than about this."""

_prepared = threading.Event()
_held: list[ExitStack] = []


def set_up() -> None:
    """Let threads sleep where they wait, and glibc keep memory; each unless the user has chosen."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    theirs = os.environ.get("GLIBC_TUNABLES", "") + os.environ.get("LD_PRELOAD", "")
    if platform.libc_ver()[0] != "glibc" or "malloc" in theirs:
        return
    for name, (number, value) in _MALLOC.items():
        chosen = name in os.environ or name.replace("MAX", "THRESHOLD") in os.environ
        if not chosen and ctypes.CDLL(None).mallopt(number, value):
            os.environ[name] = str(value % 2**63)


def cores() -> int:
    """That this process may use: a cluster's job, taskset or a container may have bound it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # not of Linux


def in_force() -> dict[str, str]:
    """Which of these settings the process runs under, for the record's hardware entry."""
    return {name: os.environ[name] for name in ("OMP_WAIT_POLICY", *_MALLOC) if name in os.environ}


def prepare_worker() -> None:
    """Called in every process that receives a job; does its work once, and only in joblib's.

    Such a process ends with the one that started it, and has a GPU to itself where there are
    several. (joblib itself divides the cores among them: OMP_NUM_THREADS and its like.)
    """
    if not multiprocessing.current_process().name.startswith("LokyProcess"):
        return
    if not _prepared.is_set():
        _prepared.set()
        threading.Thread(
            target=_end_with_parent, args=(os.getppid(),), name="watch-parent", daemon=True
        ).start()
        claim_gpu()


def _end_with_parent(parent: int) -> None:
    """However that ended; last.ckpt is complete anyway, and a restarted sweep wants no rival."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def claim_gpu(folder: Path | None = None) -> None:
    """Let this process see one GPU only: the one that the fewest other workers have claimed.

    Must come before CUDA is initialised. Claims of this machine's processes are in the folder.
    """
    import torch  # not above: programs set the process up before it is loaded

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
