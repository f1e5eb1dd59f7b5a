"""The folder of a run: its name, and which one a resumed run goes on in.

``runs/<dataset>-<backbone>-<block>[-fold<fold>]-seed<seed>-<hash>[-2]``: the hash is that of the
configuration without what cannot change a result, so that a run is found again by the
configuration that started it. A new run never writes into the folder of an earlier one, and no two
processes into the same.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psc.errors import CheckpointError
from psc.files import holder, try_lock
from psc.training.records import FILE_NAME

LAST = "last.ckpt"
BEST = "best.ckpt"

WITHOUT_EFFECT = ("resume", "output_directory", "logger", "budget")
"""Parts of a configuration that do not decide what is computed."""

TRAINER_WITHOUT_EFFECT = (
    *("accelerator", "strategy", "compile", "channels_last", "workers", "progress_bar"),
    "test_every",
)
"""The same of its trainer; the number of devices multiplies the batch, the precision rounds."""

_EM_KEYS = ("raw", "labels", "raw_key", "labels_key", "labels_offset", "axis_swaps")
ADDED: Mapping[str, Mapping[str, Any]] = {
    "block": {"merge": "concatenate"},
    "dataset": {**dict.fromkeys(_EM_KEYS), "shares": [0.7, 0.1, 0.2]},
    "recipe": {"offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]},
}
"""Keys of each part that earlier code did not know, with what it did: they rename no run."""
ADDED_TO_SLAB: Mapping[str, Any] = {"labels_offset": None}
"""The same of the volumes in a data set's parts."""

FOLDER_VARIABLE, RESUME_VARIABLE = "PSC_RUN_FOLDER", "PSC_RESUME_FROM"
"""Tell the processes that the first one starts which folder it chose, and which checkpoint it
continues from, empty for none."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder and the checkpoint that it continues from, if any."""

    path: Path
    resume_from: Path | None = None

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The numbers of its training."""
        return self.path / "metrics.csv"

    @property
    def is_finished(self) -> bool:
        """Whether the run has left its record."""
        return (self.path / FILE_NAME).is_file()

    @property
    def lock(self) -> Path:
        """The lock of the process that writes here; beside it, as a folder means a run."""
        return self.path.with_name(f".{self.path.name}.lock")


@contextmanager
def folder_of_this_run(config: Mapping[str, Any]) -> Iterator[RunFolder]:
    """The folder that all processes of a run share; the first one claims it."""
    if is_first_process():
        with claimed_run_folder(config) as folder:
            yield folder
    elif chosen := os.environ.get(FOLDER_VARIABLE):
        resume_from = os.environ[RESUME_VARIABLE]
        yield RunFolder(Path(chosen), Path(resume_from) if resume_from else None)
    else:  # torchrun or srun started it, and nobody could tell
        yield choose_run_folder(config)


def is_first_process() -> bool:
    """Whether this is the process that writes; before a trainer exists, variables tell."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


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


@contextmanager
def claimed_run_folder(config: Mapping[str, Any]) -> Iterator[RunFolder]:
    """``choose_run_folder``, and no other process gets that folder until the context ends.

    A finished run's folder is not claimed: nobody writes there any more.
    """
    in_use: set[Path] = set()
    while True:
        folder = choose_run_folder(config, in_use)
        if folder.is_finished:
            yield folder
            return
        lock = try_lock(folder.lock)
        if lock is None:
            if config["resume"]:
                raise CheckpointError(
                    f"{folder.path} is being trained by {holder(folder.lock)}; wait for it, or "
                    "start a run of its own with resume=false. In a sweep: two of its runs are the "
                    "same configuration, or the sweep was started twice"
                )
            in_use.add(folder.path)
            continue
        with lock:
            # Between choice and claim another process may have begun, or finished, that run.
            if choose_run_folder(config, in_use) == folder:
                yield folder
                return


def choose_run_folder(config: Mapping[str, Any], in_use: Collection[Path] = ()) -> RunFolder:
    """Decide where a run writes and what it continues; creates nothing.

    - ``resume`` false: a folder that does not exist yet.
    - ``resume`` true: the newest folder of this configuration, from its last checkpoint; a new
      folder if there is none.
    - ``resume`` a path: from that checkpoint, in its own run folder if that is of this
      configuration and unfinished, else in a new one.

    ``config`` is plain containers; folders ``in_use`` are about to be created by others.
    """
    output, name, resume = Path(config["output_directory"]), run_name(config), config["resume"]
    candidates = _candidates(output, name, in_use)
    existing, free = [folder for folder in candidates if folder.is_dir()], candidates[-1]
    if isinstance(resume, str):
        checkpoint = Path(resume)
        if not checkpoint.is_file():
            raise CheckpointError(
                f"resume={resume}: no such file; give a checkpoint's path, or resume=true for the "
                "newest run of this configuration"
            )
        own = next((f for f in existing if checkpoint.resolve().is_relative_to(f.resolve())), None)
        if own is not None and not RunFolder(own).is_finished:
            return RunFolder(own, checkpoint)
        return RunFolder(free, checkpoint)
    if resume and existing:
        newest = RunFolder(existing[-1])
        last = newest.checkpoints / LAST
        return RunFolder(newest.path, last if last.is_file() else None)
    return RunFolder(free)


def _candidates(output: Path, name: str, in_use: Collection[Path]) -> list[Path]:
    """Folders that runs of this name may have, oldest first, up to the first free one."""
    folders = [output / name]
    while folders[-1].exists() or folders[-1] in in_use:
        folders.append(output / f"{name}-{len(folders) + 1}")
    return folders


def config_hash(config: Mapping[str, Any]) -> str:
    """First 8 hex digits of the SHA-256 of what decides a run's result."""
    content = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
    content |= {part: _without(config[part], added) for part, added in ADDED.items()}
    content["dataset"] = {
        key: [_without(slab, ADDED_TO_SLAB) for slab in value]
        if key in ("train", "validation", "test") and isinstance(value, list)
        else value
        for key, value in content["dataset"].items()
    }
    content["trainer"] = {
        key: value for key, value in config["trainer"].items() if key not in TRAINER_WITHOUT_EFFECT
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _without(part: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in part.items() if k not in added or v != added[k]}


def run_name(config: Mapping[str, Any]) -> str:
    """Name of the run folder, without the number of a repetition."""
    what = (config[part]["name"] for part in ("dataset", "backbone", "block"))
    fold = (f"fold{config['dataset']['fold']}",) if config["dataset"].get("folds") else ()
    return "-".join((*what, *fold, f"seed{config['seed']}", config_hash(config)))
