"""How a tissue looks in every figure: its colour and its marker."""

from psc.reporting.colours import Colour

__all__ = ["DIFFERENCE_COLOUR", "tissue_colour", "tissue_marker"]

# Of Okabe and Ito's colours the three that are told apart best with any colour vision; markers
# repeat the distinction.
_COLOURS = {"csf": "0072B2", "gm": "E69F00", "wm": "56B4E9"}
_MARKERS = {"csf": "o", "gm": "s", "wm": "^"}


def _colour(hexadecimal: str) -> Colour:
    red, green, blue = (int(hexadecimal[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


DIFFERENCE_COLOUR = _colour("D55E00")
"""Voxels where truth and prediction differ, over the grey image."""


def tissue_colour(tissue: str) -> Colour:
    """Red, green and blue in [0, 1] of a tissue; grey for one that is not of the paper's."""
    return _colour(_COLOURS.get(tissue, "777777"))


def tissue_marker(tissue: str) -> str:
    """The name, to matplotlib, of a tissue's marker."""
    return _MARKERS.get(tissue, "D")
