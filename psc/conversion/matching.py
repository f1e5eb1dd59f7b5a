"""Feature matching: what a conversion lost, learnt back from the original without any labels."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from psc.conversion.convert import Conversion
from psc.conversion.observation import ExampleInput, in_evaluation_mode, run_on
from psc.conversion.results import kept_results, replaced_layers
from psc.errors import ConfigError


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
        progress: show a bar.

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
    layers = replaced_layers(conversion)
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
        wanted = kept_results(original, {layer: name for name, layer in layers.items()}, stack)
        given = kept_results(model, {name: name for name in layers}, stack)
        source = _endless(batches)
        for _ in tqdm(range(steps), "matching", disable=not progress, leave=False):
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
        count = 0
        for batch in batches:
            count += 1
            yield batch
        if not count:
            raise ConfigError(
                "match_features: the batches have ended; give more, or what can be begun anew, "
                "such as a list or a DataLoader"
            )
