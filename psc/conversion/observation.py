"""One forward pass, watched: which layers it calls, whose weights it uses otherwise, its MACs."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from psc.accounting.account import recorded_layers
from psc.block.stream import AXES, Triple
from psc.conversion.following import Follower, Link
from psc.errors import ConfigError

ExampleInput = Tensor | tuple[Any, ...] | Mapping[str, Any]


@dataclass(frozen=True)
class Observation:
    """What a forward pass in evaluation mode did.

    Attributes:
        calls: how often each watched module was called.
        used_elsewhere: watched modules whose parameters something else used too.
        multiply_adds: MACs of every module that owns parameters, by name.
        links: watched modules whose result goes to one other watched module only.
    """

    calls: Mapping[str, int]
    used_elsewhere: frozenset[str]
    multiply_adds: Mapping[str, int]
    links: Mapping[str, Link]

    def within(self, name: str) -> int:
        """MACs of a module with all that it contains."""
        if not name:
            return sum(self.multiply_adds.values())
        own = (n for n in self.multiply_adds if n == name or n.startswith(f"{name}."))
        return sum(self.multiply_adds[n] for n in own)


def observe(
    model: nn.Module, watched: Sequence[str], example: ExampleInput, *, follow: bool = False
) -> Observation:
    """Run a network once, without gradients; modes of its modules are as before afterwards.

    Args:
        model: any module.
        watched: names of modules in it.
        example: its input: a tensor, a tuple of arguments, or a mapping of keyword arguments.
        follow: find out which watched convolutions follow each other; keeps their results.
    """
    calls: Counter[str] = Counter()
    running: set[str] = set()
    parts = {name: model.get_submodule(name) for name in watched}
    owner = {id(p): name for name, part in parts.items() for p in part.parameters()}
    uses = _Uses(owner, running)
    follower = Follower(model, watched if follow else ())
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(in_evaluation_mode(model))
        layers = stack.enter_context(recorded_layers(model))
        for name, part in parts.items():
            for handle in _watch(name, part, calls, running):
                stack.callback(handle.remove)
        follower.watch(stack)
        with uses, follower:
            result = run_on(model, example)
        links = follower.links(result)
    work = {layer.name: layer.multiply_adds for layer in layers}
    return Observation(calls, frozenset(uses.elsewhere), work, links)


@contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode of all modules for a while; afterwards each has its own again."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def run_on(model: nn.Module, example: ExampleInput) -> Any:
    """Call a network with a tensor, a tuple of arguments or a mapping of keyword arguments."""
    if isinstance(example, Tensor):
        return model(example)
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example)


def _watch(name: str, part: nn.Module, calls: Counter[str], running: set[str]) -> Sequence[Any]:
    def enter(*_: object) -> None:
        calls[name] += 1
        running.add(name)

    def leave(*_: object) -> None:
        running.discard(name)

    # First of all hooks and last of them, so that the module's own count as the module.
    before = part.register_forward_pre_hook(enter, prepend=True)
    return before, part.register_forward_hook(leave)


class _Uses(TorchFunctionMode):
    """Notes which parameters reach a torch function while their own module is not running."""

    def __init__(self, owner: Mapping[int, str], running: set[str]) -> None:
        super().__init__()
        self._owner, self._running = owner, running
        self.elsewhere: set[str] = set()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Attributes (dtype, device, shape) are read of any parameter, and of all alike.
        if getattr(func, "__name__", "") != "__get__":
            for leaf in tree_leaves((args, kwargs)):
                name = self._owner.get(id(leaf)) if isinstance(leaf, Tensor) else None
                if name is not None and name not in self._running:
                    self.elsewhere.add(name)
        return func(*args, **(kwargs or {}))


# ----------------------------------------
# Which of a network's convolutions a user asks for: by name, and by kernel size.


Names = str | Sequence[str] | None
KernelSizes = Iterable[int | Sequence[int]] | None


class Selection:
    """The layers that ``include``, ``exclude`` and ``kernel_sizes`` leave.

    Args:
        include: names or patterns (``layer1``, ``*.conv2``); one that fits a module includes all
            layers within it. None: all.
        exclude: the same, taken away.
        kernel_sizes: (kD, kH, kW), or a number for a cube; None: all.
        known: names of all the network's 3D convolutions.

    Raises:
        ConfigError: for a pattern that fits no layer, or what is no kernel size.
    """

    def __init__(
        self, include: Names, exclude: Names, kernel_sizes: KernelSizes, known: Collection[str]
    ) -> None:
        self._include = _patterns("include", include, known)
        self._exclude = _patterns("exclude", exclude, known)
        self._sizes = None if kernel_sizes is None else {_triple(size) for size in kernel_sizes}

    def reason_against(self, name: str, kernel_size: Triple) -> str | None:
        """Why a layer is left as it is; None if it is to be converted."""
        if self._include is not None and not _fits(name, self._include):
            return "not in include"
        if self._exclude is not None and _fits(name, self._exclude):
            return "in exclude"
        if self._sizes is not None and kernel_size not in self._sizes:
            return "not in kernel_sizes"
        if all(size == 1 for size in kernel_size):
            return "pointwise"
        if min(kernel_size) == 1:
            return "2D or 1D already"
        return None


def _patterns(key: str, names: Names, known: Collection[str]) -> list[str] | None:
    if names is None:
        return None
    patterns = [names] if isinstance(names, str) else list(names)
    for pattern in patterns:
        if not any(_fits(name, [pattern]) for name in known):
            shown = ", ".join(list(known)[:8]) + (", …" if len(known) > 8 else "")
            raise ConfigError(f"{key}: {pattern!r} fits no 3D convolution; there are {shown}")
    return patterns


def _fits(name: str, patterns: Iterable[str]) -> bool:
    parts = name.split(".")
    ancestors = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(a, pattern) for pattern in patterns for a in ancestors)


def _triple(size: int | Sequence[int]) -> Triple:
    sizes = (size,) * AXES if isinstance(size, int) else tuple(size)
    if len(sizes) != AXES or not all(isinstance(s, int) and s > 0 for s in sizes):
        raise ConfigError(f"kernel_sizes: {size!r} is neither a number nor (kD, kH, kW)")
    d, h, w = sizes
    return d, h, w
