"""One grey image per slice, PNG or TIFF, read box by box.

Every box decodes the whole of each slice that it touches; for volumes much wider than a block,
Zarr or HDF5 are faster to read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from psc.datasets.png_stack import natural_order, png_slices
from psc.errors import DataError
from psc.tiling import Size3

_GREY_MODES: dict[str, np.dtype[Any]] = {
    "L": np.dtype(np.uint8),
    "I;16": np.dtype(np.uint16),
    "I;16B": np.dtype(np.uint16),
}
_TIFF = (".tif", ".tiff")


def stack_slices(folder: Path) -> list[Path]:
    """The slices of a folder, first one first.

    Raises:
        DataError: there are none, PNG and TIFF are mixed, or numbers show that some are missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; correct input=…")
    pngs = png_slices(folder)
    tiffs = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in _TIFF and not path.name.startswith(".")
        ),
        key=lambda path: natural_order(path.name),
    )
    if bool(pngs) == bool(tiffs):
        found = "both PNG and TIFF" if pngs else "neither PNG nor TIFF slices"
        raise DataError(f"{folder} holds {found}; give a folder of the one or the other")
    return pngs or tiffs


class ImageStack:
    """See ``psc.blockwise.volumes.LazyVolume``.

    Args:
        slices: image files of equal size.

    Raises:
        DataError: the first slice is no grey image. (The others are checked when they are read.)
    """

    def __init__(self, slices: Sequence[Path]) -> None:
        self._slices = list(slices)
        first = _read(self._slices[0])
        self.shape: Size3 = (len(self._slices), first.shape[0], first.shape[1])
        self.dtype = first.dtype
        self.voxel_size: tuple[float, float, float] | None = None

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        """Read a box.

        Raises:
            DataError: a slice cannot be read, or differs from the first one.
        """
        z, y, x = index[1:] if isinstance(index, tuple) and index[0] is Ellipsis else index
        planes = []
        for path in self._slices[slice(z.start, z.stop)]:
            image = _read(path)
            if image.shape != self.shape[1:] or image.dtype != self.dtype:
                raise DataError(
                    f"{path}: slice is {image.shape} {image.dtype}, but {self._slices[0].name} is"
                    f" {self.shape[1:]} {self.dtype}; all slices of a stack must be alike"
                )
            planes.append(image[y, x])
        return np.stack(planes)


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        with Image.open(path) as image:
            if image.mode not in _GREY_MODES or getattr(image, "n_frames", 1) != 1:
                raise DataError(
                    f"{path}: image mode is {image.mode} with"
                    f" {getattr(image, 'n_frames', 1)} pages, but a slice must be one grey page"
                    " with 8 or 16 bits; convert the images"
                )
            return np.asarray(image).astype(_GREY_MODES[image.mode], copy=False)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path} is not a readable image ({error}); copy it again") from error
