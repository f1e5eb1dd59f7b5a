"""One forward pass, watched: what it calls, which convolutions follow each other, and its MACs.

Whatever the network's code does is seen, function or module: a result that is used a second time (a
skip connection), or by something that cannot go with the convolutions, ends the trail. What stands
between two convolutions of a chain either goes (a norm, an activation or a dropout of PyTorch that
is called once) or stays: an activation module that is called elsewhere too, or a function such as
``F.relu``. It may stay if f(z) − f(−z) = c z, as for ReLU, LeakyReLU, GELU, SiLU and Hardswish:
then z passes it unharmed as the pair (z, −z).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation, batchnorm, dropout, instancenorm, normalization
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from psc.accounting.account import recorded_layers
from psc.accounting.forward import ExampleInput, counting, run_on, tensors_in

CHANNELS = -4  # of (N, C, D, H, W), and of (C, D, H, W)

_REMOVABLE = (activation, batchnorm, dropout, instancenorm, normalization)
"""Modules of PyTorch whose classes may go with the convolutions that one block replaces."""


@dataclass(frozen=True)
class Link:
    """A convolution whose result goes to one other convolution, ``following``, and nowhere else.

    What stands ``between``, in parentheses what stays, is nearest to slope · z + offset, (C,) each,
    over all voxels of the example. What stays is undone by (f(z) − f(−z)) · scale; None: nothing.
    """

    following: str
    between: tuple[str, ...]
    scale: float | None
    slope: Tensor
    offset: Tensor


@dataclass(frozen=True)
class Observation:
    """What a forward pass in evaluation mode did with the convolutions that are watched."""

    calls: Mapping[str, int]
    used_elsewhere: frozenset[str]  # their parameters something else used too
    multiply_adds: Mapping[str, int]  # of every module that owns parameters
    elsewhere: int  # MACs outside of them, such as attention's
    uncounted: tuple[str, ...]  # operations that multiply
    links: Mapping[str, Link]
    ends: Mapping[str, str]  # why the others have no link

    @property
    def total(self) -> int:
        """MACs of the whole network."""
        return sum(self.multiply_adds.values()) + self.elsewhere

    def within(self, name: str) -> int:
        """MACs of a module with all that it contains."""
        own = (n for n in self.multiply_adds if not name or f"{n}.".startswith(f"{name}."))
        return sum(self.multiply_adds[n] for n in own)


def observe(
    model: nn.Module, watched: Sequence[str], example: ExampleInput, *, follow: bool = False
) -> Observation:
    """Run a network once, without gradients, its modes as before afterwards.

    ``follow``: find out which watched convolutions follow each other, for which results are kept.
    """
    watch = _Watch(model, watched, follow)
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(in_evaluation_mode(model))
        layers = stack.enter_context(recorded_layers(model))
        watch.hook(stack)
        with counting() as (counter, uncounted), watch:
            result = run_on(model, example)
        followed = watch.followed(result)
    work = {layer.name: layer.multiply_adds for layer in layers}
    elsewhere = max(0, int(counter.get_total_flops()) // 2 - sum(work.values()))
    return Observation(
        watch.calls,
        frozenset(watch.used_elsewhere),
        work,
        elsewhere,
        tuple(uncounted),
        {name: found for name, found in followed.items() if isinstance(found, Link)},
        {name: found for name, found in followed.items() if isinstance(found, str)},
    )


@contextmanager
def in_evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode of all modules for a while; afterwards each has its own again."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def may_go(module: nn.Module) -> bool:
    """Whether a module is a norm, an activation or a dropout of PyTorch itself."""
    kinds = {kind.__name__ for kind in _REMOVABLE}
    return type(module).__module__ in kinds or type(module) is nn.Identity


@dataclass(frozen=True)
class _Step:
    """Something that one tensor passed and left in its shape: a module, or an operation."""

    name: str
    apply: Callable[[Tensor], Tensor]
    module: nn.Module | None = None


@dataclass
class _Point:
    """A tensor on the way from a convolution; held, so that no other tensor gets its identity."""

    convolution: str
    steps: tuple[_Step, ...]
    tensor: Tensor
    before: Tensor
    """The convolution's result; the tensor itself may have been changed in place."""
    uses: list[str] = field(default_factory=list)
    following: str | None = None
    after: Tensor | None = None
    onward: list["_Point"] = field(default_factory=list)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the results and the parameters of convolutions through a forward pass."""

    def __init__(self, model: nn.Module, watched: Sequence[str], follow: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.used_elsewhere: set[str] = set()
        self._follow = follow
        parts = {name: model.get_submodule(name) for name in watched}
        self._hooked = parts
        if follow:
            leaves = {name: part for name, part in model.named_modules() if not part._modules}
            self._hooked = leaves | parts
        self._names = {id(part): name for name, part in parts.items()}
        self._owner = {id(p): name for name, part in parts.items() for p in part.parameters()}
        self._points: dict[int, _Point] = {}
        self._starts: list[_Point] = []
        self._running: list[str] = []  # leaf modules: what they do within is theirs

    def hook(self, stack: ExitStack) -> None:
        """Watch the network's modules until the stack closes."""
        for name, module in self._hooked.items():
            entered: list[tuple[_Point | None, int]] = []

            def enter(
                _: nn.Module, args: Any, keywords: Any, name: str = name, entered: Any = entered
            ) -> None:
                self._running.append(name)  # first: what the hook itself does is no use
                self.calls[name] += 1
                tensors = tensors_in((args, keywords))
                points = self._use(tensors, name)
                alone = len(points) == len(tensors) == 1
                entered.append((points[0], _version(tensors[0])) if alone else (None, 0))

            def leave(
                module: nn.Module, _: Any, result: Any, name: str = name, entered: Any = entered
            ) -> None:
                point, version = entered.pop()
                if self._follow and isinstance(result, Tensor):
                    self._left(name, module, point, version, result)
                self._running.pop()

            # First of all hooks and last of them, so that the module's own count as the module.
            before = module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(leave).remove)

    def _left(
        self, name: str, module: nn.Module, point: _Point | None, version: int, result: Tensor
    ) -> None:
        convolution = self._names.get(id(module))
        if convolution is not None:
            if point is not None:
                point.following, point.after = convolution, point.tensor
            start = _Point(convolution, (), result, result.clone())
            self._starts.append(start)
            self._points[id(result)] = start
        elif point is not None and result.shape == point.before.shape:
            same = result is point.tensor and _version(result) == version
            if same and not may_go(module):
                point.uses.pop()  # handed on as it is, as by an empty Sequential
            else:
                self._pass(point, _Step(name, module.forward, module), result)

    def _pass(self, point: _Point, step: _Step, result: Tensor) -> None:
        passed = _Point(point.convolution, (*point.steps, step), result, point.before)
        point.onward.append(passed)
        self._points[id(result)] = passed  # what is changed in place is another one from now on

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._opname
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name.startswith("new_") or name.endswith("_like"):  # these read a shape, no values
            tensors = []
        for owner in {self._owner.get(id(tensor)) for tensor in tensors} - {None, *self._running}:
            self.used_elsewhere.add(owner)  # type: ignore[arg-type]
        points = [] if self._running else self._use(tensors, name.rstrip("_"))
        result = func(*args, **kwargs)
        alone = len(points) == len(tensors) == 1 and isinstance(result, Tensor)
        if alone and result.shape == points[0].before.shape:

            def apply(tensor: Tensor) -> Tensor:
                ours, theirs = tree_map_only(Tensor, lambda _: tensor, (args, kwargs))
                changed: Tensor = func(*ours, **theirs)
                return changed

            self._pass(points[0], _Step(name.rstrip("_"), apply), result)
        return result

    def _use(self, tensors: Sequence[Tensor], by: str) -> list[_Point]:
        found = (self._points.get(id(tensor)) for tensor in tensors)
        points = [point for point in found if point is not None]
        for point in points:
            point.uses.append(by)
        return points

    def followed(self, result: object) -> dict[str, Link | str]:
        """By convolution: its link, or why it has none; ``result`` is the forward pass's."""
        self._use(tensors_in(result), "the caller, who gets it")
        return {start.convolution: self._link(start) for start in self._starts}

    def _link(self, start: _Point) -> Link | str:
        point = start
        while len(point.uses) == 1 and point.following is None and len(point.onward) == 1:
            (point,) = point.onward
        if len(point.uses) != 1:
            by = ", ".join(dict.fromkeys(point.uses))
            return f"its result is used {len(point.uses)} times: {by}" if by else "it is not used"
        if point.following is None or point.after is None:
            return f"it goes into {point.uses[0]}, which is no convolution to convert"
        for name in (start.convolution, point.following):
            if self.calls[name] != 1:
                return f"{name} is called {self.calls[name]} times"
        between, staying = [], []
        for step in point.steps:
            if step.module is not None and may_go(step.module) and self.calls[step.name] == 1:
                between.append(step.name)
                continue
            if step.module is not None and any(True for _ in step.module.parameters()):
                return f"{step.name} has parameters and is called {self.calls[step.name]} times"
            between.append(f"({step.name})")
            staying.append(step)
        # Of what they act on now, and of the block's result: some mix channels by their number
        following = self._hooked[point.following]
        assert isinstance(following, nn.Conv3d)
        counts = (point.before.shape[CHANNELS], following.out_channels)
        try:
            scale, of_block = (undoing([step.apply for step in staying], n) for n in counts)
            if (scale is None) != (of_block is None):
                raise ValueError
        except ValueError:
            names = ", ".join(step.name for step in staying)
            return f"{names} must go, as a module of PyTorch that is used here only, such as ReLU"
        maps = affine_map(point.before, point.after)
        return Link(point.following, tuple(between), scale, *maps)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


@torch.no_grad()
def undoing(functions: Sequence[Callable[[Tensor], Tensor]], channels: int) -> float | None:
    """The number for which (f(z) − f(−z)) · number = z, f all functions in turn; else ValueError.

    None if f(z) = z. Tried on values of either sign and size in a shape without symmetry.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, channels, 2, 3, 5, generator=generator, dtype=torch.float64)
    z = (z * torch.linspace(0.1, 9, z.numel(), dtype=z.dtype).view_as(z)).float()

    def through(x: Tensor) -> Tensor:
        x = x.clone()
        for function in functions:
            x = function(x)
        return x

    try:
        once, odd = through(z), through(z) - through(-z)
        if once.dtype == z.dtype and torch.equal(once, z):
            return None
        factor = float((odd * z).sum() / z.square().sum())
        if factor and torch.allclose(odd, factor * z, rtol=1e-4, atol=1e-5):
            return 1 / factor
    except Exception as error:  # whatever cannot take this shape
        raise ValueError from error
    raise ValueError


def affine_map(
    before: Tensor, after: Tensor, *, through_zero: bool = False
) -> tuple[Tensor, Tensor]:
    """Slope and offset (C,) that bring results nearest to others of that shape, by least squares.

    Channels of (N, C, D, H, W) or (C, D, H, W); in float32 or float64; ``through_zero``: no offset.
    """
    precise = torch.promote_types(before.dtype, torch.float32)
    x, y = (t.to(precise).movedim(CHANNELS, 0).flatten(1) for t in (before, after))
    mean_x, mean_y = x.mean(1), y.mean(1)
    if through_zero:
        mean_x, mean_y = torch.zeros_like(mean_x), torch.zeros_like(mean_y)
    x = x - mean_x[:, None]
    energy = x.square().sum(1)
    products = (x * (y - mean_y[:, None])).sum(1)
    # What does not vary says nothing of a slope; 0 would make the channel a constant for good
    varies = (x - x.mean(1, keepdim=True)).square().sum(1) > 1e-10 * x.square().sum(1)
    slope = torch.where(varies, products / energy.clamp(min=1e-30), 1.0)
    return slope, mean_y - slope * mean_x
