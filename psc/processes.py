"""The processes of one run: which is the first, and how the others learn the run's folder."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psc.run_folder import RunFolder, choose_run_folder, claimed_run_folder

FOLDER_VARIABLE = "PSC_RUN_FOLDER"
"""Tells the processes that the first one starts which folder it chose."""

RESUME_VARIABLE = "PSC_RESUME_FROM"
"""The same of the checkpoint that it continues from; empty for none."""


def is_first_process() -> bool:
    """Whether this is the process that writes; before a trainer exists, variables tell."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


@contextmanager
def folder_of_this_run(config: Mapping[str, Any]) -> Iterator[RunFolder]:
    """The folder that all processes of a run share; the first one claims it.

    Args:
        config: the resolved configuration, plain containers.

    Raises:
        CheckpointError: see ``psc.run_folder.claimed_run_folder``.
    """
    if is_first_process():
        with claimed_run_folder(config) as folder:
            yield folder
    elif chosen := os.environ.get(FOLDER_VARIABLE):
        resume_from = os.environ[RESUME_VARIABLE]
        yield RunFolder(Path(chosen), Path(resume_from) if resume_from else None)
    else:  # torchrun or srun started it, and nobody could tell
        yield choose_run_folder(config)


@contextmanager
def handed_to_children(folder: RunFolder) -> Iterator[None]:
    """Tell the processes that Lightning starts within the context which folder was chosen.

    Afterwards the environment is what it was before, without the variables that Lightning set
    either: the next job of a sweep in this process must not take itself for a part of this run.
    """
    saved = dict(os.environ)
    os.environ[FOLDER_VARIABLE] = str(folder.path)
    os.environ[RESUME_VARIABLE] = str(folder.resume_from or "")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)
