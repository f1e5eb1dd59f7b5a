"""How everything is timed, what memory it takes, and what a benchmark leaves behind.

Contestants run A B A B ... in one process, so that a change of clock speed or a busy neighbour
meets all of them alike. Process CPU seconds are the figure to compare on a shared machine, wall
seconds on a GPU; both are reported as medians. CPU seconds add up over threads, idle ones that spin
included: with several threads they say what a call costs the machine, not how long it takes.
"""

import contextlib
import ctypes
import gc
import json
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from psc import machine
from psc.errors import ConfigError, first_line
from psc.files import write_text
from psc.paper.text import csv_text, markdown_table
from psc.training.hardware import hardware
from psc.training.provenance import versions

Clock = Literal["cpu", "wall"]
Device = Literal["cuda", "cpu"]
Layout = Literal["contiguous", "channels_last_3d"]
Precision = Literal["fp32", "tf32", "bf16"]
Name = TypeVar("Name", bound=Hashable)
Row = dict[str, Any]

PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "cuda": ("fp32", "tf32", "bf16"),
    "cpu": ("fp32", "bf16"),
}
LAYOUTS: dict[Layout, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last_3d": torch.channels_last_3d,
}

LEARNING_RATE = 1e-4  # Adam's; no number here depends on it
SHORTEST = 0.1  # seconds that a measurement takes at least


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one contestant, one entry per round."""

    cpu: tuple[float, ...] = ()  # CPU seconds of all threads of the process
    wall: tuple[float, ...] = ()  # wall seconds
    failure: str | None = None  # why there are no measurements; None if there are

    def median(self, clock: Clock) -> float | None:
        """Median seconds per call, None after a failure."""
        seconds = self.cpu if clock == "cpu" else self.wall
        return statistics.median(seconds) if seconds else None


def interleave(
    contestants: Mapping[Name, Callable[[], object]],
    repeats: int,
    finish: Callable[[], object] | None = None,
) -> dict[Name, Timing]:
    """Run all contestants in turn, ``repeats`` rounds after one that warms up.

    One that raises is out of the race and gets the error as its ``failure``. ``finish`` waits for
    what a call has only begun (kernels on a GPU), whose time counts; short calls are repeated
    within a measurement until it takes ``SHORTEST`` seconds.
    """
    gc.collect()  # what failed before may hold memory in a cycle
    calls: dict[Name, int] = {}
    timings: dict[Name, Timing] = {name: Timing() for name in contestants}
    for name, function in contestants.items():
        try:
            measured(function, 1, finish)  # compiles, picks algorithms, fills caches
            _, seconds = measured(function, 1, finish)
        except Exception as error:
            timings[name] = Timing(failure=failure(error))
        else:
            calls[name] = max(1, math.ceil(SHORTEST / max(seconds, 1e-9)))
    for _ in range(repeats):
        for name in list(calls):
            try:
                cpu, wall = measured(contestants[name], calls[name], finish)
            except Exception as error:  # the others may have taken the memory since
                timings[name] = Timing(failure=failure(error))
                del calls[name]
            else:
                before = timings[name]
                timings[name] = Timing((*before.cpu, cpu), (*before.wall, wall))
    return timings


def measured(
    function: Callable[[], object], calls: int = 1, finish: Callable[[], object] | None = None
) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    wait = finish or (lambda: None)
    wait()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        function()
    wait()
    return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls


def failure(error: Exception) -> str:
    """Type and first line of an error; what we refuse ourselves speaks for itself."""
    line = first_line(error)
    return line if isinstance(error, ConfigError) else f"{type(error).__name__}: {line}"


def ratio(mine: float | None, theirs: float | None) -> float | None:
    """Of two measurements, if both are there."""
    return mine / theirs if mine is not None and theirs else None


def peak_extra_mb(function: Callable[[], object], device: str = "cpu") -> float | None:
    """Megabytes (1e6 bytes) at the peak of a call, less those held when it began.

    On a GPU those of PyTorch's allocator. On a CPU the resident set of the process, which Linux
    alone tells (None elsewhere): with libraries' own buffers, and with what the C library keeps of
    freed arrays, as in training (``psc.machine``). None if the call fails.
    """

    def resident_kilobytes(key: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(":", 1) for line in lines)[key].split()[0])

    try:
        if device == "cuda":
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            function()
            torch.cuda.synchronize()
            return (torch.cuda.max_memory_allocated() - before) / 1e6
        with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what it kept would be used again unseen
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): resets the peak
        before = resident_kilobytes("VmRSS")
        function()
        return max(0, resident_kilobytes("VmHWM") - before) * 1024 / 1e6
    except (RuntimeError, OSError, KeyError):  # out of memory is a RuntimeError of torch's
        return None


def slow_convolutions(function: Callable[[], object], device: str) -> int | None:
    """How many convolutions of a call go to PyTorch's slow kernels; None on a GPU, without any.

    It gives some fp32 convolutions not to oneDNN but to kernels of its own (unfold, then a
    product), by their sizes, the batch and the number of threads: 3D ones whose last two kernel
    sizes are 1 on one thread, and those of batch 1 on small inputs (3D: channels · D · H ≤ 20,480).
    """
    if device != "cpu":
        return None
    watch = _Watch()  # type: ignore[no-untyped-call]
    with watch:
        function()
    return watch.slow


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Asks PyTorch, for every convolution that passes, which kernel it will take."""

    slow = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten.convolution.default:
            backend = torch._C._select_conv_backend(*args, None)  # its bias has no sizes
            self.slow += "Slow" in str(backend)
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Conditions:
    """Where something is measured, in which precisions, and whose seconds are compared."""

    device: str
    precisions: tuple[Precision, ...]
    clock: Clock

    @property
    def finish(self) -> Callable[[], object] | None:
        """Waits for the kernels that a call has only begun; None where there are none."""
        return torch.cuda.synchronize if self.device == "cuda" else None

    @property
    def clock_name(self) -> str:
        """The clock in words."""
        threads = torch.get_num_threads()
        if self.clock == "wall":
            return "wall seconds"
        return "CPU seconds" if threads == 1 else f"CPU seconds, summed over {threads} threads"


def conditions_on(
    device: Device | None = None,
    precisions: Sequence[Precision] | None = None,
    clock: Clock | None = None,
) -> Conditions:
    """Complete what the user asked for, and refuse what cannot be.

    By default a GPU if there is one, and all precisions that the device has instructions for: a CPU
    without those for bf16 takes up to 100 times longer in it.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: PyTorch finds no GPU; use --device cpu")
    if precisions is None:
        fast_bf16 = device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        precisions = [p for p in PRECISIONS[device] if p != "bf16" or fast_bf16]
    if unknown := set(precisions) - set(PRECISIONS[device]):
        known = ", ".join(PRECISIONS[device])
        raise ConfigError(f"precisions {sorted(unknown)}: on {device} there are {known}")
    usual: Clock = "wall" if device == "cuda" else "cpu"
    return Conditions(device, tuple(precisions), clock or usual)


@contextlib.contextmanager
def arithmetic(precision: Precision, device: str) -> Iterator[None]:
    """Exact fp32, fp32 with TF32 convolutions and products (GPU), or bf16 autocast."""
    tf32 = precision == "tf32"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32)
    autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16")
    try:
        with cudnn, autocast:
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Steps:
    """A module and its input, on a device, in one layout and precision.

    Both are built at the first call, so that a lack of memory is the failure of that call. Backward
    runs under the flags of ``arithmetic`` too: they choose algorithms. The training step of a
    ``network`` ends with a step of Adam; its loss is the mean square of the result, which costs
    next to nothing. A part of a network has random gradients.
    """

    def __init__(
        self,
        build: Callable[[], tuple[nn.Module, Tensor]],
        layout: Layout,
        precision: Precision,
        device: str,
        *,
        network: bool = False,
    ) -> None:
        self._build, self._layout = build, layout
        self._precision, self._device, self._network = precision, device, network
        self._gradient: Tensor | None = None

    @cached_property
    def _built(self) -> tuple[nn.Module, Tensor]:
        module, x = self._build()
        layout = LAYOUTS[self._layout]
        module = module.to(memory_format=layout)
        return module, x.detach().to(memory_format=layout).requires_grad_(x.requires_grad)

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self._built[0].parameters(), lr=LEARNING_RATE, fused=True)

    def forward(self) -> Tensor:
        """One forward pass in evaluation mode, without gradients."""
        module, x = self._built
        if module.training:
            module.eval()
        with torch.no_grad(), arithmetic(self._precision, self._device):
            y: Tensor = module(x)
        return y

    def train(self) -> None:
        """One training step; its gradients are not kept."""
        module, x = self._built
        if not module.training:
            module.train()
        try:
            with arithmetic(self._precision, self._device):
                y = module(x)
                if self._network:
                    y.float().square().mean().backward()
                    self._optimizer.step()
                    return
                if self._gradient is None:
                    # Not constant: batch norm makes zeros of a constant gradient.
                    self._gradient = torch.randn_like(y)
                y.backward(self._gradient)
        finally:
            module.zero_grad(set_to_none=True)
            x.grad = None


def race(
    contestants: Mapping[Name, Any], on: Conditions, repeats: int
) -> dict[str, dict[Name, Timing]]:
    """Time all contestants in turn: first their ``forward``, then their ``train``.

    Whoever fails in the first does not start in the second and has the same failure there.
    """
    forward = interleave({name: c.forward for name, c in contestants.items()}, repeats, on.finish)
    left = {name: c.train for name, c in contestants.items() if forward[name].failure is None}
    training = forward | interleave(left, repeats, on.finish)
    return {"forward": forward, "training": training}


@dataclass(frozen=True)
class Report:
    """Result of one benchmark."""

    # measurements by table; every row maps a column to a number, a text or None
    tables: Mapping[str, Sequence[Row]]
    # what was measured under, beside what was asked for
    settings: Mapping[str, Any] = field(default_factory=dict)
    benchmark: str = ""  # name of the subcommand, which the script fills in

    def as_markdown(self) -> str:
        """The tables, each under its name, with the columns of its first row."""
        parts = []
        for name, rows in self.tables.items():
            header = [column.replace("_", " ") for column in rows[0]]
            lines = [[_text(row[column]) for column in rows[0]] for row in rows]
            parts.append(f"### {self.benchmark}: {name}\n\n{markdown_table([header, *lines])}")
        return "\n\n".join(parts)

    def write_json(self, path: Path) -> None:
        """Everything, with date, machine and versions."""
        content = {
            "benchmark": self.benchmark,
            "settings": dict(self.settings),
            "environment": environment(),
            "tables": {name: list(rows) for name, rows in self.tables.items()},
        }
        write_text(json.dumps(content, indent=2) + "\n", path)

    def write_csv(self, path: Path) -> None:
        """All tables in one file: the columns of all, empty where a table does not have them.

        Before them come the table's name and the processor or GPU.
        """
        columns = dict.fromkeys(key for rows in self.tables.values() for row in rows for key in row)
        on = hardware(str(self.settings.get("device")))["device"]
        before = {"table": "", "hardware": on, **columns}
        rows = [
            before | {"table": name} | row for name, some in self.tables.items() for row in some
        ]
        write_text(csv_text(rows), path)


def environment() -> dict[str, Any]:
    """Date, machine and versions of this run; MONAI and TensorLy need not be there."""
    found = versions()
    for name in ("monai", "tensorly", "tensorly-torch"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": hardware("cpu")["cpu"],
        "cpus": machine.cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "versions": found,
    }


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/")
