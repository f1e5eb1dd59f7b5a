"""Programs in processes of their own: copies of this one, which has loaded PyTorch already.

Loading it and Lightning takes longer than what most programs here do. Processes that a program
itself starts (of Lightning's, for one) begin from nothing, as they always do.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).parents[1]


class Started:
    """A running program, leader of a session of its own; ``text`` is what it has written."""

    def __init__(self, output, script, *arguments, folder=PROJECT, environment=None):
        self._output = output
        self._process = multiprocessing.get_context("fork").Process(
            target=_run, args=(output, script, arguments, folder, environment or {})
        )
        output.touch()
        self._process.start()
        self.pid = self._process.pid

    @property
    def text(self):
        return self._output.read_text()

    def wait(self, seconds=300):
        """Its exit code, once it has ended."""
        self._process.join(seconds)
        assert not self._process.is_alive(), self.text
        return self._process.exitcode

    def until(self, condition, seconds=120):
        """Wait for something that it does."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text
            assert self._process.is_alive(), self.text
            time.sleep(0.1)

    def kill(self):
        """The whole session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.join()


def _run(output, script, arguments, folder, environment):
    os.setsid()
    for name, value in environment.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    os.chdir(folder)
    sys.argv = [str(PROJECT / script), *map(str, arguments)]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        threading._shutdown()  # first of all at an end: joblib lets its workers go
