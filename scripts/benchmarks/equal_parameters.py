"""``psc.convert`` and tensorly-torch on single layers, at equal numbers of parameters."""

import copy
import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from benchmarks.conditions import Conditions
from benchmarks.factorisers import FACTORIZED, PLAIN, Entry, entries_for
from benchmarks.kernels import Layer
from benchmarks.report import Row
from benchmarks.slow_kernels import slow_convolutions
from benchmarks.steps import BackwardSteps
from benchmarks.timing import Timing, failure, interleave, timed

__all__ = ["compare"]

_QUICK = 1.0  # seconds; what factorises faster is timed in rounds
_SHORTEST = 0.05  # seconds
_OTHERS = ("mobilenet", "reconstructed")


class _Form(NamedTuple):
    """Who runs, how, and in which layout."""

    entry: Entry
    implementation: str
    layout: str


@dataclass(frozen=True)
class _Factorised:
    """What an entry made of the layer, and how long that took."""

    module: nn.Module | None
    timing: Timing


@dataclass(frozen=True)
class _Race:
    """Forward passes of all forms of one layer."""

    runs: Mapping[_Form, BackwardSteps]
    timings: Mapping[_Form, Timing]
    conditions: Conditions

    def fastest(self, name: Entry, implementation: str) -> tuple[float | None, _Form | None]:
        """Seconds and layout of an entry's fastest run in an implementation."""
        found = [
            (seconds, form)
            for form, timing in self.timings.items()
            if form[:2] == (name, implementation)
            and (seconds := timing.median(self.conditions.clock)) is not None
        ]
        return min(found, key=lambda pair: pair[0]) if found else (None, None)

    def failure(self, entry: Entry) -> str | None:
        """Why one of an entry's runs has no time."""
        failures = (t.failure for form, t in self.timings.items() if form.entry is entry)
        return next((message for message in failures if message is not None), None)


def compare(
    layer: Layer,
    conditions: Conditions,
    *,
    repeats: int,
    iterations: int,
    memory: float,
    seed: int,
) -> list[Row]:
    """Factorise one layer by everyone, then run all results in turn.

    Args:
        layer: what to factorise.
        conditions: device, layouts and clock.
        repeats: rounds; of factorising too, but for what takes more than a second: that is one run.
        iterations: at most, of tensorly's alternating least squares.
        memory: gigabytes that the largest matrix of tensorly's CP may take.
        seed: of inputs and of CP's start.

    Returns:
        A row per contestant: the layer itself, then for each number of parameters that our forms
        have, those forms and the peers at that size.
    """
    entries = entries_for(layer.convolution, iterations, memory, seed)
    made = _factorise(list(entries), conditions, repeats)
    runs = {
        _Form(entry, implementation, layout): BackwardSteps(
            partial(_ready, entry, found.module, implementation, layer, seed),
            layout,
            "fp32",
            conditions.device,
        )
        for entry, found in made.items()
        if found.module is not None
        for implementation in entry.implementations
        for layout in conditions.layouts
    }
    gc.collect()  # what failed before may hold memory in a cycle
    forward = {form: steps.forward for form, steps in runs.items()}
    timings = interleave(forward, repeats, finish=conditions.finish, shortest=_SHORTEST)
    race = _Race(runs, timings, conditions)
    (plain,) = (entry for entry in entries if entry.name == PLAIN)
    reference, _ = race.fastest(plain, FACTORIZED)
    return [_row(layer, e, budget, made[e], race, reference) for e, budget in entries.items()]


def _factorise(
    entries: Sequence[Entry], conditions: Conditions, repeats: int
) -> dict[Entry, _Factorised]:
    """Everyone's result; who is quick is timed again, in rounds."""
    made: dict[Entry, _Factorised] = {}
    for entry in entries:
        if entry.factorise is None:
            made[entry] = _Factorised(None, Timing(failure=entry.failure))
            continue
        try:
            made[entry] = _Factorised(*timed(entry.factorise, finish=conditions.finish))
        except Exception as error:  # another library's; the others go on
            made[entry] = _Factorised(None, Timing(failure=failure(error)))
    quick = {
        entry: entry.factorise
        for entry, found in made.items()
        if entry.factorise is not None and (found.timing.wall_median or _QUICK) < _QUICK
    }
    rounds = interleave(quick, repeats, finish=conditions.finish, shortest=_SHORTEST)
    return made | {entry: _Factorised(made[entry].module, rounds[entry]) for entry in quick}


def _ready(
    entry: Entry, module: nn.Module, implementation: str, layer: Layer, seed: int
) -> tuple[nn.Module, Tensor]:
    # A copy: a layout changes the weights, which implementations share.
    return copy.deepcopy(entry.implementations[implementation](module)), layer.input(seed)


def _row(
    layer: Layer, entry: Entry, budget: int, made: _Factorised, race: _Race, plain: float | None
) -> Row:
    weight, clock = layer.convolution.weight, race.conditions.clock
    error = None
    if made.module is not None and entry.kernel is not None:
        error = float((weight - entry.kernel(made.module)).norm() / weight.norm())
    work = None if entry.name == PLAIN else made.timing  # nothing is factorised there
    seconds, form = race.fastest(entry, FACTORIZED)
    row: Row = {
        "kernels": layer.kernels,
        "layer": layer.name,
        "kernel": "x".join(map(str, weight.shape)),
        "input": "x".join(map(str, layer.shape)),
        "at_most": budget,
        "contestant": entry.name,
        "rank": entry.rank,
        "parameters": entry.parameters,
        "error": error,
        "factorise_seconds": work and work.median(clock),
        "factorise_runs": work and len(work.cpu),
        "forward_seconds": seconds,
        "forward_ratio": _ratio(seconds, plain),
        "layout": form and form.layout,
        "slow_convolutions": form and _slow(race, form),
    }
    for other in _OTHERS:
        row[f"{other}_ratio"] = _ratio(race.fastest(entry, other)[0], plain)
    return row | {"fails": made.timing.failure or race.failure(entry)}


def _slow(race: _Race, form: _Form) -> int | None:
    return slow_convolutions(race.runs[form].forward, race.conditions.device)


def _ratio(mine: float | None, theirs: float | None) -> float | None:
    return mine / theirs if mine is not None and theirs else None
