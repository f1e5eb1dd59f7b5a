"""Silence for libraries that write to standard output from C++, as waterz does."""

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator

__all__ = ["silent_stdout"]

_STDOUT = 1


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Discard everything that Python or C++ writes to standard output in the with block.

    C++ does not know ``sys.stdout``, so file descriptor 1 itself is pointed at the null device and
    restored afterwards, also after an exception. The descriptor belongs to the whole process:
    what other threads print meanwhile is lost as well, so keep the block short.
    """
    sys.stdout.flush()  # what was written before the block must not end up in the null device
    saved = os.dup(_STDOUT)
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, _STDOUT)
        os.close(null)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        # Through a pipe the C library buffers whole blocks; unflushed, they would come out later.
        ctypes.CDLL(None).fflush(None)
        os.dup2(saved, _STDOUT)
        os.close(saved)
