"""Processes of joblib's: GPUs are shared out evenly, and nobody else is touched."""

import os
import threading

import pytest

from psc import machine as workers


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """Claim GPUs on a machine that has ``count``; returns what each claim sees."""
    held = []
    monkeypatch.setattr(workers, "_held", held)

    def claim(count, times, visible=None):
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        seen = []
        for _ in range(times):
            if visible is None:
                monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            else:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
            workers.claim_gpu(tmp_path)
            seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        return seen

    yield claim
    for lock in held:
        lock.close()


def test_every_worker_gets_a_gpu_and_then_the_second_round_begins(claims):
    assert claims(3, 5) == ["0", "1", "2", "0", "1"]


def test_only_visible_gpus_are_shared_out(claims):
    assert claims(2, 3, visible="4,7") == ["4", "7", "4"]


def test_a_gpu_is_free_again_when_its_worker_ends(claims):
    claims(2, 2)
    workers._held.pop(0).close()
    assert claims(2, 1) == ["0"]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_share(claims, count):
    assert claims(count, 1) == [None]


def test_only_joblib_s_workers_are_prepared(claims):
    before = threading.active_count()
    workers.prepare_worker()
    assert threading.active_count() == before
    assert not workers._held
