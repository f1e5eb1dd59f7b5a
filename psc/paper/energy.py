"""How much of a kernel's energy few separable terms keep: the figure of ``docs/theory.md``.

``python -m psc.paper.energy CHECKPOINT... --into docs/energy.png`` draws it for trained
networks and prints its means, and those of ``stream_error_table``, as tables.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from psc.block.block import separable_width, stream_width
from psc.decomposition import (
    dropped_energy,
    factorise_streams,
    factorise_sum,
    greedy_selection,
    hosvd,
)
from psc.decomposition.streams import unfold_layer
from psc.errors import ConfigError, told_in_a_line
from psc.paper.style import DASHED, VERMILLION, checked_png, page_style, plots, save_png
from psc.paper.text import markdown_table
from psc.training.checkpoints import NETWORK_PREFIX, read_checkpoint

_TERMS = 3
_SWEEPS = 5
_WIDTHS = np.linspace(0.0, 1.5, 31)  # multiples of Eq. 5's M


def stream_errors(weight: Tensor, m: int) -> tuple[float, float]:
    """‖W − approximation‖ / ‖W‖ of m concatenated and m summed streams, of Eq. 5's M / m each."""
    weight = weight.detach().double()
    width = stream_width(weight.shape[1], weight.shape[0], m, kernel_size=weight.shape[2])
    concatenated = factorise_streams(weight, m, width).relative_error
    summed = factorise_sum(weight, m, width, _SWEEPS).relative_error
    return float(concatenated), float(summed)


def stream_error_table(layers: Mapping[str, Tensor], seed: int = 0) -> str:
    """Means over layers for m = 1, 2, 3, of the layers and of random normal ones, as Markdown."""
    rows = []
    for label, weights in _and_random(layers, seed).items():
        for m in (1, 2, 3):
            errors = torch.tensor([stream_errors(weight, m) for weight in weights]).mean(0)
            rows.append((label, str(m), *(f"{float(error):.3f}" for error in errors)))
    return markdown_table([("kernels", "m", "concatenated", "summed"), *rows])


def _and_random(layers: Mapping[str, Tensor], seed: int) -> dict[str, list[Tensor]]:
    """Trained kernels, and independent normal random numbers in the same shapes."""
    generator = torch.Generator().manual_seed(seed)
    trained = list(layers.values())
    random = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in trained]
    return {"trained": trained, "random": random}


@dataclass(frozen=True)
class KeptEnergy:
    """Fractions of a layer's energy, 0 to 1."""

    along_depth: tuple[float, ...]  # with 0, 1, 2, 3 terms of the orientation D per kernel
    # with as many terms, each of the orientation that keeps most (greedy)
    any_orientation: tuple[float, ...]
    # with one stream along D for the whole layer, at ``_WIDTHS`` times the M of Eq. 5.
    by_width: tuple[float, ...]


def kept_energy(weight: Tensor) -> KeptEnergy:
    """What few separable terms keep of one layer's kernels (out, in, kD, kH, kW)."""
    weight = weight.detach().double()
    energy = weight.square().sum()
    if weight.ndim != 5 or min(weight.shape[2:]) < _TERMS or not energy > 0:
        raise ConfigError(
            f"the figure is of non-zero kernels of 3×3×3 and more, got {tuple(weight.shape)}"
        )
    core = hosvd(weight.movedim(1, -1)).core
    by_terms = []
    for axes in ((0,), (0, 1, 2)):
        selection = greedy_selection(core, _TERMS, axes)
        kept = [0.0]
        for terms in range(1, _TERMS + 1):
            dropped = dropped_energy(core, selection[:, :terms]).sum()
            kept.append(float(1 - dropped / energy))
        by_terms.append(tuple(kept))
    values = torch.linalg.svdvals(unfold_layer(weight, 0).flatten(0, 1)).square()
    cumulative = torch.cat([values.new_zeros(1), values.cumsum(0)]) / energy
    eq5 = separable_width(weight.shape[1], weight.shape[0], weight.shape[2])
    filters = [min(int(fraction * eq5), len(values)) for fraction in _WIDTHS]
    along_depth, any_orientation = by_terms
    return KeptEnergy(along_depth, any_orientation, tuple(cumulative[filters].tolist()))


@page_style()
def energy_figure(
    trained: Mapping[str, Tensor], path: Path, seed: int = 0
) -> dict[str, list[KeptEnergy]]:
    """Energy kept against terms per kernel and against filters per layer; returns the numbers."""
    checked_png(path)
    if not trained:
        raise ConfigError("the figure needs at least one layer with kernels of 3×3×3 and more")
    kernels = _and_random(trained, seed)
    numbers = {label: [kept_energy(w) for w in weights] for label, weights in kernels.items()}
    figure, ((left, right),) = plots(1, 2, sharey=True)
    figure.set_figheight(2.6)
    for label, colour in (("random", "0.45"), ("trained", VERMILLION)):
        layers = numbers[label]
        terms = np.arange(_TERMS + 1)
        _draw(left, terms, [of.any_orientation for of in layers], colour, label)
        depth = np.mean([of.along_depth for of in layers], 0)
        left.plot(terms, depth, color=colour, ls=":", label=f"{label}, along D only")
        _draw(right, _WIDTHS, [of.by_width for of in layers], colour, label)
    left.set(xlabel="separable terms per kernel", ylabel="energy kept", xticks=terms)
    left.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    left.set_title("each kernel by itself (Eq. 3)", loc="left", weight="bold")
    left.legend(loc="lower right")
    right.axvline(1, color="0.5", linestyle=DASHED, linewidth=0.8)
    right.set(xlabel="2D filters of the layer, as a multiple of Eq. 5's M")
    right.set_title("a layer that shares its 2D filters, along D", loc="left", weight="bold")
    right.annotate("Eq. 5", (1, 0.02), (3, 0), textcoords="offset points", color="0.4")
    save_png(figure, path)
    return numbers


def layers_of_checkpoints(paths: Sequence[Path]) -> dict[str, Tensor]:
    """All kernels of 3×3×3 and more of trained networks, by the layers' names."""
    layers = {}
    for i, path in enumerate(paths):
        for name, tensor in read_checkpoint(path).content["state_dict"].items():
            if tensor.ndim == 5 and min(tensor.shape[2:]) >= _TERMS:
                short = name.removeprefix(NETWORK_PREFIX).removesuffix(".weight")
                layers[short if len(paths) == 1 else f"{i + 1}: {short}"] = tensor
    return layers


def energy_table(numbers: Mapping[str, Sequence[KeptEnergy]]) -> str:
    """Means over layers as a Markdown table: what the thick lines of the figure say."""
    at_eq5 = int(np.argmin(np.abs(_WIDTHS - 1)))
    rows = []
    for label, layers in numbers.items():
        depth = np.mean([of.along_depth for of in layers], 0)
        greedy = np.mean([of.any_orientation for of in layers], 0)
        shared = float(np.mean([of.by_width[at_eq5] for of in layers]))
        half = float(np.mean([of.by_width[at_eq5 // 2] for of in layers]))
        values = [depth[1], greedy[1], depth[2], greedy[2], half, shared]
        rows.append((label, *(f"{100 * value:.1f} %" for value in values)))
    header = ("kernels", "1 term, D", "1 term, any", "2 terms, D", "2 terms, any")
    return markdown_table([(*header, "layer, M / 2", "layer, M of Eq. 5"), *rows])


def _draw(axes: Axes, x: Any, layers: Sequence[Any], colour: str, label: str) -> None:
    for layer in layers:
        axes.plot(x, layer, color=colour, linewidth=0.5, alpha=0.35)
    axes.plot(x, np.mean(layers, 0), color=colour, linewidth=1.8, label=label)


def main() -> None:
    """Draw the figure for trained networks and print its means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="of 3D networks, by train.py")
    parser.add_argument("--into", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--seed", type=int, default=0, help="of the random kernels")
    arguments = parser.parse_args()
    with told_in_a_line():
        layers = layers_of_checkpoints(arguments.checkpoints)
        numbers = energy_figure(layers, arguments.into, arguments.seed)
    print(energy_table(numbers), stream_error_table(layers, arguments.seed), sep="\n\n")
    print(f"{len(layers)} layers; {arguments.into}")


if __name__ == "__main__":
    main()
