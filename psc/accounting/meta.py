"""A module's twin on the meta device: shapes without numbers."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from psc.errors import ConfigError


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
