"""``psc.convert``: the 3D convolutions of any trained network as P_mSC_n, where they stand."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Generic, TypeVar, get_args

from torch import nn

from psc.accounting.forward import ExampleInput, detached
from psc.block.block import PUBLISHED_MAXIMUM_WIDTH, Merge, check_streams
from psc.conversion.factors import Initialisation, merged, separable
from psc.conversion.layers import Absorbed, Place, SeparableConv3d, Width, stream_widths
from psc.conversion.plan import (
    Chain,
    KernelSizes,
    Names,
    Plan,
    Runs,
    Unsupported,
    check_model,
    found_chains,
    given_chains,
)
from psc.conversion.report import ConversionReport, parameter_count, report_rows
from psc.conversion.watching import Observation, observe
from psc.errors import ConfigError, extra_needed, first_line

Model = TypeVar("Model", bound=nn.Module)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Conversion(Generic[Model]):
    """A converted network and what was done to it."""

    model: Model
    report: ConversionReport


def convert(
    model: Model,
    m: int = 1,
    n: int = 1,
    *,
    init: Initialisation = "svd",
    width: Width = "eq5",
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH,
    include: Names = None,
    exclude: Names = None,
    kernel_sizes: KernelSizes = None,
    merge: Merge = "concatenate",
    sweeps: int = 20,
    activation: Callable[[], nn.Module] | None = None,
    unsupported: Unsupported = "refuse",
    runs: Runs = None,
    example_input: ExampleInput | None = None,
    inplace: bool = False,
    progress: bool = False,
) -> Conversion[Model]:
    """Replace the 3D convolutions of a network by separable ones that start where they stopped.

    Every ``nn.Conv3d`` becomes a ``SeparableConv3d`` of the same name, with its stride, padding,
    dilation, groups, bias, dtype, device, mode, ``requires_grad``, attributes and hooks. Cubic or
    not, all kernels are converted but those that are separable already, with an extent of 1.
    Transposed convolutions stay. Optimisers and whatever else holds the old parameters must be
    made anew; so must the report's ``plan`` and the weights be kept to build the network again.

    With m > 1 and concatenation, output channels go to the stream that suits them and come back in
    their own order at the end of the layer, so that no other layer changes.

    With n > 1, every n convolutions that follow each other, with only norms, activations and
    dropouts between, become one block under the first one's name; the others, and what stands
    between, hand on what they get. An activation that is a function (``F.relu``), or a module that
    is used elsewhere too, stays, and the block's result passes it unharmed where it is ReLU or
    like it (``psc.conversion.watching``). Convolutions that are left over become P_mSC_1.
    The block starts from the composition of the n kernels, with an affine map per channel, fitted
    on the example input, in place of each non-linearity that goes: unlike with n = 1 that is
    another network than yours, to be trained on (``match_features``, fine-tuning).

    Args:
        model: any module.
        m: number of streams, 1 to 3.
        n: 2D convolutions per stream.
        init: "svd": the nearest kernels (``psc.decomposition``); "random": new weights, to compare.
        width: M per stream (and group). "eq5": as ``PSCBlock``; a number; a function of a layer's
            name and the layer; a mapping from names to M of every stream; None, for n = 1: as many
            as make the layer exact.
        maximum_width: cap of what Eq. 5 gives; None for none.
        include: names or patterns (``*.conv2``) of layers, or of modules around them; None: all.
        exclude: the same, left as they are.
        kernel_sizes: (kD, kH, kW), or numbers for cubes, to convert; None: all.
        merge: "concatenate" as in the paper's block, or "sum" (Eq. 3).
        sweeps: rounds of alternating least squares for ``merge="sum"`` and for n > 1; see
            ``factorise_sum`` and ``factorise_chain``.
        activation: builds a non-linearity after every 2D convolution, as in the paper. Without
            one (default) the network is as near to yours as the kernels are.
        unsupported: "refuse" names all layers that cannot be converted; "skip" leaves them.
        runs: for n > 1, what to replace, each as names of modules in the order of the data:
            [["conv1", "norm1", "relu1", "conv2"]]; of what the example input shows the convolutions
            are enough. None: all that it shows.
        example_input: a tensor, a tuple of arguments or a mapping of keyword arguments. The
            network then runs once before and once after (evaluation mode, no gradients), to count
            MACs, to find weights that are used other than by calling their layer, which nothing
            else can find, and to find runs, for which it should be data as in training. With n > 1
            only a random start for given runs does without.
        inplace: change the network itself; it is left as it was if anything fails.
        progress: show a bar (needs tqdm): large layers take long.

    Returns:
        The network, a copy unless ``inplace``, and the report.

    Raises:
        ConfigError: for impossible arguments, a network without Conv3d, or layers that cannot be
            converted: all of them with the reason, before any work is done.
    """
    _check_arguments(m, n, init, merge, unsupported, sweeps, activation)
    if n == 1 and runs:
        raise ConfigError("runs are for n > 1; with n=1 every convolution is converted by itself")
    if n > 1 and example_input is None and (runs is None or init == "svd"):
        raise ConfigError(
            f"n={n} needs example_input, data as in training: it shows which convolutions follow "
            "each other, and what stands between them does (init='random' with runs does without)"
        )
    check_model(model)
    plan = Plan(model, include, exclude, kernel_sizes)
    plan.refuse_unsupported(m, merge, needs_values=init == "svd")
    before = None
    if example_input is not None:
        before = _observed(model, list(plan.chosen), example_input, follow=n > 1)
        plan.refuse_unwatched(before)
    plan.settle(unsupported)
    chains = _chains(model, plan, n, runs, before)
    blocks: dict[str, SeparableConv3d] = {}
    build = partial(separable, init=init, merge=merge, sweeps=sweeps, activation=activation)
    for chain in with_bar(chains, "converting", progress):
        layers = [plan.chosen[name] for name in chain.layers]
        first = chain.layers[0]
        try:
            widths = stream_widths(
                first, layers, m, merge, width, maximum=maximum_width, linear=activation is None
            )
            blocks[first] = build(layers, chain.links, widths)
        except ConfigError as error:  # an impossible width, values that are not finite
            shown = "" if n == 1 else f"{' → '.join(chain.layers)}: "
            plan.refused.update(dict.fromkeys(chain.layers, f"{shown}{error}"))
    parameters, after = parameter_count(model), None
    while True:
        chains = _settled(chains, plan, unsupported)
        places = _places(model, chains, blocks)
        originals = {name: model.get_submodule(name) for name in places}
        converted = replaced(model, places, inplace=inplace)
        if before is None or example_input is None:
            break
        # What the network does to its layers else, some only tell when they are gone.
        fine = False
        try:
            after, lost = _observe_again(converted, before, chains, example_input)
            fine = not lost
        finally:
            if inplace and not fine:
                _put_all(model, originals)
        if fine:
            break
        singly = {} if after else _culprits(model, chains, blocks, before, example_input)
        plan.refused.update(singly or lost)
    rows = report_rows(plan, chains, blocks, before, after)
    joined = tuple(chain.names for chain in chains if len(chain.layers) > 1)
    report = ConversionReport(
        *(m, n, merge, init, rows, (parameters, parameter_count(converted))),
        multiply_adds=(before.total, after.total) if before and after else None,
        elsewhere=(before.elsewhere, after.elsewhere) if before and after else (0, 0),
        uncounted=before.uncounted if before else (),
        runs=joined,
    )
    return Conversion(converted, report)


def _check_arguments(
    m: int, n: int, init: str, merge: str, unsupported: str, sweeps: int, activation: object
) -> None:
    check_streams(m, n)
    for key, value, known in (
        ("init", init, get_args(Initialisation)),
        ("merge", merge, get_args(Merge)),
        ("unsupported", unsupported, get_args(Unsupported)),
    ):
        if value not in known:
            raise ConfigError(f"{key} must be one of {', '.join(known)}; got {value!r}")
    if sweeps < 0:
        raise ConfigError(f"sweeps must not be negative, got {sweeps}")
    if activation is not None and (isinstance(activation, nn.Module) or not callable(activation)):
        raise ConfigError(
            "activation must be what builds a module, such as torch.nn.ReLU without parentheses; "
            f"got {activation!r}"
        )


def _chains(
    model: nn.Module, plan: Plan, n: int, runs: Runs, before: Observation | None
) -> list[Chain]:
    """The chains of n layers, given or found, and every other layer as one by itself."""
    chosen, chains = plan.chosen, []
    if runs is not None:
        links = None if before is None else before.links
        chains = given_chains(model, chosen, runs, n, links, {} if before is None else before.ends)
    elif n > 1 and before is not None:
        chains = found_chains(chosen, before.links, before.ends, n)
    taken = {name for chain in chains for name in chain.layers}
    return chains + [Chain((name,), (name,)) for name in chosen if name not in taken]


def with_bar(items: Iterable[Item], title: str, progress: bool) -> Iterable[Item]:
    """The items, with a bar if one is asked for."""
    if not progress:
        return items
    with extra_needed():  # here: only where a bar is asked for
        from tqdm import tqdm
    return tqdm(items, title, leave=False)


def _settled(chains: list[Chain], plan: Plan, unsupported: Unsupported) -> list[Chain]:
    """The chains that are left, if layers may be refused at all."""
    left = []
    for chain in chains:
        lost = [name for name in chain.layers if name in plan.refused]
        if lost:
            for name in chain.layers:
                plan.refused.setdefault(name, f"goes with {', '.join(lost)}")
        else:
            left.append(chain)
    plan.settle(unsupported)
    return left


def _places(
    model: nn.Module, chains: list[Chain], blocks: Mapping[str, SeparableConv3d]
) -> dict[str, Place]:
    """What to put where: a block at the first layer of every chain, nothing much at the others."""
    places: dict[str, Place] = {}
    for chain in chains:
        first, *others = chain.layers
        block = places[first] = blocks[first]
        block.stand_for(model.get_submodule(first))
        places.update({name: Absorbed(model.get_submodule(name)) for name in chain.removed})
        pairs = [*chain.pairs, False]
        block.paired = pairs[0]
        for i, name in enumerate(others):
            place = Absorbed(model.get_submodule(name), undone=pairs[i], paired=pairs[i + 1])
            if pairs[i] and chain.links:
                place.scale.fill_(chain.links[i].scale)
            places[name] = place
    return places


def _observed(
    model: nn.Module, names: list[str], example: ExampleInput, *, follow: bool
) -> Observation:
    try:
        return observe(model, names, example, follow=follow)
    except Exception as error:  # whatever the code of others raises
        raise ConfigError(
            f"{type(model).__name__} itself does not run on example_input: {_said(error)}"
        ) from error


def _observe_again(
    converted: nn.Module, before: Observation, chains: list[Chain], example: ExampleInput
) -> tuple[Observation | None, dict[str, str]]:
    """Run the converted network; what it did, and the layers that may be why it does otherwise."""
    names = [name for chain in chains for name in chain.layers]
    try:
        after = observe(converted, names, example)
    except Exception as error:  # whatever the code of others raises
        return None, dict.fromkeys(names, f"the network does not run without it: {_said(error)}")
    reason = "called otherwise after the conversion; the network holds it in a second place"
    changed = [name for name in names if after.calls.get(name, 0) != before.calls.get(name, 0)]
    return after, dict.fromkeys(changed, reason)


def _culprits(
    model: nn.Module,
    chains: list[Chain],
    blocks: Mapping[str, SeparableConv3d],
    before: Observation,
    example: ExampleInput,
) -> dict[str, str]:
    """The layers without which the network does not run, found by converting each chain alone."""
    found: dict[str, str] = {}
    for chain in chains:
        places = _places(model, [chain], blocks)
        originals = {name: model.get_submodule(name) for name in places}
        try:
            after, lost = _observe_again(
                replaced(model, places, inplace=True), before, [chain], example
            )
        finally:
            _put_all(model, originals)
        if after is None:
            found.update(lost)
    return found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


_HOOKS = tuple(key for key in vars(nn.Module()) if "ward" in key and "hook" in key)
"""What a module holds of forward and backward hooks."""


def replaced(model: Model, places: Mapping[str, nn.Module], *, inplace: bool) -> Model:
    """A network with some modules replaced, by name; hooks move to the new ones.

    What is replaced is not even copied; wherever the network holds it, attributes and lists
    included, the copy holds the new module.
    """
    if inplace:
        if "" in places:
            raise ConfigError("a single layer cannot be replaced in place; use what is returned")
        _put_all(model, places)
        return model
    memo = detached(model)  # deepcopy takes what it finds here instead of copying
    for name, module in places.items():
        memo[id(model.get_submodule(name))] = module
    try:
        twin = copy.deepcopy(model, memo)
        for name, module in places.items():
            old = model.get_submodule(name)
            for hooks in _HOOKS:
                setattr(module, hooks, copy.deepcopy(getattr(old, hooks), memo))
    except Exception as error:  # whatever the code of others raises
        raise ConfigError(
            f"the network cannot be copied ({_said(error)}); use inplace=True"
        ) from error
    return twin


def _put_all(model: nn.Module, places: Mapping[str, nn.Module]) -> None:
    """Put modules in the place of others, wherever the network has these as children."""
    new = {id(model.get_submodule(name)): module for name, module in places.items()}
    for name, module in places.items():
        old = model.get_submodule(name)
        for hooks in _HOOKS:
            # The very dictionaries move, so that handles still remove their hooks.
            moved = getattr(old, hooks)
            setattr(module, hooks, moved)
            if isinstance(moved, dict):
                setattr(old, hooks, type(moved)())
    for parent in [*model.modules()]:
        for child, part in parent._modules.items():
            if id(part) in new:
                parent._modules[child] = new[id(part)]


@dataclass
class ConversionArguments:
    """What of ``psc.convert``'s arguments a network's shape depends on, as a file can hold it."""

    m: int = 1
    n: int = 1
    width: str = "eq5"  # or "exact", or a number in digits
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH
    include: list[str] | None = None
    exclude: list[str] | None = None
    merge: str = "concatenate"
    activation: bool = False  # whether a ReLU follows the 2D convolutions
    unsupported: str = "refuse"
    runs: list[list[str]] | None = None

    def apply(
        self,
        network: nn.Module,
        init: Initialisation,
        example_input: ExampleInput | None = None,
        *,
        progress: bool = False,
    ) -> Conversion[nn.Module]:
        """Convert a network in place, see ``psc.convert``."""
        named: dict[str, Width] = {"exact": None, "eq5": "eq5"}
        if self.width not in named and not self.width.isdecimal():
            raise ConfigError(f"width must be eq5, exact or a number, got {self.width!r}")
        width = named[self.width] if self.width in named else int(self.width)
        activation = nn.ReLU if self.activation else None
        given: dict[str, Any] = {**asdict(self), "width": width, "activation": activation}
        given |= {"init": init, "example_input": example_input, "progress": progress}
        return convert(network, **given, inplace=True)


def merge_linear(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Compose every separable layer of a converted network to the Conv3d that it equals.

    For proofs, and to deploy where one 3D convolution runs faster than its parts. After an exact
    conversion (``width=None``) the weights are the original ones.

    Args:
        model: a result of ``convert``, trained since or not.
        inplace: replace in the network itself; False returns a copy.

    Returns:
        The network with plain ``nn.Conv3d`` under the same names, dtype, device, mode, hooks and
        ``requires_grad`` kept.

    Raises:
        ConfigError: if there is no separable layer, or one has a non-linearity between its 2D and
            1D convolutions and is no convolution at all, or stands for several layers; all such
            layers are named.
    """
    layers = {n: part for n, part in model.named_modules() if isinstance(part, SeparableConv3d)}
    if not layers:
        raise ConfigError("merge_linear: the network has no layer that psc.convert made")
    if several := [name for name, layer in layers.items() if layer.n > 1]:
        raise ConfigError(
            f"merge_linear: {', '.join(several)}: a block that stands for several layers pads "
            "between its 2D convolutions, which no single Conv3d does; "
            "psc.conversion.composed_weight is its kernel away from the borders"
        )
    if bent := [name for name, layer in layers.items() if not layer.is_linear]:
        raise ConfigError(
            f"merge_linear: a non-linearity stands between the convolutions of {', '.join(bent)}; "
            "no single Conv3d equals them"
        )
    return replaced(model, {n: merged(part) for n, part in layers.items()}, inplace=inplace)
