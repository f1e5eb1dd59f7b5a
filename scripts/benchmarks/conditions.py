"""Conditions under which layers and networks are timed: device, precision, layout and clock."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from benchmarks.timing import Clock
from psc.errors import ConfigError

__all__ = ["CLOCKS", "LAYOUTS", "PRECISIONS", "Conditions", "arithmetic", "conditions_on"]

PRECISIONS = {"cuda": ("fp32", "tf32", "bf16"), "cpu": ("fp32", "bf16")}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
CLOCKS: dict[str, Clock] = {"cuda": "wall", "cpu": "cpu"}
"""The clock that decides, where none is asked for (see ``benchmarks.timing``)."""


@dataclass(frozen=True)
class Conditions:
    """What is measured under which conditions.

    Attributes:
        device: "cuda" or "cpu".
        precisions: of "fp32", "tf32" (GPU) and "bf16".
        layouts: of "contiguous" and "channels_last_3d".
        clock: whose seconds are reported and compared.
    """

    device: str
    precisions: tuple[str, ...]
    layouts: tuple[str, ...]
    clock: Clock

    @property
    def finish(self) -> Callable[[], object] | None:
        """Waits for the kernels that a call has only begun; None where there are none."""
        return torch.cuda.synchronize if self.device == "cuda" else None

    @property
    def clock_name(self) -> str:
        """The clock in words."""
        if self.clock == "wall":
            return "wall seconds"
        threads = torch.get_num_threads()
        return "CPU seconds" if threads == 1 else f"CPU seconds, summed over {threads} threads"


def conditions_on(
    device: str | None,
    precisions: Sequence[str] | None,
    layouts: Sequence[str],
    clock: Clock | None,
) -> Conditions:
    """Complete what the user asked for, and refuse what cannot be.

    Args:
        device: None = a GPU if there is one.
        precisions: None = all that the device has instructions for. A CPU without those for bf16
            takes up to 100 times longer in it.
        layouts: names of ``LAYOUTS``.
        clock: None = wall seconds on a GPU, CPU seconds on a CPU.

    Raises:
        ConfigError: no GPU where one is asked for, or a precision that the device does not have.
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
    return Conditions(device, tuple(precisions), tuple(layouts), clock or CLOCKS[device])


@contextmanager
def arithmetic(precision: str, device: str) -> Iterator[None]:
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
