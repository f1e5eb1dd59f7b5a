"""Time contestants against each other, and measure the memory that each takes.

Contestants run A B A B ... in one process, so that a change of clock speed or a busy neighbour
meets all of them alike. Process CPU seconds are the figure to compare on a shared machine, wall
seconds on a GPU; both are reported as medians. CPU seconds add up over threads, idle ones that spin
included: with several threads they say what a call costs the machine, not how long it takes.
"""

import gc
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

__all__ = ["Clock", "Timing", "failure", "interleave", "peak_python_memory", "timed"]

Clock = Literal["cpu", "wall"]
Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one contestant, one entry per round.

    Attributes:
        cpu: CPU seconds of all threads of the process.
        wall: wall seconds.
        failure: why there are no measurements; None if there are.
    """

    cpu: tuple[float, ...] = ()
    wall: tuple[float, ...] = ()
    failure: str | None = None

    @property
    def cpu_median(self) -> float | None:
        """Median CPU seconds per call, None after a failure."""
        return statistics.median(self.cpu) if self.cpu else None

    @property
    def wall_median(self) -> float | None:
        """Median wall seconds per call, None after a failure."""
        return statistics.median(self.wall) if self.wall else None

    def median(self, clock: Clock) -> float | None:
        """Median seconds per call by the clock, None after a failure."""
        return self.cpu_median if clock == "cpu" else self.wall_median


def interleave(
    contestants: Mapping[Name, Callable[[], object]],
    repeats: int,
    *,
    finish: Callable[[], object] | None = None,
    shortest: float = 0.0,
) -> dict[Name, Timing]:
    """Run all contestants in turn, ``repeats`` rounds after one that warms up.

    Args:
        contestants: functions without arguments, by name. One that raises is out of the race and
            gets the error as its ``failure``.
        repeats: rounds that count.
        finish: waits for what a call has only begun (kernels on a GPU); its time counts.
        shortest: seconds that a measurement takes at least; short calls are repeated within it.

    Returns:
        Timings by name, in the order of the contestants.
    """
    wait = finish or (lambda: None)
    calls: dict[Name, int] = {}
    timings: dict[Name, Timing] = {name: Timing() for name in contestants}
    for name, function in contestants.items():
        try:
            _measure(function, 1, wait)  # compiles, picks algorithms, fills caches
            _, seconds = _measure(function, 1, wait)
        except Exception as error:
            timings[name] = Timing(failure=failure(error))
        else:
            calls[name] = max(1, math.ceil(shortest / max(seconds, 1e-9)))
    for _ in range(repeats):
        for name in list(calls):
            try:
                cpu, wall = _measure(contestants[name], calls[name], wait)
            except Exception as error:  # the others may have taken the memory since
                timings[name] = Timing(failure=failure(error))
                del calls[name]
            else:
                before = timings[name]
                timings[name] = Timing((*before.cpu, cpu), (*before.wall, wall))
    return timings


def timed(
    function: Callable[[], Result], *, finish: Callable[[], object] | None = None
) -> tuple[Result, Timing]:
    """The result of a single call and its seconds, for what takes too long to be repeated.

    Args:
        function: without arguments; what it raises is raised.
        finish: as of ``interleave``.
    """
    results: list[Result] = []
    cpu, wall = _measure(lambda: results.append(function()), 1, finish or (lambda: None))
    return results[0], Timing((cpu,), (wall,))


def failure(error: Exception) -> str:
    """Type and first line of an error."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {''.join(message[:1])}"


def _measure(
    function: Callable[[], object], calls: int, wait: Callable[[], object]
) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    wait()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        function()
    wait()
    return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def peak_python_memory(function: Callable[[], object]) -> int:
    """Largest number of bytes that a call holds beyond what was held before it.

    Sees what NumPy and numba allocate, not what a C++ library allocates by itself. Slows the call
    down, so it is a pass of its own.
    """
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
