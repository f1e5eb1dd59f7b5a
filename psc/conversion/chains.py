"""Chains: n consecutive convolutions that one P_mSC_n replaces, or, n = 1, one convolution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from psc.conversion.watching import Link, may_go
from psc.errors import ConfigError

Runs = Sequence[Sequence[str]] | None
"""Chains as a user names them, see ``psc.convert``."""


@dataclass(frozen=True)
class Chain:
    """Consecutive convolutions of a network.

    ``names`` are also of what stands between them, in the order of the data; in parentheses what
    stays there and acts on a pair (``psc.conversion.watching``).
    """

    layers: tuple[str, ...]
    names: tuple[str, ...]
    links: tuple[Link, ...] = ()  # empty where their order was given and not observed

    @property
    def removed(self) -> tuple[str, ...]:
        """What the block, which stands at the first layer, makes superfluous."""
        return tuple(name for name in self.names[1:] if not name.startswith("("))

    @property
    def pairs(self) -> tuple[bool, ...]:
        """After each layer but the last: whether the block's result goes on as a pair (y, −y)."""
        if self.links:
            return tuple(link.scale is not None for link in self.links)
        places = [self.names.index(layer) for layer in self.layers]
        return tuple(
            any(name.startswith("(") for name in self.names[a:b]) for a, b in pairwise(places)
        )

    @classmethod
    def of(cls, layers: Sequence[str], links: Mapping[str, Link]) -> "Chain":
        """A chain as it was observed."""
        own = tuple(links[name] for name in layers[:-1])
        after = (name for link in own for name in (*link.between, link.following))
        return cls(tuple(layers), (layers[0], *after), own)


def found_chains(
    chosen: Mapping[str, nn.Conv3d], links: Mapping[str, Link], ends: Mapping[str, str], n: int
) -> list[Chain]:
    """Cut what follows each other into chains of n, from the first convolution on.

    ``ends`` says of the other convolutions why nothing follows them.
    """
    unfit = {name: reason for name in chosen if (reason := _why_not(chosen[name])) is not None}
    joined = {
        name: link for name, link in links.items() if not {name, link.following} & unfit.keys()
    }
    starts = joined.keys() - {link.following for link in joined.values()}
    chains = []
    for start in (name for name in chosen if name in starts):
        layers = [start]
        while (link := joined.get(layers[-1])) is not None:
            layers.append(link.following)
        starting = range(0, len(layers) - n + 1, n)
        chains += [Chain.of(layers[i : i + n], joined) for i in starting]
    if not chains:
        reasons = {**ends, **{name: f"it has {reason}" for name, reason in unfit.items()}}
        lines = [f"  {name}: {reasons[name]}" for name in chosen if name in reasons]
        title = f"n={n}: no {n} of the {len(chosen)} convolutions to convert follow each other"
        raise ConfigError("\n".join([title, *lines, "use n=1, which converts each by itself"]))
    return chains


def given_chains(
    model: nn.Module,
    chosen: Mapping[str, nn.Conv3d],
    runs: Sequence[Sequence[str]],
    n: int,
    links: Mapping[str, Link] | None,
    ends: Mapping[str, str],
) -> list[Chain]:
    """Chains that the user names, or that a conversion reported; the first impossible is named.

    ``links`` and ``ends`` are what was observed, to compare with; None if nothing was.
    """
    parts = dict(model.named_modules(remove_duplicate=False))
    first = {id(part): name for name, part in model.named_modules()}
    taken: set[str] = set()
    result = []
    for given in runs:
        shown = " → ".join(given)
        # By their first names. What stays may be no module at all.
        names = [
            first[id(parts[name])] if name in parts else name for name in map(str.strip, given)
        ]
        moving = [name for name in names if not name.startswith("(")]
        for name in moving:
            if name not in parts:
                raise ConfigError(f"runs: {shown}: the network has no module {name!r}")
        layers = [name for name in moving if name in chosen]
        for name in moving if links is None else layers:
            if name in taken:
                raise ConfigError(f"runs: {shown}: {name} stands in two places")
            taken.add(name)
        if len(layers) != n or names[0] != layers[0] or names[-1] != layers[-1]:
            raise ConfigError(
                f"runs: {shown}: must begin and end with a convolution and hold n={n} that are to "
                f"be converted; it holds {len(layers)}"
            )
        for name in moving:
            reason = _why_not(chosen[name]) if name in chosen else None
            if name not in chosen and not may_go(parts[name]) and links is None:
                reason = f"a {type(parts[name]).__name__} must not stand between convolutions"
            if reason:
                raise ConfigError(f"runs: {shown}: {name}: {reason}")
        for before, after in pairwise(layers):
            if chosen[after].in_channels != chosen[before].out_channels:
                raise ConfigError(
                    f"runs: {shown}: {after} reads {chosen[after].in_channels} channels, {before} "
                    f"writes {chosen[before].out_channels}"
                )
        if links is None:
            result.append(Chain(tuple(layers), tuple(names)))
        else:
            result.append(_observed(shown, names, layers, links, ends))
    return result


def _observed(
    shown: str,
    names: Sequence[str],
    layers: Sequence[str],
    links: Mapping[str, Link],
    ends: Mapping[str, str],
) -> Chain:
    """A given chain as it was observed, if it was."""
    for before, after in pairwise(layers):
        link = links.get(before)
        if link is None or link.following != after:
            found = f"to {link.following}" if link is not None else f"not on: {ends.get(before)}"
            raise ConfigError(f"runs: {shown}: on example_input the data go from {before} {found}")
    chain = Chain.of(layers, links)
    # What stays may be named with or without parentheses, functions need not be named.
    if extra := {name.strip("()") for name in names} - {name.strip("()") for name in chain.names}:
        raise ConfigError(f"runs: {shown}: on example_input the data do not go through {extra}")
    if missing := set(chain.removed) - set(names):
        raise ConfigError(f"runs: {shown}: on example_input the data also go through {missing}")
    return chain


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
