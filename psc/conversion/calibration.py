"""What a conversion lost, brought back from the original without any labels.

``calibrate`` corrects gain and offset of every channel in one forward pass; ``match_features``
trains the new blocks until their results are those of the convolutions that they replace.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from psc.accounting.forward import ExampleInput, run_on
from psc.conversion.conversion import Conversion, with_bar
from psc.conversion.layers import SeparableConv3d
from psc.conversion.watching import affine_map, in_evaluation_mode
from psc.errors import ConfigError


def _last_layers(conversion: Conversion[Any]) -> dict[str, str]:
    """Name of every block → of the last layer that it stands for; there its result arrives."""
    last = {run[0]: run[-1] for run in conversion.report.runs}
    return {
        name: last.get(name, name)
        for name, part in conversion.model.named_modules()
        if isinstance(part, SeparableConv3d)
    }


def _kept_results(
    model: nn.Module, names: Mapping[str, str], stack: ExitStack
) -> dict[str, Tensor]:
    """What every forward pass fills with results until the stack closes: key → of which module."""
    results: dict[str, Tensor] = {}

    def keep(key: str, result: Tensor) -> None:
        if key not in results:  # of a module that is called twice the first call
            results[key] = result.clone()  # what follows may change it in place

    for key, module in names.items():
        part = model.get_submodule(module)
        handle = part.register_forward_hook(lambda _m, _x, y, key=key: keep(key, y))
        stack.callback(handle.remove)
    return results


@torch.no_grad()
def calibrate(original: nn.Module, conversion: Conversion[Any], batch: ExampleInput) -> None:
    """Bring every channel of the new blocks' results to the original's size, in place.

    Block by block in the order of the data, so that each is corrected for what those before it
    give: every channel is multiplied by the factor, and shifted by the offset, that bring it
    nearest to the original's channel over the batch (linear least squares), and the block's 1D
    convolutions take both in. A channel that has little to do with the original's shrinks towards
    its mean. Blocks without a bias have no offset. No training; ``match_features`` goes further.

    Args:
        original: the network before ``convert``.
        conversion: what ``convert`` returned; its model is changed.
        batch: an input, data as in training.
    """
    model = conversion.model
    _refuse_itself(original, model)
    layers = _last_layers(conversion)
    corrected: set[str] = set()
    with ExitStack() as stack:
        stack.enter_context(in_evaluation_mode(original))
        stack.enter_context(in_evaluation_mode(model))
        wanted = _kept_results(original, layers, stack)
        run_on(original, batch)

        def correct(name: str, result: Tensor) -> Tensor | None:
            if name in corrected:  # a block that is called twice
                return None
            corrected.add(name)
            block = model.get_submodule(name)
            assert isinstance(block, SeparableConv3d)
            biased = block.line(0).bias is not None
            if not (result.isfinite().all() and wanted[name].isfinite().all()):
                raise ConfigError(
                    f"{name} is given NaN or infinity by this batch, or is too large for its type:"
                    " nothing can be calibrated by it; repair the batch or the weights"
                )
            slope, offset = affine_map(result, wanted[name], through_zero=not biased)
            _rescale(block, slope, offset)
            shape = (-1, 1, 1, 1)
            return result * slope.to(result).view(shape) + offset.to(result).view(shape)

        for name, layer in layers.items():
            handle = model.get_submodule(layer).register_forward_hook(
                lambda _m, _x, y, name=name: correct(name, y)
            )
            stack.callback(handle.remove)
        run_on(model, batch)


def _refuse_itself(original: nn.Module, model: nn.Module) -> None:
    if original is model:
        raise ConfigError(
            "the original is the converted network itself, so there is nothing to compare it with;"
            " before convert(…, inplace=True) keep a copy.deepcopy"
        )


def _rescale(block: SeparableConv3d, slope: Tensor, offset: Tensor) -> None:
    """Make the block's result slope · result + offset, channel by channel."""
    if block.channel_order is not None:
        inverse = block.channel_order.argsort()
        slope, offset = slope[inverse], offset[inverse]
    begin = 0
    for line in (block.line(s) for s in range(len(block.widths))):
        part = slice(begin, begin + line.out_channels)
        factor = slope[part].to(line.weight)
        line.weight.mul_(factor[:, None, None, None, None])
        if line.bias is not None:
            line.bias.mul_(factor).add_(offset[part].to(line.bias))
        if block.merge == "concatenate":
            begin = part.stop


def match_features(
    original: nn.Module,
    conversion: Conversion[Any],
    batches: Iterable[ExampleInput],
    *,
    steps: int = 300,
    learning_rate: float = 1e-3,
    progress: bool = False,
) -> list[float]:
    """Train the new blocks until their results are those of the convolutions that they replace.

    Original and conversion read the same batch, both in evaluation mode; the loss is the mean over
    blocks of ‖result − the original's‖² / ‖the original's‖² (hints, Romero et al. 2015, at every
    converted layer). Only the blocks' parameters change, by Adam with a rate that falls to zero
    along a cosine; statistics of norms stay as they are. ``calibrate`` first: it is cheaper.

    Args:
        original: the network before ``convert`` (keep a copy if that worked in place).
        conversion: what ``convert`` returned; its model is changed in place.
        batches: inputs of the network, each a tensor, a tuple of arguments or a mapping of keyword
            arguments. Begun anew when they end.
        steps: number of batches to learn from.
        learning_rate: the first one.
        progress: show a bar (needs tqdm).

    Returns:
        The loss at every step, before that step changed anything.

    Raises:
        ConfigError: if nothing was converted or none of it learns, the batches end for good, or
            the loss is no longer finite.
    """
    if steps < 1 or not learning_rate > 0:
        raise ConfigError(
            f"steps={steps}, learning_rate={learning_rate}: both must be greater than 0"
        )
    model = conversion.model
    _refuse_itself(original, model)
    layers = _last_layers(conversion)
    parameters = [
        parameter
        for name in layers
        for parameter in model.get_submodule(name).parameters()
        if parameter.requires_grad
    ]
    if not parameters:
        raise ConfigError("match_features: the conversion has no block with parameters that learn")
    optimizer = torch.optim.Adam(parameters, learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses: list[float] = []
    with ExitStack() as stack:
        stack.enter_context(in_evaluation_mode(original))
        stack.enter_context(in_evaluation_mode(model))
        wanted = _kept_results(original, layers, stack)
        given = _kept_results(model, layers, stack)
        source = _endless(batches)
        for _ in with_bar(range(steps), "matching", progress):
            batch = next(source)
            with torch.no_grad():
                run_on(original, batch)
            with torch.enable_grad():
                run_on(model, batch)
                if idle := [n for n in layers if n not in given or n not in wanted]:
                    raise ConfigError(f"match_features: the batch never reaches {', '.join(idle)}")
                loss = torch.stack([_distance(given[n], wanted[n]) for n in layers]).mean()
            losses.append(float(loss.detach()))
            if not bool(loss.isfinite()):
                raise ConfigError(
                    f"match_features: the loss is {losses[-1]} at step {len(losses)}; use a "
                    f"smaller learning_rate than {learning_rate:g}"
                )
            optimizer.zero_grad()
            torch.autograd.backward(loss, inputs=parameters)
            optimizer.step()
            schedule.step()
            given.clear()
            wanted.clear()
    return losses


def _distance(result: Tensor, wanted: Tensor) -> Tensor:
    """Squared error over the energy of what is wanted, in float32 at least."""
    precise = torch.promote_types(result.dtype, torch.float32)
    result, wanted = result.to(precise), wanted.to(precise)
    energy = wanted.square().sum().clamp(min=torch.finfo(precise).tiny)
    return (result - wanted).square().sum() / energy


def _endless(batches: Iterable[ExampleInput]) -> Iterator[ExampleInput]:
    while True:
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            raise ConfigError(
                "match_features: the batches have ended; give more, or what can be begun anew, "
                "such as a list or a DataLoader"
            )
