"""``psc.convert``: the 3D convolutions of any trained network as P_mSC_n, where they stand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, get_args

from torch import nn

from psc.blocks import check_streams
from psc.conversion.building import BlockOptions, in_no_run
from psc.conversion.factors import Initialisation
from psc.conversion.observation import ExampleInput, Observation, observe
from psc.conversion.plan import Plan, Unsupported, refusal
from psc.conversion.replacement import Model, put_back, replaced
from psc.conversion.report import ConversionReport
from psc.conversion.rows import parameter_count, report_rows
from psc.conversion.runs import Run, Runs, found_runs, given_runs
from psc.conversion.selection import KernelSizes, Names, Selection
from psc.conversion.support import check_model, convolutions
from psc.conversion.widths import Width
from psc.errors import ConfigError
from psc.streams import Merge
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
