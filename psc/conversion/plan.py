"""What will become of each of a network's 3D convolutions, decided before any work is done."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from psc.block.stream import Merge
from psc.conversion.observation import Observation, Selection
from psc.errors import ConfigError

# ----------------------------------------
# Which Conv3d layers can become separable ones, and why others cannot.


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


Unsupported = Literal["refuse", "skip"]


class Plan:
    """The layers to convert, and those that are kept or refused, each with its reason.

    Args:
        model: any module.
        selection: which layers are asked for.

    Attributes:
        layers: every 3D convolution by name.
        kept: why some stay as they are, as asked for or as documented.
        refused: why some that were asked for cannot be converted.

    Raises:
        ConfigError: if the network has no 3D convolution.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        self._model = model
        self.layers = dict(convolutions(model))
        self.kept: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        for name, layer in self.layers.items():
            reason = selection.reason_against(name, layer.kernel_size)  # type: ignore[arg-type]
            if reason is not None:
                self.kept[name] = reason

    @property
    def chosen(self) -> dict[str, nn.Conv3d]:
        """The layers to convert."""
        left = self.layers.keys() - self.kept.keys() - self.refused.keys()
        return {n: part for n, part in self.layers.items() if n in left}  # type: ignore[misc]

    def refuse_unsupported(self, m: int, merge: Merge, *, needs_values: bool) -> None:
        """Refuse what ``psc.conversion.plan`` finds."""
        shared = sharing(self._model)
        for name in self.layers.keys() - self.kept.keys():
            layer = self.layers[name]
            reason = why_not(layer, m, merge, needs_values=needs_values) or shared.get(id(layer))
            if reason is not None:
                self.refused[name] = reason

    def refuse_unwatched(self, observation: Observation) -> None:
        """Refuse layers that a forward pass did not call, or whose weights it used otherwise."""
        for name in self.chosen:
            if name in observation.used_elsewhere:
                self.refused[name] = "its parameters are also used outside of its own forward pass"
            elif not observation.calls.get(name):
                self.refused[name] = (
                    "example_input never calls it in evaluation mode: it is idle, or its "
                    "parameters are used otherwise"
                )

    def settle(self, unsupported: Unsupported) -> None:
        """Go on without the refused layers, or not at all.

        Raises:
            ConfigError: naming all refused layers, unless they may be skipped.
        """
        if self.refused and unsupported == "refuse":
            raise ConfigError(refusal(self._in_order(self.refused)))

    def _in_order(self, reasons: Mapping[str, str]) -> dict[str, str]:
        return {name: reasons[name] for name in self.layers if name in reasons}


def refusal(reasons: Mapping[str, str]) -> str:
    """The message that lists layers with reasons and says what can be done."""
    lines = [f"  {name or '(the network)'}: {reason}" for name, reason in reasons.items()]
    count = "1 layer" if len(lines) == 1 else f"{len(lines)} layers"
    return "\n".join(
        [
            f"{count} cannot be converted:",
            *lines,
            "Leave them as they are with unsupported='skip', or choose others by include, exclude "
            "or kernel_sizes",
        ]
    )
