"""Activation memory: what a training step keeps, and the largest tensor of a forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from psc.accounting.forward import ExampleInput, prepared


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes in float32 for one batch, as PyTorch on the CPU keeps them.

    Attributes:
        saved: what one forward pass in training mode saves for the backward pass: every storage
            once (layers that work in place share theirs with the layer before), the input
            included, parameters and buffers not. Positions of maxima count 8 bytes each, as they
            are int64. Not in it: the loss, gradients, the optimiser's state, workspace of the
            convolutions, and copies that ``psc.block.convolution`` makes of small volumes.
        largest: the largest single tensor that an operation of that pass returns; a forward pass
            alone needs this much, and the operation's inputs.
    """

    saved: int
    largest: int


def activation_memory(
    module: nn.Module, input_shape: Sequence[int] | ExampleInput
) -> ActivationMemory:
    """Measure one forward pass in training mode, on a copy on the meta device.

    Args:
        module: any module; it is not changed.
        input_shape: (N, C, D, H, W) for ours; or an input, as for ``account``.

    Raises:
        ConfigError: if the module cannot train on that shape (batch norm needs more than one
            value per channel).
    """
    twin, run = prepared(module, input_shape, training=True)
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
        run()
    return ActivationMemory(sum(s.nbytes() for s in saved.values()), largest.bytes)


class _LargestResult(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest storage that an operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return results
