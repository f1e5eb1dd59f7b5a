import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from known_affinities import content

from psc.blockwise.engine import Engine, Ledger, Stage, open_engine
from psc.blockwise.grid import Block, Grid
from psc.blockwise.pipeline import segment_blockwise
from psc.errors import ConfigError, DataError

BLOCKS = list(Grid((6, 1, 1), (1, 1, 1)))


@dataclass(frozen=True)
class Touch:
    """Notes every attempt at a block; dies in one of them as often as told."""

    folder: Path
    deadly: int = -1
    deaths: int = 0
    full: int = -1

    def __call__(self, block: Block) -> dict[str, int]:
        attempts = len(list(self.folder.glob(f"{block.index}-*")))
        (self.folder / f"{block.index}-{attempts}").touch()
        if block.index == self.full:
            raise OSError(28, "No space left on device")
        if block.index == self.deadly and attempts < self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"square": block.index**2}


@pytest.fixture(scope="module")
def two_workers():
    """A cluster of two local processes; not for the session, as idle it still costs."""
    with open_engine(2, progress=False) as engine:
        yield engine


@pytest.fixture
def case(tmp_path):
    (tmp_path / "attempts").mkdir()
    ledger = Ledger(tmp_path / "out")
    ledger.open([Stage("work")], overwrite=False)
    return tmp_path / "attempts", ledger


def attempts(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("where", ["here", "two workers"])
def test_every_block_is_done_once_and_what_is_done_is_not_done_again(where, case, request):
    engine = Engine(progress=False) if where == "here" else request.getfixturevalue("two_workers")
    folder, ledger = case
    engine.run("work", Touch(folder), BLOCKS[:4], ledger)
    engine.run("work", Touch(folder), BLOCKS, ledger)
    assert attempts(folder) == [f"{i}-0" for i in range(6)]
    assert ledger.done("work") == {i: {"square": i * i} for i in range(6)}


def test_two_processes_do_the_same_as_one(
    small_case, options, tmp_path, two_workers, whole_content
):
    source, grid = small_case
    segment_blockwise(source, {}, grid, options(), tmp_path / "two", engine=two_workers)
    assert content(tmp_path / "two") == whole_content
    assert len(whole_content) > 30


def test_an_error_in_a_worker_is_told_and_finished_blocks_are_kept(two_workers, case):
    folder, ledger = case
    with pytest.raises(DataError, match="disk is full"):
        two_workers.run("work", Touch(folder, full=5), BLOCKS, ledger)
    assert set(ledger.done("work")) >= {0, 1}
    assert 5 not in ledger.done("work")
    two_workers.run("work", Touch(folder), BLOCKS, ledger)
    assert len(ledger.done("work")) == 6


def test_a_dead_workers_block_is_given_to_another(two_workers, case):
    folder, ledger = case
    two_workers.run("work", Touch(folder, deadly=2, deaths=1), BLOCKS, ledger)
    assert len(ledger.done("work")) == 6
    assert "2-1" in attempts(folder)


def test_a_block_that_kills_every_worker_is_given_up(two_workers, case, monkeypatch):
    folder, ledger = case
    monkeypatch.setattr(two_workers.client.cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(DataError, match="workers died on the same block again and again"):
        two_workers.run("work", Touch(folder, deadly=2, deaths=99), BLOCKS, ledger)
    assert 2 not in ledger.done("work")


def test_a_cluster_is_used_by_its_address(two_workers, case):
    folder, ledger = case
    address = two_workers.client.scheduler_info()["address"]
    with open_engine(address=address, progress=False) as engine:
        engine.run("work", Touch(folder), BLOCKS, ledger)
    assert len(ledger.done("work")) == 6
    two_workers.run("work", Touch(folder), BLOCKS, ledger)  # it is not closed with the engine


def test_what_cannot_work_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match="workers=0"), open_engine(0):
        pass
    monkeypatch.setattr("psc.blockwise.engine._CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(ConfigError, match="no dask scheduler answers there"),
        open_engine(address="tcp://127.0.0.1:9"),
    ):
        pass


def test_a_damaged_description_is_told(tmp_path):
    (tmp_path / "blockwise.json").write_text("{")
    with pytest.raises(DataError, match=r"blockwise\.json is damaged"):
        Ledger(tmp_path).open([Stage("work")], overwrite=True)
