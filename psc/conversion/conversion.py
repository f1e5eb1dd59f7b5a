"""``psc.convert``: the 3D convolutions of any trained network as P_mSC_n, where they stand."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast, get_args

import torch
from torch import nn

from psc.block.block import PUBLISHED_MAXIMUM_WIDTH, check_streams
from psc.block.stream import Merge
from psc.conversion.factors import (
    Initialisation,
    composed_bias,
    composed_weight,
    separable_layer,
    separable_run,
)
from psc.conversion.following import Run, Runs, found_runs, given_runs
from psc.conversion.layers import (
    ParallelStreams,
    SeparableConv3d,
    SeparableRun3d,
    Width,
    layer_widths,
    run_width,
    uninitialised,
)
from psc.conversion.observation import (
    ExampleInput,
    KernelSizes,
    Names,
    Observation,
    Selection,
    observe,
)
from psc.conversion.plan import Plan, Unsupported, check_model, convolutions, refusal
from psc.conversion.report import ConversionReport, parameter_count, report_rows
from psc.errors import ConfigError

# ----------------------------------------
# The blocks that a planned conversion puts into a network.


@dataclass(frozen=True)
class BlockOptions:
    """What ``psc.convert`` is told of the blocks; see there."""

    m: int
    init: Initialisation
    width: Width
    maximum_width: int | None
    merge: Merge
    sweeps: int
    activation: Callable[[], nn.Module] | None

    def block_for(self, name: str, layer: nn.Conv3d) -> ParallelStreams:
        """P_mSC_1 in place of one layer.

        Raises:
            ConfigError: for an impossible width, or weights that are not finite.
        """
        widths = layer_widths(
            name,
            layer,
            self.m,
            self.merge,
            self.width,
            maximum=self.maximum_width,
            linear=self.activation is None,
        )
        return separable_layer(
            layer,
            widths,
            init=self.init,
            merge=self.merge,
            sweeps=self.sweeps,
            activation=self.activation,
        )

    def block_for_run(self, run: Run, layers: Mapping[str, nn.Conv3d]) -> ParallelStreams:
        """P_mSC_n in place of several layers.

        Raises:
            ConfigError: as ``block_for``, naming the layers.
        """
        parts = [layers[name] for name in run.layers]
        try:
            width = run_width(run.layers, parts, self.m, self.width, maximum=self.maximum_width)
            return separable_run(
                parts,
                run.links,
                (width,) * self.m,
                init=self.init,
                merge=self.merge,
                sweeps=self.sweeps,
                activation=self.activation,
            )
        except ConfigError as error:
            raise ConfigError(f"{' → '.join(run.layers)}: {error}") from error


def in_no_run(layers: Mapping[str, nn.Conv3d], runs: Sequence[Run]) -> dict[str, nn.Conv3d]:
    """The layers that get a block of their own."""
    taken = {name for run in runs for name in run.layers}
    return {name: layer for name, layer in layers.items() if name not in taken}


# ----------------------------------------
# Putting other modules in the place of a network's own.


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
) -> Conversion[Model]:
    """Replace the 3D convolutions of a network by separable ones that start where they stopped.

    Every ``nn.Conv3d`` becomes a ``SeparableConv3d`` of the same name, with its stride, padding,
    dilation, groups, bias, dtype, device, mode, ``requires_grad`` and hooks. Cubic or not, all
    kernels are converted but those that are separable already, with an extent of 1. Transposed
    convolutions stay. Optimisers and whatever else holds the old parameters must be made anew.

    With m > 1 and concatenation, output channels go to the stream that suits them and come back in
    their own order at the end of the layer, so that no other layer changes.

    With n > 1, every n convolutions that follow each other, with only norms, activations and
    dropouts between, become one ``SeparableRun3d`` under the first one's name; the others, and
    what stands between, become ``nn.Identity``. Convolutions that are left over become P_mSC_1.
    The block starts from the composition of the n kernels, with an affine map per channel, fitted
    on the example input, in place of each non-linearity that goes: unlike with n = 1 that is
    another network than yours, to be trained on (``match_features``, fine-tuning).

    Args:
        model: any module.
        m: number of streams, 1 to 3.
        n: 2D convolutions per stream.
        init: "svd": the nearest kernels (``psc.decomposition``); "random": new weights, to compare.
        width: M per stream (and group). "eq5": as ``PSCBlock``; a number; a function of a layer's
            name and the layer; None, for n = 1: as many as make the layer exact.
        maximum_width: cap of what Eq. 5 gives; None for none.
        include: names or patterns (``*.conv2``) of layers, or of modules around them; None: all.
        exclude: the same, left as they are.
        kernel_sizes: (kD, kH, kW), or numbers for cubes, to convert; None: all.
        merge: "concatenate" as in the paper's block, or "sum" (Eq. 3).
        sweeps: rounds of alternating least squares for ``merge="sum"`` and for n > 1; see
            ``factorise_sum`` and ``factorise_run``.
        activation: builds a non-linearity after every 2D convolution, as in the paper. Without
            one (default) the network is as near to yours as the kernels are.
        unsupported: "refuse" names all layers that cannot be converted; "skip" leaves them.
        runs: for n > 1, the runs to replace, each as names of modules in the order of the data:
            [["conv1", "norm1", "relu1", "conv2"]]. None: all that the example input shows.
        example_input: a tensor, a tuple of arguments or a mapping of keyword arguments. The
            network then runs once before and once after (evaluation mode, no gradients), to count
            MACs, to find weights that are used other than by calling their layer, which nothing
            else can find, and to find runs, for which it should be data as in training. With n > 1
            only a random start for given runs does without.
        inplace: change the network itself; it is left as it was if anything fails.

    Returns:
        The network, a copy unless ``inplace``, and the report.

    Raises:
        ConfigError: for impossible arguments, a network without Conv3d, or layers that cannot be
            converted: all of them with the reason, before any work is done.
    """
    _check_arguments(m, n, init, merge, unsupported, sweeps, activation)
    _check_runs(n, init, runs, example_input)
    check_model(model)
    known = [name for name, _ in convolutions(model)]
    if not known:
        raise ConfigError(f"{type(model).__name__} has no Conv3d to convert")
    plan = Plan(model, Selection(include, exclude, kernel_sizes, known))
    plan.refuse_unsupported(m, merge, needs_values=init == "svd")
    before = None
    if example_input is not None:
        before = observe(model, list(plan.chosen), example_input, follow=n > 1)
        plan.refuse_unwatched(before)
    plan.settle(unsupported)
    joined = _runs(model, plan, n, runs, before)
    options = BlockOptions(m, init, width, maximum_width, merge, sweeps, activation)
    layers = plan.chosen
    blocks = {run.layers[0]: options.block_for_run(run, layers) for run in joined}
    for name, layer in in_no_run(layers, joined).items():
        try:
            blocks[name] = options.block_for(name, layer)
        except ConfigError as error:  # values that are not finite
            plan.refused[name] = str(error)
    plan.settle(unsupported)
    replacements: dict[str, nn.Module] = {
        name: nn.Identity() for run in joined for name in run.chain[1:]
    }
    replacements.update(blocks)
    parameters = parameter_count(model)
    originals = {name: model.get_submodule(name) for name in replacements}
    converted = replaced(model, replacements, inplace=inplace)
    after = None
    if before is not None and example_input is not None:
        try:
            after = _observe_again(converted, before, list(plan.chosen), example_input)
        except BaseException:
            if inplace:
                put_back(model, originals)
            raise
    rows = report_rows(plan, joined, blocks, before, after)
    total = None if before is None or after is None else (before.within(""), after.within(""))
    counts = (parameters, parameter_count(converted))
    chains = tuple(run.chain for run in joined)
    report = ConversionReport(m, n, merge, init, rows, counts, total, chains)
    return Conversion(converted, report)


def _runs(
    model: nn.Module, plan: Plan, n: int, runs: Runs, before: Observation | None
) -> tuple[Run, ...]:
    """The runs of n layers, given or found."""
    if n == 1:
        return ()
    links = None if before is None else before.links
    if runs is not None:
        return given_runs(model, plan.chosen, runs, n, links)
    assert links is not None  # _check_runs
    found = found_runs(plan.chosen, links, n)
    if not found:
        raise ConfigError(
            f"n={n}: no {n} of the {len(plan.chosen)} convolutions to convert follow each other "
            "with only norms, activations and dropouts between, each used once; use n=1, or give "
            "runs"
        )
    return found


def _observe_again(
    converted: nn.Module, before: Observation, names: list[str], example: ExampleInput
) -> Observation:
    """Run the converted network and see that it calls what it called before.

    Raises:
        ConfigError: if it does not run, or calls other layers.
    """
    try:
        after = observe(converted, names, example)
    except Exception as error:
        raise ConfigError(
            "the converted network does not run on example_input: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; "
            "something else uses a layer's attributes, exclude that layer"
        ) from error
    lost = [name for name in names if after.calls.get(name, 0) != before.calls.get(name, 0)]
    if lost:
        reason = "called otherwise after the conversion; the network holds it in a second place"
        raise ConfigError(refusal(dict.fromkeys(lost, reason)))
    return after


def _check_arguments(
    m: int,
    n: int,
    init: str,
    merge: str,
    unsupported: str,
    sweeps: int,
    activation: object,
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


def _check_runs(n: int, init: str, runs: Runs, example_input: ExampleInput | None) -> None:
    if n == 1 and runs:
        raise ConfigError("runs are for n > 1; with n=1 every convolution is converted by itself")
    if n > 1 and example_input is None and (runs is None or init == "svd"):
        raise ConfigError(
            f"n={n} needs example_input, data as in training: it shows which convolutions follow "
            "each other, and what stands between them does (init='random' with runs does without)"
        )


# ----------------------------------------
# The arguments of ``convert`` that a network's shape depends on, as a file can hold them.


@dataclass
class ConversionArguments:
    """What of ``psc.convert``'s arguments a network's shape depends on; see there.

    Attributes:
        width: "eq5", "exact", or a number in digits.
        activation: whether a ReLU follows the 2D convolutions.
        runs: for n > 1, the modules of every run of n convolutions.
    """

    m: int = 1
    n: int = 1
    width: str = "eq5"
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH
    include: list[str] | None = None
    exclude: list[str] | None = None
    merge: str = "concatenate"
    activation: bool = False
    unsupported: str = "refuse"
    runs: list[list[str]] | None = None

    def apply(
        self, network: nn.Module, init: Initialisation, example_input: ExampleInput | None = None
    ) -> Conversion[nn.Module]:
        """Convert a network in place.

        Args:
            network: that is converted.
            init: "svd" or "random".
            example_input: see ``psc.convert``.

        Raises:
            ConfigError: as ``psc.convert``.
        """
        if self.width not in ("eq5", "exact") and not self.width.isdigit():
            raise ConfigError(f"width must be eq5, exact or a number, got {self.width!r}")
        numbers: dict[str, Literal["eq5"] | None] = {"eq5": "eq5", "exact": None}
        return convert(
            network,
            self.m,
            self.n,
            init=init,
            width=numbers[self.width] if self.width in numbers else int(self.width),
            maximum_width=self.maximum_width,
            include=self.include,
            exclude=self.exclude,
            merge=cast(Merge, self.merge),
            activation=nn.ReLU if self.activation else None,
            unsupported=cast(Literal["refuse", "skip"], self.unsupported),
            runs=self.runs,
            example_input=example_input,
            inplace=True,
        )


# ----------------------------------------
# The inverse of a conversion: streams without a non-linearity composed to one Conv3d again.


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
    runs = [n for n, part in model.named_modules() if isinstance(part, SeparableRun3d)]
    if runs:
        raise ConfigError(
            f"merge_linear: {', '.join(runs)}: a block that stands for several layers pads between "
            "its 2D convolutions, which no single Conv3d does; psc.conversion.composed_run_weight "
            "is its kernel away from the borders"
        )
    layers = {n: part for n, part in model.named_modules() if isinstance(part, SeparableConv3d)}
    if not layers:
        raise ConfigError("merge_linear: the network has no layer that psc.convert made")
    if bent := [name for name, layer in layers.items() if not layer.is_linear]:
        raise ConfigError(
            f"merge_linear: a non-linearity stands between the convolutions of {', '.join(bent)}; "
            "no single Conv3d equals them"
        )
    return replaced(model, {n: merged(part) for n, part in layers.items()}, inplace=inplace)


def merged(layer: SeparableConv3d) -> nn.Conv3d:
    """The Conv3d that a separable layer without activation equals."""
    plane, line = layer.convolutions()[0]
    bias = composed_bias(layer)
    conv = uninitialised(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=bias is not None,
        padding_mode=layer.padding_mode,
        device=plane.weight.device,
        dtype=plane.weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(composed_weight(layer))
        if conv.bias is not None and bias is not None:
            conv.bias.copy_(bias)
    conv.weight.requires_grad_(plane.weight.requires_grad)
    if conv.bias is not None and line.bias is not None:
        conv.bias.requires_grad_(line.bias.requires_grad)
    return conv.train(layer.training)
