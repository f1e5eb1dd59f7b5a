"""The account of a module at an input shape."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from psc.accounting.memory import forward, meta_copy
from psc.block.stream import Triple

# ----------------------------------------
# One row per layer: its shape, its parameters, and its multiply-adds in closed form.


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters, and what its forward pass multiplies.

    Attributes:
        name: its path in the network.
        kind: its class, such as "Conv3d".
        kernel, stride: along the axes; None for layers without.
        groups: of a convolution's channels; None for layers without.
        in_channels, out_channels: channels or features; of a normalisation, the same twice. None
            where the class has no such notion.
        output_shape: of its last call; None if the forward pass does not call it.
        parameters: its own. What it shares with a layer before it is counted there.
        multiply_adds: MACs of all its calls, without the addition of a bias.
    """

    name: str
    kind: str
    kernel: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    groups: int | None
    in_channels: int | None
    out_channels: int | None
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int


@contextmanager
def recorded_layers(module: nn.Module) -> Iterator[list[Layer]]:
    """The layers of a module as the forward passes within the context call them.

    Yields:
        A list that is filled when the context ends: layers in the order of their first call, then
        those never called.
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
            x = inputs[0] if inputs else next(iter(keywords.values()))
            layer = called.get(name) or _layer(name, part)
            shape = tuple(output.shape) if isinstance(output, Tensor) else None
            work = layer.multiply_adds + multiply_adds(part, x, output)
            called[name] = replace(layer, output_shape=shape, multiply_adds=work)

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
    transposed one, and the rows of a linear layer's result. Other layers: 0.

    Args:
        layer: any module.
        x: what entered it.
        y: what left it.
    """
    if isinstance(layer, _CONVOLUTIONS):
        return layer.weight.numel() * (y.numel() // layer.out_channels)
    if isinstance(layer, _TRANSPOSED):
        return layer.weight.numel() * (x.numel() // layer.in_channels)
    if isinstance(layer, nn.Linear):
        return layer.weight.numel() * (y.numel() // layer.out_features)
    return 0


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
class Account:
    """What a module has and what one forward pass at ``input_shape`` costs.

    Attributes:
        input_shape, output_shape: (N, C, ...); the batch is counted in all costs.
        layers: every module that owns parameters, in the order of the forward pass.
        parameters: learnable numbers (``nn.Parameter``), shared ones once, frozen ones too.
        buffers: numbers that are stored but not learned, such as running means.
        counted_flops: the FLOPs that torch's ``FlopCounterMode`` counted in the same pass. They
            equal ``flops`` unless the module computes outside of its layers.
        receptive_field: extents along (D, H, W) if the module tells them, else None.
    """

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    parameters: int
    buffers: int
    counted_flops: int
    receptive_field: Triple | None

    @property
    def multiply_adds(self) -> int:
        """MACs of the forward pass, in closed form, summed over the layers."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def flops(self) -> int:
        """FLOPs of the forward pass: two per multiply-add."""
        return 2 * self.multiply_adds


def account(module: nn.Module, input_shape: Sequence[int]) -> Account:
    """Take a module's account at an input shape.

    The work is done on a copy on the meta device: nothing is computed, and the module may be on
    any device and is not changed. Evaluation mode, float32.

    Args:
        module: any module that takes one tensor and returns one.
        input_shape: (N, C, D, H, W) for ours.

    Raises:
        ConfigError: if the module cannot take that shape.
    """
    shape = tuple(int(size) for size in input_shape)
    twin = meta_copy(module).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), recorded_layers(twin) as layers, counter:
        y = forward(twin, shape)
    return Account(
        input_shape=shape,
        output_shape=tuple(y.shape),
        layers=tuple(layers),
        parameters=sum(p.numel() for p in module.parameters()),
        buffers=sum(b.numel() for b in module.buffers()),
        counted_flops=int(counter.get_total_flops()),
        receptive_field=_receptive_field(module),
    )


def _receptive_field(module: nn.Module) -> Triple | None:
    extent = getattr(module, "receptive_field", None)
    if isinstance(extent, int):
        return (extent, extent, extent)
    return cast(Triple | None, extent)
