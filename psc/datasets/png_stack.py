"""A volume stored as one grey PNG per slice, as NeuroProof's examples are."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from psc.errors import DataError

__all__ = ["natural_order", "png_slices", "read_png_stack"]

_GREY_MODES: dict[str, np.dtype[Any]] = {"L": np.dtype(np.uint8), "I;16": np.dtype(np.uint16)}


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts ``slice.10`` after ``slice.9``: digit runs count as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def png_slices(folder: Path) -> list[Path]:
    """The PNG files of a folder, in natural order; hidden files (``._1.png``) are left out.

    Raises:
        DataError: the numbers in the names show that slices are missing.
    """
    slices = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() == ".png" and not p.name.startswith(".")),
        key=lambda path: natural_order(path.name),
    )
    numbers = [int(runs[-1]) for p in slices if (runs := re.findall(r"\d+", p.stem))]
    steps = np.diff(numbers)
    # A constant step other than 1 is somebody's choice; an uneven one is an unfinished copy.
    if len(numbers) == len(slices) and steps.size and (steps != steps.min()).any():
        gap = int(np.argmax(steps != steps.min()))
        raise DataError(
            f"{folder}: slices are missing between {slices[gap].name} and {slices[gap + 1].name};"
            " copy the folder again, or renumber the files without gaps"
        )
    return slices


def read_png_stack(slices: list[Path]) -> tuple[npt.NDArray[Any], int, str]:
    """Read grey PNG slices of equal size as one array.

    Args:
        slices: image files, first slice first; at least one.

    Returns:
        The array, uint8 or uint16 (D, H, W); the total size in bytes; and the SHA-256 of all files
        one after the other, as ``cat`` in slice order would give it.

    Raises:
        DataError: a slice cannot be read, is not a grey image, or differs from the first one in
            size or bit depth.
    """
    digest = hashlib.sha256()
    total_bytes = 0
    volume: npt.NDArray[Any] | None = None
    for z, path in enumerate(slices):
        content = path.read_bytes()
        digest.update(content)
        total_bytes += len(content)
        image = _read_grey(path, content)
        if volume is None:
            volume = np.empty((len(slices), *image.shape), dtype=image.dtype)
        if image.shape != volume.shape[1:] or image.dtype != volume.dtype:
            raise DataError(
                f"{path}: slice is {_describe(image)}, but {slices[0].name} is"
                f" {_describe(volume[0])}; all slices of a stack must be alike"
            )
        volume[z] = image
    if volume is None:
        raise DataError("a PNG stack needs at least one slice")
    return volume, total_bytes, digest.hexdigest()


def _read_grey(path: Path, content: bytes) -> npt.NDArray[Any]:
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in _GREY_MODES:
                raise DataError(
                    f"{path}: image mode is {image.mode}, but a slice must be grey with 8 or 16"
                    " bits (L or I;16); convert the images, for example with ImageMagick:"
                    " mogrify -colorspace Gray"
                )
            grey: npt.NDArray[Any] = np.asarray(image).astype(_GREY_MODES[image.mode], copy=False)
            return grey
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        # Pillow raises SyntaxError for a broken PNG chunk.
        raise DataError(
            f"{path} ({len(content)} bytes) is not a readable PNG ({error}); copy or"
            " download it again"
        ) from error


def _describe(image: npt.NDArray[Any]) -> str:
    return f"{image.shape[0]} × {image.shape[1]} {image.dtype}"
