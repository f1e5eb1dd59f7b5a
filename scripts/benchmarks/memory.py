"""Most memory that a call takes beyond what was held before it: on a GPU, and on a CPU by Linux."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["peak_extra_mb"]

_RESET_PEAK = "5"  # proc(5): sets the peak resident set size to the current one


def peak_extra_mb(function: Callable[[], object], device: str) -> float | None:
    """Megabytes (1e6 bytes) at the peak of a call, less those held when it began.

    On a GPU those of PyTorch's allocator. On a CPU the resident set of the process, which Linux
    alone tells (None elsewhere): with libraries' own buffers, and with what the C library does not
    return at once, tens of megabytes of freed memory. None if the call fails.
    """
    try:
        return _peak_on_cuda(function) if device == "cuda" else _peak_resident(function)
    except RuntimeError:  # out of memory, which torch raises as this
        return None


def _peak_on_cuda(function: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def _peak_resident(function: Callable[[], object]) -> float | None:
    _return_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK, encoding="ascii")
        before = _resident_kilobytes("VmRSS")
        function()
        return max(0, _resident_kilobytes("VmHWM") - before) * 1024 / 1e6
    except (OSError, KeyError):
        return None


def _return_free_memory() -> None:
    """What the C library keeps of earlier calls would be used again unseen."""
    with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident_kilobytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values[key].split()[0])
