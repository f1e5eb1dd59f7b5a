"""Processes in which joblib runs several jobs of a sweep at once.

Each ends with the process that started it, and has a GPU to itself where there are several.
(joblib itself divides the cores among them: OMP_NUM_THREADS and its like.)
"""

import itertools
import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path

import torch

from psc.locks import FileLock, try_lock

WATCH_SECONDS = 1.0
"""A worker outlives its parent by no more than about this."""

_prepared = threading.Event()
_held: list[FileLock] = []


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
