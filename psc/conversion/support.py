"""Which Conv3d layers can become separable ones, and why others cannot."""

from collections import Counter
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from psc.errors import ConfigError
from psc.streams import Merge

_OWN_PARAMETERS = {"weight", "bias"}


def check_model(model: nn.Module) -> None:
    """Refuse networks that are wrapped in what must come after a conversion.

    Raises:
        ConfigError: naming the wrapper.
    """
    for module in model.modules():
        kind = type(module).__name__
        if kind in ("DistributedDataParallel", "FullyShardedDataParallel", "OptimizedModule"):
            raise ConfigError(
                f"the network is wrapped in {kind}, which knows the old parameters; convert the "
                "network itself, then wrap the result"
            )
        if kind.endswith(("ScriptModule", "TracedModule")):
            raise ConfigError("the network is TorchScript; convert it before torch.jit, not after")


def convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every 3D convolution of a network once, by its first name, quantised ones included.

    Only what is, or was before quantisation, an ``nn.Conv3d``; not transposed convolutions.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d) or is_quantised(module):
            yield name, module


def is_quantised(module: nn.Module) -> bool:
    """Whether this is one of PyTorch's quantised 3D convolutions, fused or not."""
    kind = type(module)
    return "quantized" in kind.__module__ and "Conv" in kind.__name__ and "3d" in kind.__name__


def sharing(model: nn.Module) -> dict[int, str]:
    """Modules of a network that cannot be replaced alone, by ``id``, with the reason.

    A layer within a block that is itself used twice has one owner, and is no such case: it is
    replaced once, for both.
    """
    owners: Counter[int] = Counter()
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for child_name, child in module._modules.items():
            if child is not None:
                owners[id(child)] += 1
                full = f"{name}.{child_name}" if name else child_name
                names.setdefault(id(child), []).append(full)
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                users.setdefault(id(parameter), []).append(name)
    reasons = {}
    for module in model.modules():
        shared = {
            user for p in module._parameters.values() if p is not None for user in users[id(p)]
        }
        if len(shared) > 1:
            reasons[id(module)] = f"its parameters are shared by {', '.join(sorted(shared))}"
        if owners[id(module)] > 1:
            reasons[id(module)] = f"one module under the names {', '.join(names[id(module)])}"
    return reasons


def why_not(module: nn.Module, m: int, merge: Merge, *, needs_values: bool) -> str | None:
    """The reason, with its remedy, why a layer cannot be converted; None if it can.

    Args:
        module: one of ``convolutions``.
        m: number of streams.
        merge: how they are merged.
        needs_values: whether its weights are read.
    """
    if is_quantised(module):
        return "quantised; convert before quantising"
    if isinstance(module, LazyModuleMixin):
        return "lazy: its channels are not known yet; run the network once first"
    if is_parametrized(module):
        return "parametrised; call torch.nn.utils.parametrize.remove_parametrizations first"
    assert isinstance(module, nn.Conv3d)
    return _why_not_its_class(module) or _why_not_its_weight(module, m, merge, needs_values)


def _why_not_its_class(module: nn.Conv3d) -> str | None:
    kind = type(module)
    for method in ("forward", "_conv_forward", "__call__"):
        own = method in vars(module)
        if own or getattr(kind, method) is not getattr(nn.Conv3d, method):
            where = "this module" if own else kind.__name__
            return f"{where} overrides {method} of Conv3d, what it computes is not known"
    if module._parameters.get("weight") is None:
        return (
            "its weight is computed from other parameters (pruning, weight or spectral norm); make "
            "it permanent first, such as by torch.nn.utils.prune.remove"
        )
    surplus = (module._parameters.keys() - _OWN_PARAMETERS) | set(module._buffers)
    if surplus or module._modules:
        names = ", ".join(sorted(surplus | set(module._modules)))
        return f"it holds more than a weight and a bias: {names}"
    if module._state_dict_hooks or module._load_state_dict_pre_hooks:
        return "it has hooks on its state_dict, which name parameters that will be gone"
    return None


def _why_not_its_weight(module: nn.Conv3d, m: int, merge: Merge, needs_values: bool) -> str | None:
    weight = module.weight
    if type(weight) is not nn.Parameter:
        return f"its weight is a {type(weight).__name__}, not a plain parameter"
    if not weight.is_floating_point():
        return f"its weight is {weight.dtype}, not of floating-point numbers"
    for parameter in module.parameters():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return "hooks are registered on its parameters, which will be gone"
    if needs_values and weight.is_meta:
        return "on the meta device there are no weights to start from; use init='random'"
    per_group = module.out_channels // module.groups
    if merge == "concatenate" and per_group < m:
        of_group = f" in each of its {module.groups} groups" if module.groups > 1 else ""
        return (
            f"{per_group} output channels{of_group} cannot be shared out to m={m} streams; use "
            f"m={per_group} or merge='sum'"
        )
    return None
