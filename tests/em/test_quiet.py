import contextlib
import os
import subprocess
import sys

import pytest

from psc.em.watershed import silent_stdout

# Writes in all ways there are: Python, a handle kept from before (as logging does), the C library
# (which buffers through a pipe), and the kernel.
PROGRAM = """
import ctypes, os, sys
from psc.em.watershed import silent_stdout
libc = ctypes.CDLL(None)
print("before")
with silent_stdout():
    print("python")
    sys.__stdout__.write("handle")
    sys.__stdout__.flush()
    libc.printf(b"library")
    os.write(1, b"kernel")
print("after", flush=True)
libc.printf(b"library again")
libc.fflush(None)
"""


def test_nothing_comes_out_through_a_pipe_not_even_later():
    # PYTHONUNBUFFERED would also switch off the buffer of the C library, which is the trap.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "before\nafter\nlibrary again"
    assert result.stderr == ""


def test_output_is_restored_after_an_exception(capfd):
    def fail():
        with silent_stdout():
            os.write(1, b"lost")
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    print("python", flush=True)
    os.write(1, b"kernel")
    assert capfd.readouterr().out == "python\nkernel"


def test_stderr_is_not_touched(capfd):
    with silent_stdout():
        print("a warning", file=sys.stderr)
    assert capfd.readouterr().err == "a warning\n"


def open_descriptors():
    """Which of the first descriptors are in use."""
    used = set()
    for descriptor in range(256):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            used.add(descriptor)
    return used


def test_no_file_descriptor_leaks():
    with silent_stdout():
        pass
    before = open_descriptors()
    for _ in range(3):
        with silent_stdout():
            pass
    assert open_descriptors() == before
