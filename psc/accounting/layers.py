"""One row per layer: its shape, its parameters, and its multiply-adds in closed form."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

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
