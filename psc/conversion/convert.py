"""``psc.convert``: the 3D convolutions of any trained network as P_mSC_1, where they stand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, get_args

from torch import nn
from torch.nn.parameter import is_lazy

from psc.blocks import check_streams
from psc.conversion.factors import Initialisation, kernel_error, separable_layer
from psc.conversion.layer import Merge, SeparableConv3d
from psc.conversion.observation import ExampleInput, Observation, observe
from psc.conversion.plan import Plan, Unsupported, refusal
from psc.conversion.replacement import Model, put_back, replaced
from psc.conversion.report import ConversionReport, LayerReport, Status
from psc.conversion.selection import KernelSizes, Names, Selection
from psc.conversion.support import check_model, convolutions
from psc.conversion.widths import Width, layer_widths
from psc.errors import ConfigError
from psc.widths import PUBLISHED_MAXIMUM_WIDTH


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

    Args:
        model: any module.
        m: number of streams, 1 to 3.
        n: 2D convolutions per stream; only 1 yet.
        init: "svd": the nearest kernels (``psc.decomposition``); "random": new weights, to compare.
        width: M per stream (and group). "eq5": as ``PSCBlock``; a number; a function of a layer's
            name and the layer; None: as many as make the layer exact.
        maximum_width: cap of what Eq. 5 gives; None for none.
        include: names or patterns (``*.conv2``) of layers, or of modules around them; None: all.
        exclude: the same, left as they are.
        kernel_sizes: (kD, kH, kW), or numbers for cubes, to convert; None: all.
        merge: "concatenate" as in the paper's block, or "sum" (Eq. 3).
        sweeps: rounds of alternating least squares for ``merge="sum"``; see ``factorise_sum``.
        activation: builds a non-linearity between 2D and 1D convolutions, as in the paper. Without
            one (default) the network is as near to yours as the kernels are.
        unsupported: "refuse" names all layers that cannot be converted; "skip" leaves them.
        example_input: a tensor, a tuple of arguments or a mapping of keyword arguments. The
            network then runs once before and once after (evaluation mode, no gradients), to count
            MACs and to find weights that are used other than by calling their layer, which
            nothing else can find.
        inplace: change the network itself; it is left as it was if anything fails.

    Returns:
        The network, a copy unless ``inplace``, and the report.

    Raises:
        ConfigError: for impossible arguments, a network without Conv3d, or layers that cannot be
            converted: all of them with the reason, before any work is done.
    """
    _check_arguments(m, n, init, merge, unsupported, sweeps, activation)
    check_model(model)
    known = [name for name, _ in convolutions(model)]
    if not known:
        raise ConfigError(f"{type(model).__name__} has no Conv3d to convert")
    plan = Plan(model, Selection(include, exclude, kernel_sizes, known))
    plan.refuse_unsupported(m, merge, needs_values=init == "svd")
    before = None if example_input is None else observe(model, list(plan.chosen), example_input)
    if before is not None:
        plan.refuse_unwatched(before)
    plan.settle(unsupported)
    replacements: dict[str, SeparableConv3d] = {}
    for name, layer in plan.chosen.items():
        widths = layer_widths(
            name, layer, m, merge, width, maximum=maximum_width, linear=activation is None
        )
        try:
            replacements[name] = separable_layer(
                layer, widths, init=init, merge=merge, sweeps=sweeps, activation=activation
            )
        except ConfigError as error:  # values that are not finite
            plan.refused[name] = str(error)
    plan.settle(unsupported)
    parameters = _parameters(model)
    originals = plan.chosen
    converted = replaced(model, replacements, inplace=inplace)
    after = None
    if before is not None and example_input is not None:
        try:
            after = _observe_again(converted, before, list(replacements), example_input)
        except BaseException:
            if inplace:
                put_back(model, originals)
            raise
    total = None if before is None or after is None else (before.within(""), after.within(""))
    report = ConversionReport(
        m,
        n,
        merge,
        init,
        tuple(_row(plan, name, replacements.get(name), before, after) for name in plan.layers),
        (parameters, _parameters(converted)),
        total,
    )
    return Conversion(converted, report)


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


def _row(
    plan: Plan,
    name: str,
    new: SeparableConv3d | None,
    before: Observation | None,
    after: Observation | None,
) -> LayerReport:
    layer: nn.Module = plan.layers[name]
    status: Status = "skipped" if name in plan.refused else "kept"
    work = None if before is None or after is None else (before.within(name), after.within(name))
    count = _parameters(layer)
    error = None
    if new is not None:
        status = "converted"
        assert isinstance(layer, nn.Conv3d)
        error = None if layer.weight.is_meta else kernel_error(layer, new)
    return LayerReport(
        name,
        status,
        plan.refused.get(name) or plan.kept.get(name),
        layer.kernel_size,  # type: ignore[arg-type]
        layer.groups,  # type: ignore[arg-type]
        layer.in_channels,  # type: ignore[arg-type]
        layer.out_channels,  # type: ignore[arg-type]
        () if new is None else new.widths,
        error,
        (count, count if new is None else _parameters(new)),
        work,
    )


def _parameters(module: nn.Module) -> int:
    """Learnable numbers, shared ones once; those of lazy modules do not exist yet."""
    return sum(p.numel() for p in module.parameters() if not is_lazy(p))


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
    if n > 1:
        raise ConfigError(
            f"n={n}: only n=1 can be converted, layer by layer; a network of pairs of convolutions "
            "as one block each must be built with psc.PSCBlock and trained (the composition of two "
            "trained layers with a non-linearity between is no block, see docs/theory.md)"
        )
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
