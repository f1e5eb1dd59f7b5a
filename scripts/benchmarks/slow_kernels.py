"""Which convolutions PyTorch computes with its slow kernels on a CPU.

It gives some fp32 convolutions not to oneDNN but to kernels of its own (unfold, then a product), by
their sizes, the batch and the number of threads: 3D ones whose last two kernel sizes are 1 on one
thread, and those of batch 1 on small inputs (3D: where channels · D · H are at most 20,480).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["slow_convolutions"]

_SIZES_OF_BIAS = None  # backward alone asks for them


def slow_convolutions(function: Callable[[], object], device: str) -> int | None:
    """How many convolutions of a call go to the slow kernels; None on a GPU, which has none."""
    if device != "cpu":
        return None
    watch = _Watch()
    with watch:
        function()
    return watch.slow


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Asks PyTorch, for every convolution that passes, which kernel it will take."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.slow = 0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is torch.ops.aten.convolution.default:
            backend = torch._C._select_conv_backend(*args, _SIZES_OF_BIAS)
            self.slow += "Slow" in str(backend)
        return function(*args, **(kwargs or {}))
