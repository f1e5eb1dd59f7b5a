"""One forward pass to be counted: for a shape on the meta device, for an example input for real."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from psc.block.convolution import as_asked
from psc.errors import ConfigError, first_line

ExampleInput = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A network's input: a tensor, a tuple of arguments, or a mapping of keyword arguments."""


def run_on(module: nn.Module, example: ExampleInput) -> Any:
    """Call a network with an example input, of whose tensors it may change copies in place."""
    example = tree_map_only(Tensor, torch.clone, example)
    if isinstance(example, Tensor):
        return module(example)
    return module(**example) if isinstance(example, Mapping) else module(*example)


def tensors_in(result: Any) -> list[Tensor]:
    """Tensors of a result in their order: of lists, mappings, dataclasses and any other object."""
    found: list[Tensor] = []
    seen: set[int] = set()

    def look(value: Any) -> None:
        if id(value) in seen or callable(value) or isinstance(value, str):
            return
        seen.add(id(value))
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            list(map(look, value.values()))
        elif isinstance(value, list | tuple | set):
            list(map(look, value))
        elif hasattr(value, "__dict__"):
            list(map(look, vars(value).values()))

    look(result)
    return found


def prepared(
    module: nn.Module, given: Sequence[int] | ExampleInput, *, training: bool
) -> tuple[nn.Module, Callable[[], Any]]:
    """A copy of a module in training or evaluation mode, and what runs it once."""
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        raise ConfigError(f"{type(module).__name__} has lazy layers; run it once on data first")
    if isinstance(given, Tensor | Mapping) or not all(isinstance(size, int) for size in given):
        twin = copy.deepcopy(module, detached(module)).train(training)
        return twin, lambda: run_on(twin, given)  # type: ignore[arg-type]
    shape = tuple(given)
    twin = meta_copy(module).train(training)
    return twin, lambda: forward(twin, shape)


def meta_copy(module: nn.Module) -> nn.Module:
    """The same module with float32 parameters and buffers on the meta device.

    The module itself is neither moved nor changed, and its tensors are not even copied, so that
    this costs no memory on whatever device they are.
    """
    twins: dict[int, Any] = {}  # deepcopy takes what it finds here instead of copying
    for tensor in (tensor for part in module.modules() for tensor in tensors_in(vars(part))):
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        twin = torch.empty_like(tensor, device="meta", dtype=dtype)
        if isinstance(tensor, nn.Parameter):
            twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
        twins[id(tensor)] = twin
    return copy.deepcopy(module, twins)


def detached(module: nn.Module) -> dict[int, Any]:
    """For deepcopy: tensors with a history that a module keeps (results, say), without it."""
    kept = (tensor for part in module.modules() for tensor in tensors_in(vars(part)))
    return {id(tensor): tensor.detach() for tensor in kept if not tensor.is_leaf}


def forward(module: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """The result of a module on the meta device for a float32 input of a shape."""
    if not input_shape or min(input_shape) < 1:
        raise ConfigError(f"an input of shape {input_shape}: every size must be at least 1")
    try:
        with torch.device("meta"):
            return module(torch.zeros(input_shape))
    except ConfigError:
        raise
    except Exception as error:  # whatever the code of others raises
        mode = "training" if module.training else "evaluation"
        # A value that is read, data that decide on shapes, or a device that is not asked for.
        of_meta = re.search(r"meta|item\(\)|data-dependent|device", str(error), re.IGNORECASE)
        if isinstance(error, TypeError) or of_meta:
            remedy = "give an input in place of its shape: a tensor, or all arguments as a tuple"
        else:
            remedy = "change the shape"
        raise ConfigError(
            f"{type(module).__name__} cannot take an input of shape {input_shape} in {mode} mode "
            f"({first_line(error)}); {remedy}"
        ) from error


_BATCH_NORM = torch.ops.aten.native_batch_norm.default


class _Uncounted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations that multiply and that torch's counter does not know."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _BATCH_NORM and args[0].is_meta and not args[5]:  # not training
            # Torch's counter would take it apart, in Python, for half of the time of a count.
            nothing = args[0].new_empty(0)
            return torch.empty_like(args[0]), nothing, nothing
        name, ours = func._opname, func.namespace in ("aten", "prim", "prims")
        multiplies = re.search(r"(^|_|add|v|b)(mm|mv|dot)($|_)|rnn|attention|^_trilinear$", name)
        counted = func._overloadpacket in flop_registry or func._can_decompose()
        if (multiplies or not ours) and not counted:
            self.names[f"{func.namespace}::{name}"] = None
        return func(*args, **(kwargs or {}))


@contextmanager
def counting() -> Iterator[tuple[FlopCounterMode, Mapping[str, None]]]:
    """The counter of torch, and the names of the operations that it misses.

    Attention is computed as the matrix products that it is: fused, the counter misses most forms.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        missed = _Uncounted()
        attention, counted = sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False)
        with as_asked(), attention, counted as counter, missed:
            yield counter, missed.names
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
