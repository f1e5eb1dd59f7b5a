"""What is timed of a module: one forward pass, and one training step."""

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from benchmarks.conditions import LAYOUTS, Conditions, arithmetic
from benchmarks.timing import Timing, interleave

__all__ = ["BackwardSteps", "Contestant", "MatrixProduct", "OptimizerSteps", "Steps", "race"]

_LEARNING_RATE = 1e-4  # Adam's; no number here depends on it
Name = TypeVar("Name", bound=Hashable)


class Contestant(Protocol):
    """Something with a forward pass and a training step."""

    def forward(self) -> object:
        """Compute the result, as in inference."""

    def train(self) -> object:
        """Compute the result and what follows from it, as in training."""


class Steps(ABC):
    """A module and its input, in one layout and precision.

    Both are built at the first call, so that a lack of memory is the failure of that call.

    Args:
        build: gives the module and its input, on the device.
        layout: a name of ``LAYOUTS``; parameters and input get it.
        precision: see ``arithmetic``. Backward runs under its flags too: they choose algorithms.
        device: "cuda" or "cpu".
    """

    def __init__(
        self,
        build: Callable[[], tuple[nn.Module, Tensor]],
        layout: str,
        precision: str,
        device: str,
    ) -> None:
        self._build, self._layout = build, layout
        self._precision, self._device = precision, device

    @cached_property
    def _built(self) -> tuple[nn.Module, Tensor]:
        module, x = self._build()
        layout = LAYOUTS[self._layout]
        module = module.to(memory_format=layout)
        return module, x.detach().to(memory_format=layout).requires_grad_(x.requires_grad)

    def _in_mode(self, training: bool) -> tuple[nn.Module, Tensor]:
        module, x = self._built
        if module.training != training:
            module.train(training)
        return module, x

    def forward(self) -> Tensor:
        """One forward pass in evaluation mode, without gradients."""
        module, x = self._in_mode(training=False)
        with torch.no_grad(), arithmetic(self._precision, self._device):
            y: Tensor = module(x)
        return y

    def train(self) -> None:
        """One training step; its gradients are not kept."""
        module, x = self._in_mode(training=True)
        try:
            with arithmetic(self._precision, self._device):
                self._learn(module, x)
        finally:
            module.zero_grad(set_to_none=True)
            x.grad = None

    @abstractmethod
    def _learn(self, module: nn.Module, x: Tensor) -> None:
        """Forward, backward and what follows them."""


class BackwardSteps(Steps):
    """A part of a network: its training step is forward and backward."""

    _gradient: Tensor | None = None

    def _learn(self, module: nn.Module, x: Tensor) -> None:
        y = module(x)
        if self._gradient is None:
            # Not constant: batch norm makes zeros of a constant gradient.
            self._gradient = torch.randn_like(y)
        y.backward(self._gradient)


class OptimizerSteps(Steps):
    """A network: its training step is forward, backward and a step of Adam.

    The loss is the mean square of the result, which costs next to nothing.
    """

    @cached_property
    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self._built[0].parameters(), lr=_LEARNING_RATE)

    def _learn(self, module: nn.Module, x: Tensor) -> None:
        module(x).float().square().mean().backward()
        self._optimizer.step()


class MatrixProduct:
    """A product of square matrices: what the device reaches where nothing holds it up.

    Args:
        size: rows and columns.
        precision: bf16 multiplies matrices of that type, without casts.
        device: "cuda" or "cpu".
    """

    def __init__(self, size: int, precision: str, device: str) -> None:
        self._precision, self._device = precision, device
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._matrix = torch.randn(size, size).to(device, dtype)
        self.flops = 2 * size**3

    def forward(self) -> Tensor:
        """The product."""
        with torch.no_grad(), arithmetic(self._precision, self._device):
            return self._matrix @ self._matrix

    train = forward


def race(
    contestants: Mapping[Name, Contestant],
    conditions: Conditions,
    repeats: int,
    shortest: float,
) -> tuple[dict[Name, Timing], dict[Name, Timing]]:
    """Time all contestants in turn: first their forward passes, then their training steps.

    Args:
        contestants: by name.
        conditions: of the measurement.
        repeats: rounds that count.
        shortest: seconds that a measurement takes at least.

    Returns:
        Timings of forward and of training. Whoever fails in the first does not start in the second
        and has the same failure there.
    """
    gc.collect()  # what failed before may hold memory in a cycle
    finish = conditions.finish
    forward = interleave(
        {name: c.forward for name, c in contestants.items()},
        repeats,
        finish=finish,
        shortest=shortest,
    )
    left = {name: c.train for name, c in contestants.items() if forward[name].failure is None}
    training = interleave(left, repeats, finish=finish, shortest=shortest)
    return forward, {name: training.get(name, forward[name]) for name in contestants}
