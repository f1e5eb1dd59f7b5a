"""Activation memory: what a training step keeps, and the largest tensor of a forward pass."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from psc.errors import ConfigError

# ----------------------------------------
# A module's twin on the meta device: shapes without numbers.


def meta_copy(module: nn.Module) -> nn.Module:
    """The same module with float32 parameters and buffers on the meta device.

    The module itself is neither moved nor changed, and its tensors are not even copied, so that
    this costs no memory on whatever device they are.
    """
    twins: dict[int, Any] = {}  # deepcopy takes what it finds here instead of copying
    for tensor in (*module.parameters(), *module.buffers()):
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        twin = torch.empty_like(tensor, device="meta", dtype=dtype)
        if isinstance(tensor, nn.Parameter):
            twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
        twins[id(tensor)] = twin
    return copy.deepcopy(module, twins)


def forward(module: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """The result of a module on the meta device for a float32 input of a shape.

    Raises:
        ConfigError: if the module cannot take that shape, with its reason.
    """
    if not input_shape or min(input_shape) < 1:
        raise ConfigError(f"an input of shape {input_shape}: every size must be at least 1")
    try:
        with torch.device("meta"):
            y: Tensor = module(torch.zeros(input_shape))
    except ConfigError:
        raise
    except (RuntimeError, ValueError) as error:
        mode = "training" if module.training else "evaluation"
        raise ConfigError(
            f"{type(module).__name__} cannot take an input of shape {input_shape} in {mode} mode "
            f"({str(error).splitlines()[0]}); change the shape"
        ) from error
    return y


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes in float32 for one batch, as PyTorch's plain formulation on the CPU keeps them.

    Attributes:
        saved: what one forward pass in training mode saves for the backward pass: every storage
            once (layers that work in place share theirs with the layer before), the input
            included, parameters and buffers not. Positions of maxima count 8 bytes each, as they
            are int64. Not in it: the loss, gradients, the optimiser's state, workspace of the
            convolutions, and the copies that the folded formulation makes
            (``psc.block.folding``).
        largest: the largest single tensor that an operation of that pass returns; a forward pass
            alone needs this much, and the operation's inputs.
    """

    saved: int
    largest: int


def activation_memory(module: nn.Module, input_shape: Sequence[int]) -> ActivationMemory:
    """Measure one forward pass in training mode, on a copy on the meta device.

    Args:
        module: any module that takes one tensor and returns one; it is not changed.
        input_shape: (N, C, D, H, W) for ours.

    Raises:
        ConfigError: if the module cannot train on that shape (batch norm needs more than one
            value per channel).
    """
    twin = meta_copy(module).train()
    tensors = [*twin.parameters(), *twin.buffers()]
    # On the meta device storages have no address. Both hold theirs, so that no id is used twice.
    constant = {id(storage): storage for storage in (t.untyped_storage() for t in tensors)}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in constant:
            saved[id(storage)] = storage
        return tensor

    largest = _LargestResult()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.enable_grad(), hooks, largest:
        forward(twin, tuple(input_shape))
    return ActivationMemory(sum(s.nbytes() for s in saved.values()), largest.bytes)


class _LargestResult(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest storage that an operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return results
