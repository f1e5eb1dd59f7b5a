"""What will become of each of a network's 3D convolutions, decided before any work is done.

A chain is n consecutive convolutions that one P_mSC_n replaces, or, n = 1, one convolution.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate, pairwise
from typing import Literal

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from psc.block.block import Merge
from psc.block.convolution import AXES, Triple, conv3d
from psc.conversion.watching import Link, Observation, may_go
from psc.errors import ConfigError

Names = str | Sequence[str] | None
KernelSizes = Iterable[int | Sequence[int]] | None
Runs = Sequence[Sequence[str]] | None
"""Chains as a user names them, see ``psc.convert``."""
Unsupported = Literal["refuse", "skip"]

_KNOWN = (nn.Conv3d, type(conv3d(1, 1, 1, device="meta")))
"""Classes that compute what a Conv3d does: PyTorch's, and ours, which is faster on a CPU."""


def check_model(model: nn.Module) -> None:
    """Refuse networks that are wrapped in what must come after a conversion."""
    for module in model.modules():
        kind = type(module).__name__
        if kind in ("DistributedDataParallel", "FullyShardedDataParallel", "OptimizedModule"):
            raise ConfigError(
                f"the network is wrapped in {kind}, which knows the old parameters; convert the "
                "network itself, then wrap the result"
            )
        if kind.endswith(("ScriptModule", "TracedModule")):
            raise ConfigError("the network is TorchScript; convert it before torch.jit, not after")


class Plan:
    """The layers to convert, and those that are kept or refused, each with its reason.

    ``layers`` are all 3D convolutions by name, quantised ones included, not transposed ones. Of one
    that the network holds in several places (nnU-Net does) the first name counts, ``include`` and
    ``exclude`` may say any; it is replaced in all. The arguments are those of ``psc.convert``.
    """

    def __init__(
        self, model: nn.Module, include: Names, exclude: Names, kernel_sizes: KernelSizes
    ) -> None:
        self._model = model
        self.layers = {
            name: part
            for name, part in model.named_modules()
            if isinstance(part, nn.Conv3d) or _is_quantised(part)
        }
        if not self.layers:
            raise ConfigError(f"{type(model).__name__} has no Conv3d to convert")
        places: dict[int, list[str]] = {id(part): [] for part in self.layers.values()}
        for name, part in model.named_modules(remove_duplicate=False):
            if id(part) in places:
                places[id(part)].append(name)
        known = [name for names in places.values() for name in names]
        included = _patterns("include", include, known)
        excluded = _patterns("exclude", exclude, known)
        sizes = None if kernel_sizes is None else {_triple(size) for size in kernel_sizes}
        self.refused: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        for name, part in self.layers.items():
            size, names = part.kernel_size, places[id(part)]
            reasons = {
                "not in include": included is not None and not _fit(names, included),
                "in exclude": excluded is not None and _fit(names, excluded),
                "not in kernel_sizes": sizes is not None and size not in sizes,
                "pointwise": max(size) == 1,
                "2D or 1D already": min(size) == 1,
                "of size zero": _is_empty(part),
            }
            if reason := next((text for text, true in reasons.items() if true), None):
                self.kept[name] = reason

    @property
    def chosen(self) -> dict[str, nn.Conv3d]:
        """The layers to convert."""
        left = self.layers.keys() - self.kept.keys() - self.refused.keys()
        return {n: part for n, part in self.layers.items() if n in left}

    def refuse_unsupported(self, m: int, merge: Merge, *, needs_values: bool) -> None:
        """Refuse what cannot be converted; ``needs_values``: weights are read."""
        users: dict[int, list[str]] = {}
        for name, module in self._model.named_modules():
            for parameter in module._parameters.values():
                users.setdefault(id(parameter), []).append(name)
        for name in self.layers.keys() - self.kept.keys():
            layer = self.layers[name]
            reason = _why_not(layer, m, merge, needs_values)
            own = [p for p in layer._parameters.values() if p is not None]
            shared = {user for p in own for user in users[id(p)]}
            if reason is None and len(shared) > 1:
                reason = f"its parameters are shared by {', '.join(sorted(shared))}"
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
        """Go on without the refused layers, or not at all, and name them."""
        if not self.refused or unsupported == "skip":
            return
        refused = [name for name in self.layers if name in self.refused]
        count = "1 layer" if len(refused) == 1 else f"{len(refused)} layers"
        lines = [f"  {name or '(the network)'}: {self.refused[name]}" for name in refused]
        raise ConfigError(
            "\n".join([f"{count} cannot be converted:", *lines])
            + "\nLeave them as they are with unsupported='skip', or choose others by include, "
            "exclude or kernel_sizes"
        )


def _patterns(key: str, names: Names, known: Collection[str]) -> list[str] | None:
    if names is None:
        return None
    patterns = [names] if isinstance(names, str) else list(names)
    for pattern in patterns:
        if not _fit(known, [pattern]):
            shown = ", ".join(list(known)[:8]) + (", …" if len(known) > 8 else "")
            raise ConfigError(f"{key}: {pattern!r} fits no 3D convolution; there are {shown}")
    return patterns


def _fit(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether a pattern fits one of the names, or a module around it."""
    around = [part for name in names for part in accumulate(name.split("."), "{}.{}".format)]
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in around)


def _triple(size: int | Sequence[int]) -> Triple:
    sizes = (size,) * AXES if isinstance(size, int) else tuple(size)
    if len(sizes) != AXES or not all(isinstance(s, int) and s > 0 for s in sizes):
        raise ConfigError(f"kernel_sizes: {size!r} is neither a number nor (kD, kH, kW)")
    d, h, w = sizes
    return d, h, w


def _is_quantised(module: nn.Module) -> bool:
    """Whether this is one of PyTorch's quantised 3D convolutions, fused or not."""
    kind = type(module)
    return "quantized" in kind.__module__ and "Conv" in kind.__name__ and "3d" in kind.__name__


def _is_empty(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv3d) and not is_lazy(module.weight) and not module.weight.numel()
    )


def _why_not(module: nn.Module, m: int, merge: Merge, needs_values: bool) -> str | None:
    """The reason, with its remedy, why a layer cannot be converted; None if it can."""
    if _is_quantised(module):
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
        if own or getattr(kind, method) not in {getattr(known, method) for known in _KNOWN}:
            where = "this module" if own else kind.__name__
            return f"{where} overrides {method} of Conv3d, what it computes is not known"
    if module._parameters.get("weight") is None:
        return (
            "its weight is computed from other parameters (pruning, weight or spectral norm); make "
            "it permanent first, such as by torch.nn.utils.prune.remove or remove_weight_norm"
        )
    surplus = (module._parameters.keys() - {"weight", "bias"}) | set(module._buffers)
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


# Chains -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """Consecutive convolutions of a network.

    ``names`` are also of what stands between them, in the order of the data; in parentheses what
    stays there and acts on a pair (``psc.conversion.watching``).
    """

    layers: tuple[str, ...]
    names: tuple[str, ...]
    links: tuple[Link, ...] = ()  # empty where their order was given and not observed

    @property
    def removed(self) -> tuple[str, ...]:
        """What the block, which stands at the first layer, makes superfluous."""
        return tuple(name for name in self.names[1:] if not name.startswith("("))

    @property
    def pairs(self) -> tuple[bool, ...]:
        """After each layer but the last: whether the block's result goes on as a pair (y, −y)."""
        if self.links:
            return tuple(link.scale is not None for link in self.links)
        places = [self.names.index(layer) for layer in self.layers]
        return tuple(
            any(name.startswith("(") for name in self.names[a:b]) for a, b in pairwise(places)
        )

    @classmethod
    def of(cls, layers: Sequence[str], links: Mapping[str, Link]) -> "Chain":
        """A chain as it was observed."""
        own = tuple(links[name] for name in layers[:-1])
        after = (name for link in own for name in (*link.between, link.following))
        return cls(tuple(layers), (layers[0], *after), own)


def found_chains(
    chosen: Mapping[str, nn.Conv3d], links: Mapping[str, Link], ends: Mapping[str, str], n: int
) -> list[Chain]:
    """Cut what follows each other into chains of n, from the first convolution on.

    ``ends`` says of the other convolutions why nothing follows them.
    """
    unfit = {name: reason for name in chosen if (reason := _why_apart(chosen[name])) is not None}
    joined = {
        name: link for name, link in links.items() if not {name, link.following} & unfit.keys()
    }
    starts = joined.keys() - {link.following for link in joined.values()}
    chains = []
    for start in (name for name in chosen if name in starts):
        layers = [start]
        while (link := joined.get(layers[-1])) is not None:
            layers.append(link.following)
        starting = range(0, len(layers) - n + 1, n)
        chains += [Chain.of(layers[i : i + n], joined) for i in starting]
    if not chains:
        reasons = {**ends, **{name: f"it has {reason}" for name, reason in unfit.items()}}
        lines = [f"  {name}: {reasons[name]}" for name in chosen if name in reasons]
        title = f"n={n}: no {n} of the {len(chosen)} convolutions to convert follow each other"
        raise ConfigError("\n".join([title, *lines, "use n=1, which converts each by itself"]))
    return chains


def given_chains(
    model: nn.Module,
    chosen: Mapping[str, nn.Conv3d],
    runs: Sequence[Sequence[str]],
    n: int,
    links: Mapping[str, Link] | None,
    ends: Mapping[str, str],
) -> list[Chain]:
    """Chains that the user names, or that a conversion reported; the first impossible is named.

    ``links`` and ``ends`` are what was observed, to compare with; None if nothing was.
    """
    parts = dict(model.named_modules(remove_duplicate=False))
    first = {id(part): name for name, part in model.named_modules()}
    taken: set[str] = set()
    result = []
    for given in runs:
        shown = " → ".join(given)
        # By their first names. What stays may be no module at all.
        names = [
            first[id(parts[name])] if name in parts else name for name in map(str.strip, given)
        ]
        moving = [name for name in names if not name.startswith("(")]
        for name in moving:
            if name not in parts:
                raise ConfigError(f"runs: {shown}: the network has no module {name!r}")
        layers = [name for name in moving if name in chosen]
        for name in moving if links is None else layers:
            if name in taken:
                raise ConfigError(f"runs: {shown}: {name} stands in two places")
            taken.add(name)
        if len(layers) != n or names[0] != layers[0] or names[-1] != layers[-1]:
            raise ConfigError(
                f"runs: {shown}: must begin and end with a convolution and hold n={n} that are to "
                f"be converted; it holds {len(layers)}"
            )
        for name in moving:
            reason = _why_apart(chosen[name]) if name in chosen else None
            if name not in chosen and not may_go(parts[name]) and links is None:
                reason = f"a {type(parts[name]).__name__} must not stand between convolutions"
            if reason:
                raise ConfigError(f"runs: {shown}: {name}: {reason}")
        for before, after in pairwise(layers):
            if chosen[after].in_channels != chosen[before].out_channels:
                raise ConfigError(
                    f"runs: {shown}: {after} reads {chosen[after].in_channels} channels, {before} "
                    f"writes {chosen[before].out_channels}"
                )
        if links is None:
            result.append(Chain(tuple(layers), tuple(names)))
        else:
            result.append(_observed(shown, names, layers, links, ends))
    return result


def _observed(
    shown: str,
    names: Sequence[str],
    layers: Sequence[str],
    links: Mapping[str, Link],
    ends: Mapping[str, str],
) -> Chain:
    """A given chain as it was observed, with all that stands between, if it was."""
    for before, after in pairwise(layers):
        link = links.get(before)
        if link is None or link.following != after:
            found = f"to {link.following}" if link is not None else f"not on: {ends.get(before)}"
            raise ConfigError(f"runs: {shown}: on example_input the data go from {before} {found}")
    chain = Chain.of(layers, links)
    # What stays may be named with or without parentheses.
    if extra := {name.strip("()") for name in names} - {name.strip("()") for name in chain.names}:
        raise ConfigError(f"runs: {shown}: on example_input the data do not go through {extra}")
    return chain


def _why_apart(layer: nn.Conv3d) -> str | None:
    """Why a convolution cannot be joined with others; None if it can."""
    if layer.groups != 1:
        return f"groups={layer.groups}"
    if any(step != 1 for step in layer.dilation):
        return f"dilation={tuple(layer.dilation)}"
    if layer.padding_mode != "zeros":
        return f"padding_mode={layer.padding_mode!r}"
    if layer.padding == "same" and any(size % 2 == 0 for size in layer.kernel_size):
        return "padding='same' of an even kernel pads more on one side"
    return None
