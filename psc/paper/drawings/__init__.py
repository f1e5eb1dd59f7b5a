"""Figures 1–3 of the paper as drawings of what this project really builds and computes.

No drawing repeats a list by hand: channels, kernels, sizes and skip connections are read from the
modules, energies from a computed decomposition. So a drawing changes when the code does.
"""

from collections.abc import Callable

from matplotlib.figure import Figure

from psc.paper.drawings.block_structure import block_figure
from psc.paper.drawings.decomposition import decomposition_figure
from psc.paper.drawings.networks import network_figure

__all__ = ["DRAWINGS", "block_figure", "decomposition_figure", "network_figure"]

DRAWINGS: dict[str, Callable[[], Figure]] = {
    "figure-1": block_figure,
    "figure-2": decomposition_figure,
    "figure-3": network_figure,
}
"""What draws each figure, by the figure's name."""
