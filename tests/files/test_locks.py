"""Locks: one holder, told apart by process, and free again however the holder ended."""

import os
import signal
import threading

import pytest

from psc.errors import DataError
from psc.files import holder, locked, try_lock


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "folder" / "a.lock"
    with try_lock(path) as lock:
        assert lock is not None
        assert str(os.getpid()) in holder(path)
        assert try_lock(path) is None
    assert not path.exists()
    with try_lock(path) as again:
        assert again is not None


def test_a_file_that_its_holder_removes_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    first, opened = try_lock(path), os.open

    def opened_and_then_released(*arguments):
        descriptor = opened(*arguments)
        if held:
            held.clear()
            first.close()  # its file is gone, though this process has it open
        return descriptor

    held = [True]
    monkeypatch.setattr("os.open", opened_and_then_released)
    with try_lock(path):
        assert path.exists()
        assert try_lock(path) is None


def test_a_killed_process_holds_nothing(tmp_path):
    path = tmp_path / "a.lock"
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        lock = try_lock(path)
        os.write(told, b"1" if lock else b"0")
        signal.pause()
    try:
        assert os.read(ready, 1) == b"1"
        assert try_lock(path) is None
        assert str(child) in holder(path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with try_lock(path) as lock:
        assert lock is not None


def test_a_file_system_without_locks_warns_and_goes_on(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with try_lock(tmp_path / "a.lock") as lock:
        assert lock is not None
    assert "cannot be locked" in caplog.text


@pytest.mark.parametrize("content", [None, ""])
def test_a_holder_that_left_no_name_is_another_process(tmp_path, content):
    if content is not None:
        (tmp_path / "a.lock").write_text(content)
    assert holder(tmp_path / "a.lock") == "another process"


def test_who_waits_goes_after_the_holder(tmp_path):
    path, order = tmp_path / "a.lock", []
    first = try_lock(path)

    def release():
        order.append("released")
        first.close()

    timer = threading.Timer(0.3, release)
    timer.start()
    with locked(path):
        order.append("taken")
    timer.join()
    assert order == ["released", "taken"]


def test_who_does_not_wait_is_told_who_is_at_work(tmp_path):
    path = tmp_path / "a.lock"
    with locked(path, "data is being prepared"):
        told = rf"^data is being prepared by process {os.getpid()} on .*; wait"
        with pytest.raises(DataError, match=told), locked(path, "data is being prepared"):
            pass
        assert not path.with_name(".a.lock.previous").exists()
    assert not path.exists()
