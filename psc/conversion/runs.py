"""Runs of n consecutive convolutions that one P_mSC_n replaces, and what may stand in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from psc.conversion.following import Link, may_stand_between
from psc.errors import ConfigError

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
