"""Run a function on every block of a grid, here or on a dask cluster, and remember what is done.

Every finished block leaves a marker, a file that appears whole and after the block's data. So a
process may end at any moment: what has a marker is never done again, what has none is redone, with
the same result. (Data are handed to the operating system before the marker: a killed process loses
nothing; a power failure may.) dask hands blocks to its workers, gives those of a worker that died
to another one, and tells when that has happened too often.
"""

import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from psc.blockwise.grid import Block
from psc.errors import ConfigError, DataError
from psc.files import entries, write_json

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

Work = Callable[[Block], dict[str, int]]
"""What is done with a block: writes its data, then returns numbers to report; can be pickled.

It must not matter whether a block was begun before: doing it again writes the same.
"""

DESCRIPTION, _SUMMARY, _MARKERS = "blockwise.json", "summary.json", "work/done"
_WAITING_PER_WORKER = 2  # blocks in flight: one in work and one to begin with at once
_CONNECT_SECONDS = 30


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline."""

    name: str  # the folder of its markers
    options: dict[str, Any] = field(default_factory=dict)
    """Whatever its result depends on beside the stages before; plain values."""
    products: tuple[str, ...] = ()  # files and folders in the output that only this stage writes


class Ledger:
    """What of an output folder is done, and of which inputs and options it is the result."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, stages: Sequence[Stage], *, overwrite: bool) -> None:
        """Make the folder ready for these stages, in their order: begin, resume, or clear.

        With ``overwrite`` results may be removed: all of them if they are complete and of the same
        inputs and options; else those of the first stage that differs, and of all after it. A
        refusal leaves everything as it is.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"output={self.folder} is a file; give a folder")
        described = _described(stages)
        present = self._description()
        if present is None:
            if self.folder.is_dir() and (strangers := entries(self.folder)):
                raise ConfigError(
                    f"output={self.folder} holds {strangers[0].name} and was not written by this"
                    " program, which therefore removes nothing in it; give another folder"
                )
        elif (different := _first_difference(present, described)) is not None:
            first, change = different
            if not overwrite:
                raise ConfigError(
                    f"output={self.folder} holds results of other inputs or options ({change});"
                    " give another folder, or overwrite=true to replace everything from the stage"
                    f" {stages[first].name!r} on"
                )
            self._remove(stages[first:])
        elif _report(self.folder / _SUMMARY) is not None:
            if not overwrite:
                raise ConfigError(
                    f"output={self.folder} exists and is complete; give another folder, or"
                    " overwrite=true to do it again"
                )
            self._remove(stages)
        if (lost := self._lost(stages)) is not None:
            number, product = lost
            log.warning(
                "%s is gone, though blocks of it were done: the stage %r and all after it are done"
                " again",
                *(product, stages[number].name),
            )
            self._remove(stages[number:])
        if described != present or not self.done(stages[0].name):  # its age tells an older input
            write_json({"stages": described}, self.folder / DESCRIPTION)

    def done(self, stage: str) -> dict[int, dict[str, int]]:
        """What the finished blocks of a stage reported, by the block's index."""
        markers = (self.folder / _MARKERS / stage).glob("[0-9]*.json")
        found = {int(path.stem): _report(path) for path in markers}
        return {index: report for index, report in found.items() if report is not None}

    def has(self, stage: str, index: int) -> bool:
        """Whether a block is finished."""
        return _report(self.folder / _MARKERS / stage / f"{index}.json") is not None

    def mark(self, stage: str, index: int, report: dict[str, int]) -> None:
        """Note, after its data are written, that a block is finished."""
        write_json(report, self.folder / _MARKERS / stage / f"{index}.json")

    def finish(self, summary: dict[str, Any]) -> None:
        """Note that everything is done."""
        write_json(summary, self.folder / _SUMMARY)

    def _description(self) -> list[dict[str, Any]] | None:
        try:
            stages = json.loads((self.folder / DESCRIPTION).read_text())["stages"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            raise DataError(
                f"{self.folder / DESCRIPTION} is damaged ({error}); remove the folder and start"
                " again"
            ) from error
        return list(stages)

    def _lost(self, stages: Sequence[Stage]) -> tuple[int, Path] | None:
        """The first stage with finished blocks that lacks a product, by its number; else None."""
        for number, stage in enumerate(stages):
            products = [self.folder / name for name in stage.products]
            missing = next((product for product in products if not product.exists()), None)
            if missing is not None and self.done(stage.name):
                return number, missing
        return None

    def _remove(self, stages: Sequence[Stage]) -> None:
        """Markers before data: a kill in between must not leave one without the other."""
        (self.folder / _SUMMARY).unlink(missing_ok=True)
        for stage in stages:
            shutil.rmtree(self.folder / _MARKERS / stage.name, ignore_errors=True)
        for product in (self.folder / name for stage in stages for name in stage.products):
            if product.is_dir():
                shutil.rmtree(product)
            else:
                product.unlink(missing_ok=True)


def _report(path: Path) -> dict[str, int] | None:
    """What a marker says; None without one, or if a crash of the machine left it empty or zeros."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return None


def _described(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Each stage's options, and a digest of its own and of all before it."""
    described: list[dict[str, Any]] = []
    digest = ""
    for stage in stages:
        options = json.loads(json.dumps(stage.options))  # tuples become lists, as in the file
        text = json.dumps([digest, stage.name, options], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        described.append({"name": stage.name, "options": options, "digest": digest})
    return described


def _first_difference(
    present: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]
) -> tuple[int, str] | None:
    """The first stage whose digest is another, and what of it changed."""
    for i, stage in enumerate(wanted):
        if i >= len(present):
            return i, f"stage {stage['name']} is new"
        if present[i]["digest"] != stage["digest"]:
            old, new = present[i]["options"], stage["options"]
            changed = [
                f"{key}: {old.get(key)} there, {new.get(key)} now"
                for key in sorted(old.keys() | new.keys())
                if old.get(key) != new.get(key)
            ]
            return i, "; ".join(changed) or "another version of this program"
    if len(present) > len(wanted):
        return len(wanted) - 1, f"stage {present[len(wanted)]['name']} is not wanted any more"
    return None


@dataclass(frozen=True)
class Engine:
    """Where blocks are worked on."""

    client: "Client | None" = None  # of a dask cluster; None = here, one block after the other
    progress: bool = True  # whether to show a bar for each stage

    def run(self, stage: str, work: Work, blocks: Sequence[Block], ledger: Ledger) -> None:
        """Do what is not done yet of a stage, and mark each block as it is finished.

        Memory is that of the workers' blocks: no more than two for each worker are in flight. A
        DataError (the disk is full, a block's input cannot be read, workers died on one block again
        and again) leaves finished blocks finished.
        """
        done = ledger.done(stage)
        pending = [block for block in blocks if block.index not in done]
        finish = partial(_finish, work, stage, ledger)
        with tqdm(
            desc=stage,
            total=len(blocks),
            initial=len(blocks) - len(pending),
            unit="block",
            disable=not self.progress,
        ) as bar:
            finished: Iterator[object] = map(finish, pending)
            if self.client is not None:
                finished = _on_cluster(self.client, finish, pending)
            for _ in finished:
                bar.update()


@contextmanager
def open_engine(
    workers: int = 1, address: str | None = None, *, progress: bool = True
) -> Iterator[Engine]:
    """An engine for the time of the with block: of so many local processes, 1 = this one alone.

    Or of the workers of a running dask scheduler at an ``address`` such as ``tcp://host:8786``;
    they must see the same files under the same paths.
    """
    if workers < 1:
        raise ConfigError(f"workers={workers} must be at least 1")
    if address is None and workers == 1:
        yield Engine(None, progress)
        return
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is raised here
    if address is not None:
        try:
            client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ConfigError(
                f"address={address}: no dask scheduler answers there ({error}); start one with"
                " 'dask scheduler', and workers with 'dask worker'"
            ) from error
        with client:
            yield Engine(client, progress)
        return
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # dask would pause or restart workers; blocks bound their memory
            dashboard_address="127.0.0.1:0",  # any free port, for this machine only
            silence_logs=logging.CRITICAL,  # in the workers
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Engine(client, progress)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a full disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DataError(
            f"the disk is full ({error}); free some space and run the same command again: finished"
            " blocks are kept, and it goes on from there"
        ) from error


def _finish(work: Work, stage: str, ledger: Ledger, block: Block) -> None:
    """Do one block and mark it; where the block is worked on.

    dask runs it again if the worker died after the mark and before it could say so.
    """
    if not ledger.has(stage, block.index):
        with disk_errors():
            ledger.mark(stage, block.index, work(block))


def _on_cluster(
    client: "Client", finish: Callable[[Block], None], pending: list[Block]
) -> Iterator[None]:
    from distributed import KilledWorker, as_completed

    waiting = iter(pending)
    futures: Any = as_completed(loop=client.loop)
    running = {}

    def submit() -> None:
        if (block := next(waiting, None)) is not None:
            future = client.submit(finish, block, pure=False)
            running[future.key] = future
            futures.add(future)

    for _ in range(_WAITING_PER_WORKER * max(1, sum(client.nthreads().values()))):
        submit()
    try:
        for future in futures:
            if future.status != "finished":
                future.result()  # raises; what a finished one returns may be lost with its worker
            del running[future.key]
            yield
            submit()
    except KilledWorker as error:
        raise DataError(
            f"workers died on the same block again and again ({error}); most often memory was"
            " short: choose a smaller block_size=… or fewer workers=…, and run again: finished"
            " blocks are kept"
        ) from error
    finally:
        client.cancel(list(running.values()))
