"""Putting other modules in the place of a network's own."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from psc.errors import ConfigError

Model = TypeVar("Model", bound=nn.Module)

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_is_full_backward_hook",
    "_backward_pre_hooks",
)


def replaced(model: Model, replacements: Mapping[str, nn.Module], *, inplace: bool) -> Model:
    """A network with some modules replaced; forward and backward hooks move to the new ones.

    Args:
        model: any module.
        replacements: by the name of what they replace; "" is the network itself.
        inplace: False leaves the network as it is and returns a copy. What is replaced is not
            even copied; wherever the network holds it, attributes and lists included, the copy
            holds the new module.

    Raises:
        ConfigError: if the network cannot be copied, or is to be replaced itself in place.
    """
    if inplace:
        if "" in replacements:
            raise ConfigError("a single layer cannot be replaced in place; use what is returned")
        for name, module in replacements.items():
            _put(model, name, module)
        return model
    memo: dict[int, Any] = {}  # deepcopy takes what it finds here instead of copying
    for name, module in replacements.items():
        memo[id(model.get_submodule(name))] = module
    try:
        twin = copy.deepcopy(model, memo)
        for name, module in replacements.items():
            old = model.get_submodule(name)
            for hooks in _HOOKS:
                setattr(module, hooks, copy.deepcopy(getattr(old, hooks), memo))
    except (TypeError, RuntimeError, copy.Error) as error:
        raise ConfigError(
            f"the network cannot be copied ({str(error).splitlines()[0]}); use inplace=True"
        ) from error
    return twin


def put_back(model: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    """Undo a replacement in place."""
    for name, module in originals.items():
        _put(model, name, module)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    old = model.get_submodule(name)
    model.get_submodule(parent)._modules[child] = module
    for hooks in _HOOKS:
        # The very dictionaries move, so that handles still remove their hooks.
        moved = getattr(old, hooks)
        setattr(module, hooks, moved)
        if isinstance(moved, dict):
            setattr(old, hooks, type(moved)())
