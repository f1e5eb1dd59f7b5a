"""The account of a module at an input shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from psc.accounting.layers import Layer, recorded_layers
from psc.accounting.meta import forward, meta_copy
from psc.convolutions import Triple


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
