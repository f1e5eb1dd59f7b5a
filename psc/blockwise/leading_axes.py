"""Time and channel axes of one, which files put before z, y, x."""

from collections.abc import Sequence

from psc.errors import DataError
from psc.tiling import Size3


def volume_axes(shape: Sequence[int], where: str) -> tuple[int, Size3]:
    """How many leading axes of one there are, and the (z, y, x) that follow.

    Raises:
        DataError: it is no single-channel volume.
    """
    leading = len(shape) - 3
    if leading < 0 or any(n != 1 for n in shape[:leading]) or 0 in shape:
        raise DataError(
            f"{where}: expected shape (D, H, W), found {tuple(shape)}; store a single-channel"
            " volume, channels before z, y, x"
        )
    z, y, x = (int(n) for n in shape[leading:])
    return leading, (z, y, x)
