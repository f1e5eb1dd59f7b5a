import os
import subprocess
import sys

import pytest

from psc.segmentation.quiet import silent_stdout

# Writes in the three ways there are: Python, the C library (buffered through a pipe), the kernel.
PROGRAM = """
import ctypes, os
from psc.segmentation.quiet import silent_stdout
libc = ctypes.CDLL(None)
print("before")
with silent_stdout():
    print("python")
    libc.printf(b"library")
    os.write(1, b"kernel")
print("after", flush=True)
libc.printf(b"library again")
libc.fflush(None)
"""


def test_nothing_comes_out_through_a_pipe_not_even_later():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
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


def test_no_file_descriptor_leaks():
    with silent_stdout():
        pass
    before = os.open(os.devnull, os.O_RDONLY)
    os.close(before)
    for _ in range(5):
        with silent_stdout():
            pass
    after = os.open(os.devnull, os.O_RDONLY)
    os.close(after)
    assert after == before
