"""Which convolutions of a network follow each other with nothing but norms and activations between.

Found by watching one forward pass, so whatever the network's code does is seen: a result that is
used a second time (a skip connection), or by a function of the network's own code, ends the trail.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation, batchnorm, dropout, instancenorm, normalization
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from psc.errors import ConfigError

_REMOVABLE = (activation, batchnorm, dropout, instancenorm, normalization)
"""Modules of PyTorch whose classes may stand between convolutions that one block replaces."""

_CHANNELS = -4  # of (N, C, D, H, W), and of (C, D, H, W)


@dataclass(frozen=True)
class Link:
    """A convolution whose result goes to one other convolution and nowhere else.

    Attributes:
        following: name of the other one.
        between: names of the modules in between, in their order.
        slope: (C,) and
        offset: (C,): the affine map per channel that is nearest to what the modules in between did,
            over all voxels of the example: after ≈ slope · before + offset.
    """

    following: str
    between: tuple[str, ...]
    slope: Tensor
    offset: Tensor


@dataclass
class _Point:
    """A tensor on the way from a convolution."""

    convolution: str
    passed: tuple[str, ...]
    tensor: Tensor
    """Held, so that no other tensor gets its identity."""
    before: Tensor
    """The convolution's result; the tensor itself may have been changed in place."""
    uses: int = 0
    link: Link | None = None
    onward: list["_Point"] = field(default_factory=list)


def may_stand_between(module: nn.Module) -> bool:
    """Whether a module is a norm, an activation or a dropout of PyTorch itself."""
    kinds = {kind.__name__ for kind in _REMOVABLE}
    return type(module).__module__ in kinds or type(module) is nn.Identity


class Follower(TorchFunctionMode):
    """Follows the results of convolutions through a forward pass (in evaluation mode).

    Args:
        model: any module.
        names: of the convolutions.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        names_of: Counter[int] = Counter()
        for _, module in model.named_modules(remove_duplicate=False):
            names_of[id(module)] += 1
        self._shared = {name for name, part in model.named_modules() if names_of[id(part)] > 1}
        self._names = {id(model.get_submodule(name)): name for name in names}
        self._leaves = {
            name: module for name, module in model.named_modules() if names and not module._modules
        }
        self._points: dict[tuple[int, int], _Point] = {}
        self._starts: list[_Point] = []
        self._calls: Counter[str] = Counter()
        self._depth = 0  # of leaf modules that are running: what they do within is theirs

    def watch(self, stack: ExitStack) -> None:
        """Hook the network's modules until the stack closes."""
        for name, module in self._leaves.items():
            for handle in self._hooks(name, module):
                stack.callback(handle.remove)

    def links(self, result: object) -> dict[str, Link]:
        """What was found, by name of the first convolution of each pair.

        A module that was called twice, or has two names, belongs to no link.

        Args:
            result: of the forward pass: tensors that it holds are used by the caller.
        """
        self._use(result)
        found = {}
        for start in self._starts:
            link = _only_link(start)
            if link is None:
                continue
            names = (start.convolution, *link.between, link.following)
            if all(self._calls[name] == 1 and name not in self._shared for name in names):
                found[start.convolution] = link
        return found

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        watched = not self._depth and getattr(func, "__name__", "") != "__get__"
        # Before the call, which may change them in place.
        points = self._on_their_way((args, kwargs)) if watched else []
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # else: a size, say
            for point in points:
                point.uses += 1
        return result

    def _hooks(self, name: str, module: nn.Module) -> Sequence[Any]:
        entered: list[_Point | None] = []

        def enter(module: nn.Module, args: object, kwargs: object) -> None:
            self._depth += 1  # first: the hook's own functions are no uses
            points = self._use((args, kwargs))
            point = points[0] if len(points) == 1 else None
            convolution = self._names.get(id(module))
            if point is not None and convolution is not None:
                point.link = _link(point, convolution)
            self._calls[name] += 1
            entered.append(point if may_stand_between(module) else None)

        def leave(module: nn.Module, args: object, kwargs: object, result: object) -> None:
            point = entered.pop()
            if isinstance(result, Tensor):
                note(module, point, result)
            self._depth -= 1

        def note(module: nn.Module, point: _Point | None, result: Tensor) -> None:
            convolution = self._names.get(id(module))
            if convolution is not None:
                start = _Point(convolution, (), result, result.clone())
                self._starts.append(start)
                self._points[id(result), result._version] = start
            elif point is not None and result.shape == point.before.shape:
                passed = _Point(point.convolution, (*point.passed, name), result, point.before)
                point.onward.append(passed)
                self._points[id(result), result._version] = passed

        return (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, with_kwargs=True),
        )

    def _use(self, tree: object) -> list[_Point]:
        points = self._on_their_way(tree)
        for point in points:
            point.uses += 1
        return points

    def _on_their_way(self, tree: object) -> list[_Point]:
        tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
        found = (self._points.get((id(t), t._version)) for t in tensors)
        return [point for point in found if point is not None]


def _only_link(point: _Point) -> Link | None:
    """The link at the end of a trail on which nothing is used twice."""
    while point.uses == 1 and point.link is None and len(point.onward) == 1:
        (point,) = point.onward
    return point.link if point.uses == 1 else None


def _link(point: _Point, following: str) -> Link:
    return Link(following, point.passed, *affine_map(point.before, point.tensor.detach()))


def affine_map(
    before: Tensor, after: Tensor, *, through_zero: bool = False
) -> tuple[Tensor, Tensor]:
    """The map per channel that brings one result nearest to another, by least squares.

    Args:
        before: (N, C, D, H, W) or (C, D, H, W).
        after: of the same shape.
        through_zero: without an offset.

    Returns:
        Slope and offset (C,), in float32 or float64: after ≈ slope · before + offset.
    """
    precise = torch.promote_types(before.dtype, torch.float32)
    x, y = (t.to(precise).movedim(_CHANNELS, 0).flatten(1) for t in (before, after))
    mean_x, mean_y = x.mean(1), y.mean(1)
    if through_zero:
        mean_x, mean_y = torch.zeros_like(mean_x), torch.zeros_like(mean_y)
    x = x - mean_x[:, None]
    energy = x.square().sum(1)
    products = (x * (y - mean_y[:, None])).sum(1)
    slope = torch.where(energy > 0, products / energy.clamp(min=1e-30), 0.0)
    return slope, mean_y - slope * mean_x


# ----------------------------------------
# Runs of n consecutive convolutions that one P_mSC_n replaces, and what may stand in them.


Runs = Sequence[Sequence[str]] | None


@dataclass(frozen=True)
class Run:
    """n consecutive convolutions of a network.

    Attributes:
        layers: their names, first to last.
        between: the modules that stand between them and go with them.
        links: how they follow each other; empty where that was given and not observed.
        chain: all of these names, in the order of the data.
    """

    layers: tuple[str, ...]
    between: tuple[str, ...]
    links: tuple[Link, ...]
    chain: tuple[str, ...]


def found_runs(
    chosen: Mapping[str, nn.Conv3d], links: Mapping[str, Link], n: int
) -> tuple[Run, ...]:
    """Cut chains of convolutions into runs of n, from the first on.

    Args:
        chosen: the layers to convert.
        links: from layers to the ones that follow them.
        n: at least 2.
    """
    joined = {
        name: link
        for name, link in links.items()
        if {name, link.following} <= chosen.keys()
        and not _why_not(chosen[name])
        and not _why_not(chosen[link.following])
    }
    starts = joined.keys() - {link.following for link in joined.values()}
    runs = []
    for start in (name for name in chosen if name in starts):
        chain = [start]
        while (link := joined.get(chain[-1])) is not None:
            chain.append(link.following)
        for i in range(0, len(chain) - n + 1, n):
            layers = chain[i : i + n]
            runs.append(_run(layers, [joined[name] for name in layers[:-1]]))
    return tuple(runs)


def given_runs(
    model: nn.Module,
    chosen: Mapping[str, nn.Conv3d],
    runs: Sequence[Sequence[str]],
    n: int,
    links: Mapping[str, Link] | None,
) -> tuple[Run, ...]:
    """Runs that the user names, each by the names of its modules in the order of the data.

    Args:
        model: the network.
        chosen: the layers to convert.
        runs: such as [["conv1", "norm1", "activation1", "conv2"]].
        n: number of convolutions in each.
        links: what was observed, to compare with; None if nothing was.

    Raises:
        ConfigError: naming the first run that cannot be.
    """
    parts = dict(model.named_modules())
    taken: set[str] = set()
    result = []
    for names in runs:
        shown = " → ".join(names)
        for name in names:
            if name not in parts:
                raise ConfigError(f"runs: {shown}: the network has no module {name!r}")
            if name in taken:
                raise ConfigError(f"runs: {shown}: {name} stands in two places")
            taken.add(name)
        layers = [name for name in names if name in chosen]
        if len(layers) != n or names[0] != layers[0] or names[-1] != layers[-1]:
            raise ConfigError(
                f"runs: {shown}: must begin and end with a convolution and hold n={n} that are to "
                f"be converted; it holds {len(layers)}"
            )
        for name in names:
            reason = _why_not(chosen[name]) if name in chosen else None
            if name not in chosen and not may_stand_between(parts[name]):
                reason = f"a {type(parts[name]).__name__} must not stand between convolutions"
            if reason:
                raise ConfigError(f"runs: {shown}: {name}: {reason}")
        for before, after in pairwise(layers):
            if chosen[after].in_channels != chosen[before].out_channels:
                raise ConfigError(
                    f"runs: {shown}: {after} reads {chosen[after].in_channels} channels, {before} "
                    f"writes {chosen[before].out_channels}"
                )
        observed = () if links is None else tuple(links.get(name) for name in layers[:-1])
        if any(link is None for link in observed) or (
            links is not None and _run(layers, observed).chain != tuple(names)  # type: ignore[arg-type]
        ):
            raise ConfigError(
                f"runs: {shown}: on example_input the data do not go this way, or not only"
            )
        between = tuple(name for name in names if name not in chosen)
        result.append(Run(tuple(layers), between, observed, tuple(names)))  # type: ignore[arg-type]
    return tuple(result)


def _run(layers: Sequence[str], links: Sequence[Link]) -> Run:
    chain = [layers[0]]
    for link in links:
        chain += [*link.between, link.following]
    between = tuple(name for link in links for name in link.between)
    return Run(tuple(layers), between, tuple(links), tuple(chain))


def _why_not(layer: nn.Conv3d) -> str | None:
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
