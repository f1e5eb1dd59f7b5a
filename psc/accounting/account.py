"""What a module costs at an input: one row per layer, the totals, and activation memory."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from psc.accounting.forward import ExampleInput, counting, prepared, tensors_in
from psc.block.convolution import Triple

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters, and what its forward pass multiplies; None: has no such."""

    name: str  # its path in the network
    kind: str  # its class, such as "Conv3d"
    kernel: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    groups: int | None
    in_channels: int | None  # channels or features; of a normalisation, the same twice
    out_channels: int | None
    output_shape: tuple[int, ...] | None  # of its last call, if that returns a tensor
    parameters: int  # its own; what it shares with a layer before it is counted there
    multiply_adds: int  # MACs of all its calls, without the addition of a bias


@dataclass(frozen=True)
class Account:
    """What a module has and what one forward pass of an input costs."""

    input_shape: tuple[int, ...]  # (N, C, ...); the batch is counted in all costs
    output_shapes: tuple[tuple[int, ...], ...]  # of every tensor in the result
    layers: tuple[Layer, ...]  # that own parameters, in the order of the forward pass
    parameters: int  # learnable numbers, shared ones once, frozen ones too
    buffers: int  # numbers that are stored but not learned, such as running means
    counted_flops: int  # by torch's ``FlopCounterMode`` in the same pass
    uncounted: tuple[str, ...]  # operations that multiply and that nobody counts
    receptive_field: Triple | None  # along (D, H, W), if the module tells it

    @property
    def output_shape(self) -> tuple[int, ...] | None:
        """Of the first tensor in the result; None if there is none."""
        return self.output_shapes[0] if self.output_shapes else None

    @property
    def elsewhere(self) -> int:
        """MACs outside of convolutions and linear layers, counted by torch: attention, say."""
        return max(0, self.counted_flops // 2 - sum(layer.multiply_adds for layer in self.layers))

    @property
    def multiply_adds(self) -> int:
        """MACs of the forward pass: in closed form, summed over the layers, and ``elsewhere``."""
        return sum(layer.multiply_adds for layer in self.layers) + self.elsewhere

    @property
    def flops(self) -> int:
        """FLOPs of the forward pass: two per multiply-add."""
        return 2 * self.multiply_adds


def account(module: nn.Module, input_shape: Sequence[int] | ExampleInput) -> Account:
    """Take a module's account at an input shape.

    The work is done on a copy on the meta device: nothing is computed, and the module may be on
    any device and is not changed. Evaluation mode, float32.

    Args:
        module: any module; what it returns may be anything that holds tensors.
        input_shape: (N, C, D, H, W) for ours. Or an input, for modules that take several arguments
            or that read values: a tensor, a tuple of arguments or a mapping of keyword arguments.
            Then a copy computes, on the module's own device.

    Raises:
        ConfigError: if the module cannot take that shape, with its reason.
    """
    twin, run = prepared(module, input_shape, training=False)
    with torch.no_grad(), recorded_layers(twin) as layers, counting() as (counter, uncounted):
        result = run()
    by_shape = not isinstance(input_shape, Tensor | Mapping) and isinstance(input_shape[0], int)
    entered = tuple(input_shape) if by_shape else tensors_in(input_shape)[0].shape
    extent = getattr(module, "receptive_field", None)
    return Account(
        input_shape=tuple(int(size) for size in entered),
        output_shapes=tuple(tuple(tensor.shape) for tensor in tensors_in(result)),
        layers=tuple(layers),
        parameters=sum(p.numel() for p in module.parameters()),
        buffers=sum(b.numel() for b in module.buffers()),
        counted_flops=int(counter.get_total_flops()),
        uncounted=tuple(uncounted),
        receptive_field=(extent,) * 3 if isinstance(extent, int) else extent,
    )


@contextmanager
def recorded_layers(module: nn.Module) -> Iterator[list[Layer]]:
    """The layers of a module as the forward passes within the context call them.

    Yields a list that is filled when the context ends: layers in the order of their first call,
    then those never called.
    """
    owners = {
        name: part
        for name, part in module.named_modules()
        if any(True for _ in part.parameters(recurse=False))
    }
    called: dict[str, Layer] = {}
    layers: list[Layer] = []

    def recorder(name: str) -> Any:
        def record(part: nn.Module, inputs: Any, keywords: Any, output: Any) -> None:
            layer = called.get(name) or _layer(name, part)
            entered = tensors_in((inputs, keywords))
            if entered and isinstance(output, Tensor):
                work = layer.multiply_adds + multiply_adds(part, entered[0], output)
                layer = replace(layer, output_shape=tuple(output.shape), multiply_adds=work)
            called[name] = layer

        return record

    hooks = [
        part.register_forward_hook(recorder(name), with_kwargs=True)
        for name, part in owners.items()
    ]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()
    seen: set[int] = set()
    for name in [*called, *(name for name in owners if name not in called)]:
        layer = called.get(name) or _layer(name, owners[name])
        own = {id(p): p for p in owners[name].parameters(recurse=False) if id(p) not in seen}
        seen |= own.keys()
        layers.append(replace(layer, parameters=sum(p.numel() for p in own.values())))


def multiply_adds(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    """MACs in closed form: every weight is used once per position.

    Positions, batch included, are the output's voxels for a convolution, the INPUT's for a
    transposed one, and the rows of a linear layer's result. Other layers, and empty ones: 0.
    """
    if isinstance(layer, _CONVOLUTIONS):
        positions, channels = y.numel(), layer.out_channels
    elif isinstance(layer, _TRANSPOSED):
        positions, channels = x.numel(), layer.in_channels
    elif isinstance(layer, nn.Linear):
        positions, channels = y.numel(), layer.out_features
    else:
        return 0
    weights = layer.weight.numel()
    return weights * (positions // channels) if weights else 0


def _layer(name: str, module: nn.Module) -> Layer:
    """The row of a layer before its first call."""
    kernel = stride = groups = None
    if isinstance(module, _CONVOLUTIONS + _TRANSPOSED):
        kernel, stride, groups = module.kernel_size, module.stride, module.groups
    features = getattr(module, "num_features", getattr(module, "num_channels", None))
    return Layer(
        name=name,
        kind=next(c.__name__ for c in type(module).__mro__ if not c.__name__.startswith("_")),
        kernel=kernel,
        stride=stride,
        groups=groups,
        in_channels=getattr(module, "in_channels", getattr(module, "in_features", features)),
        out_channels=getattr(module, "out_channels", getattr(module, "out_features", features)),
        output_shape=None,
        parameters=0,
        multiply_adds=0,
    )


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
