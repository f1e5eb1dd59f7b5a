"""A section of a volume as an image: grey values, and labels painted over them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.reporting.colours import Colour, colour_image

__all__ = ["grey_image", "overlay"]

_OPACITY = 0.5  # of label colours over the raw image


def grey_image(section: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A slice in [0, 1], its darkest and brightest half per cent clipped.

    Args:
        section: (H, W), any real dtype.

    Returns:
        float32 (H, W).
    """
    grey = section.astype(np.float32)
    low, high = (float(value) for value in np.percentile(grey, [0.5, 99.5]))
    grey -= low
    if high > low:
        grey /= high - low
    return np.clip(grey, 0, 1)


def overlay(
    grey: npt.NDArray[np.float32],
    labels: npt.NDArray[np.integer[Any]],
    colours: Mapping[int, Colour],
) -> npt.NDArray[np.float32]:
    """Labels in their colours over a grey image.

    Args:
        grey: (H, W) in [0, 1].
        labels: (H, W); ids without a colour stay grey.
        colours: by id.

    Returns:
        float32 (H, W, 3).
    """
    paint = colour_image(labels, colours)
    opacity = _OPACITY * paint[..., 3:]
    blended: npt.NDArray[np.float32] = (1 - opacity) * grey[..., None] + opacity * paint[..., :3]
    return blended
