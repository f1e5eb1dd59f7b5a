"""What drawings show, read from modules: the blocks of a unit, the units of a network.

A network is built on the meta device and run once there, so that order, sizes and connections are
those of its own forward pass.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from psc.accounting.forward import forward
from psc.block.block import PSCBlock
from psc.block.convolution import AXES, Triple, Unit

INPUT = "input"
"""What the first unit is fed from."""


@dataclass(frozen=True)
class DrawnConvolution:
    """A convolution as found in a module."""

    in_channels: int  # that enter and leave
    out_channels: int
    kernel: Triple  # its extent along (D, H, W)
    active: bool  # whether a non-linearity follows it

    @property
    def axes(self) -> int:
        """Along how many axes it looks further than one voxel: 3, 2 or 1."""
        return sum(extent > 1 for extent in self.kernel)


DrawnStream = tuple[DrawnConvolution, ...]
DrawnBlock = tuple[DrawnStream, ...]


@dataclass(frozen=True)
class DrawnUnit:
    """A unit as a forward pass met it."""

    name: str  # its path in the network
    in_channels: int  # that entered and left
    out_channels: int
    input_size: Triple  # voxels along (D, H, W) that entered and left
    output_size: Triple
    blocks: tuple[DrawnBlock, ...]  # what it is made of
    # units whose results reached its input with no other unit in between, in the order of
    # their calls; ``INPUT`` for the network's own
    sources: tuple[str, ...]


@dataclass(frozen=True)
class DrawnNetwork:
    """A network as a forward pass found it."""

    network: nn.Module  # itself, for what is no unit
    input_shape: tuple[int, ...]  # (N, C, D, H, W), and that of the result
    output_shape: tuple[int, ...]
    units: tuple[DrawnUnit, ...]  # in the order of their calls
    # units whose results reach the network's with no other in between
    output_sources: tuple[str, ...]
    parameters: int  # all of them


def walk_unit(unit: nn.Module) -> tuple[DrawnBlock, ...]:
    """The blocks of a unit in their order, each with its streams, each with its convolutions.

    3D convolutions are one block of a single stream.
    """
    blocks = [part for part in unit.modules() if isinstance(part, PSCBlock)]
    if not blocks:
        return ((_convolutions(unit),),)
    return tuple(
        tuple(_convolutions(s, after=block.activation is not None) for s in block.streams)
        for block in blocks
    )


def _convolutions(part: nn.Module, *, after: bool = False) -> DrawnStream:
    """Those of a stream; ``after``: an activation follows the merging of several."""
    found = []
    for unit in part.modules():
        layers = dict(unit.named_children())
        if isinstance(conv := layers.get("conv"), nn.Conv3d):
            names = list(layers)
            active = "activation" in names[names.index("conv") :]
            d, h, w = conv.kernel_size
            found.append(DrawnConvolution(conv.in_channels, conv.out_channels, (d, h, w), active))
    if after:
        found[-1] = replace(found[-1], active=True)
    return tuple(found)


def stream_axis(stream: DrawnStream) -> int | None:
    """The axis across which a stream's planes lie, and its 1D kernel runs; None for 3D."""
    return next((c.kernel.index(1) for c in stream if c.axes == AXES - 1), None)


def walk_network(network: nn.Module, input_shape: tuple[int, ...]) -> DrawnNetwork:
    """A network on the meta device, as one forward pass in evaluation mode meets its units."""
    found: list[DrawnUnit] = []
    origins = _Origins()

    def in_order(x: Tensor) -> tuple[str, ...]:
        order = [earlier.name for earlier in found]
        return tuple(sorted(origins.of(x), key=order.index))

    def watch(name: str) -> Any:
        def record(unit: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
            x = inputs[0]
            size, left = ((d, h, w) for _, _, d, h, w in (x.shape, result.shape))
            blocks, sources = walk_unit(unit), in_order(x) or (INPUT,)
            channels = x.shape[1], result.shape[1]
            found.append(DrawnUnit(name, *channels, size, left, blocks, sources))
            origins.mark(result, {name: None})

        return record

    outermost: dict[str, Unit] = {}
    for name, module in network.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in outermost)
        if isinstance(module, Unit) and not inner:
            outermost[name] = module
    hooks = [module.register_forward_hook(watch(name)) for name, module in outermost.items()]
    try:
        with torch.no_grad(), origins:
            y = forward(network.eval(), input_shape)
            output_sources = in_order(y)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = sum(p.numel() for p in network.parameters())
    shape = tuple(y.shape)
    return DrawnNetwork(network, input_shape, shape, tuple(found), output_sources, parameters)


class _Origins(TorchFunctionMode):
    """Follows which units' results every tensor was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[int, dict[str, None]] = {}
        self._kept: list[Tensor] = []  # an id belongs to a tensor only as long as it lives

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            merged: dict[str, None] = {}
            for tensor in _tensors((args, tuple((kwargs or {}).values()))):
                merged.update(self._of.get(id(tensor), {}))
            if merged:
                self.mark(result, merged)
        return result

    def mark(self, tensor: Tensor, names: dict[str, None]) -> None:
        """Say where a tensor comes from."""
        self._of[id(tensor)] = names
        self._kept.append(tensor)

    def of(self, tensor: Tensor) -> dict[str, None]:
        """Where it comes from."""
        return self._of.get(id(tensor), {})


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)
