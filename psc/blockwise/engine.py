"""Run a function on every block of a grid: here, in local processes, or on a dask cluster.

The function and what it reports are the same everywhere. dask hands blocks to its workers, gives
those of a worker that died to another one, and tells when that has happened too often.
"""

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from psc.blockwise.grid import Block
from psc.blockwise.ledger import Ledger
from psc.errors import ConfigError, DataError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Engine", "Work", "disk_errors", "open_engine"]

Work = Callable[[Block], dict[str, int]]
"""What is done with a block: writes its data, then returns numbers to report; can be pickled.

It must not matter whether a block was begun before: doing it again writes the same.
"""

_WAITING_PER_WORKER = 2  # blocks in flight: one in work and one to begin with at once
_CONNECT_SECONDS = 30
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Engine:
    """Where blocks are worked on.

    Attributes:
        client: of a dask cluster; None = in this process, one block after the other.
        progress: whether to show a bar for each stage.
    """

    client: "Client | None" = None
    progress: bool = True

    def run(self, stage: str, work: Work, blocks: Sequence[Block], ledger: Ledger) -> None:
        """Do what is not done yet of a stage, and mark each block as it is finished.

        Memory is that of the workers' blocks: no more than two for each worker are in flight.

        Args:
            stage: name of its markers and of the progress bar.
            work: what to do with each block.
            blocks: all blocks of the stage.
            ledger: knows which of them are finished.

        Raises:
            DataError: the disk is full or refuses; a block's input cannot be read; or workers died
                on one block again and again. Finished blocks stay finished.
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
            for _ in self._finished(finish, pending):
                bar.update()

    def _finished(self, finish: Callable[[Block], int], pending: list[Block]) -> Iterator[int]:
        """Something for every block that is finished."""
        if self.client is None:
            yield from map(finish, pending)
        else:
            yield from _on_cluster(self.client, finish, pending)


@contextmanager
def open_engine(
    workers: int = 1, address: str | None = None, *, progress: bool = True
) -> Iterator[Engine]:
    """An engine for the time of the with block.

    Args:
        workers: local processes; 1 = this process alone.
        address: of a running dask scheduler, such as ``tcp://host:8786``; its workers must see the
            same files under the same paths. ``workers`` is then not used.
        progress: whether to show a bar for each stage.

    Raises:
        ConfigError: ``workers`` is not positive, or no scheduler answers at the address.
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
    """Turn a disk that is full into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise DataError(
            f"the disk is full ({error}); free some space and run the same command again: finished"
            " blocks are kept, and it goes on from there"
        ) from error


def _finish(work: Work, stage: str, ledger: Ledger, block: Block) -> int:
    """Do one block and mark it; where the block is worked on.

    dask runs it again if the worker died after the mark and before it could say so.
    """
    if ledger.has(stage, block.index):
        return block.index
    with disk_errors():
        report = work(block)
        ledger.mark(stage, block.index, report)
    return block.index


def _on_cluster(
    client: "Client", finish: Callable[[Block], int], pending: list[Block]
) -> Iterator[int]:
    from distributed import KilledWorker, as_completed

    workers = max(1, sum(client.nthreads().values()))
    waiting = iter(pending)
    futures: Any = as_completed(loop=client.loop)
    running = {}

    def submit() -> None:
        for block in waiting:
            future = client.submit(finish, block, pure=False)
            running[future.key] = future
            futures.add(future)
            return

    for _ in range(_WAITING_PER_WORKER * workers):
        submit()
    try:
        for future in futures:
            if future.status != "finished":
                future.result()  # raises; what a finished one returns may be lost with its worker
            del running[future.key]
            yield 1
            submit()
    except KilledWorker as error:
        raise DataError(
            f"workers died on the same block again and again ({error}); most often memory was"
            " short: choose a smaller block_size=… or fewer workers=…, and run again: finished"
            " blocks are kept"
        ) from error
    finally:
        client.cancel(list(running.values()))
