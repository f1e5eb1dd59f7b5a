"""Grey values as numbers from 0 to 1, and which of them become 0 and 1.

That range belongs to the network: what it was trained with is what it has to see. A number type
says it only where its whole range is used, which 12 bits in uint16 do not, and int16 never does.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError

Range = tuple[float, float]

_FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
_LITTLE = 0.25  # of a range: two bits unused
_MUCH = 0.25  # of the values


def full_scale(dtype: np.dtype[Any]) -> float:
    """What becomes 1 where no range is given; floats lie in [0, 1]."""
    return _FULL_SCALE.get(dtype, 1.0)


def scale_intensity(
    raw: npt.NDArray[Any], intensity_range: Sequence[float] | None = None
) -> npt.NDArray[np.float32]:
    """Grey values as float32 in [0, 1], of the same shape, in C order, never a view of ``raw``.

    The values ``intensity_range`` become 0 and 1, and beyond them is clipped. Without it uint8 is
    divided by 255 and uint16 by 65535; floats must lie in [0, 1] already.
    """
    if raw.dtype.kind == "f" and np.isnan(raw).any():
        raise DataError("raw holds NaN; repair the volume first")
    scaled = np.empty(raw.shape, dtype=np.float32)
    if intensity_range is not None:
        low, high = intensity_range
        if not -np.inf < low < high < np.inf:
            raise ConfigError(f"intensity_range must be increasing, found ({low}, {high})")
        # float64 inside the ufunc: large integers minus a large offset lose nothing
        np.subtract(raw, low, out=scaled, dtype=np.float64, casting="unsafe")
        scaled *= np.float32(1 / (high - low))
        return np.clip(scaled, 0, 1, out=scaled)
    if raw.dtype in _FULL_SCALE:
        np.multiply(raw, np.float32(1 / _FULL_SCALE[raw.dtype]), out=scaled, casting="unsafe")
        return scaled
    if raw.dtype.kind != "f":
        raise DataError(
            f"raw is {raw.dtype}, whose full scale says nothing about its grey values; set"
            " intensity_range to the values that should become 0 and 1"
        )
    if raw.size and not (raw.min() >= 0 and raw.max() <= 1):
        raise DataError(
            f"raw is {raw.dtype} with values from {raw.min():g} to {raw.max():g}, expected [0, 1];"
            " set intensity_range to the values that should become 0 and 1"
        )
    scaled[...] = raw
    return scaled


def settled_range(
    samples: Iterable[npt.NDArray[Any]],
    given: Sequence[float] | None = None,
    trained: Sequence[float] | None = None,
    *,
    where: str,
    setting: str,
    strict: bool = True,
) -> tuple[Range | None, str]:
    """Which grey values become 0 and 1, checked against some of them.

    What the user has ``given`` by the key ``setting`` counts, else what the network was ``trained``
    with, else the type's own range. If values of ``where`` do not fit what the user did not say,
    that is refused (``strict``), or a line beside the range; this is None where the type says it.
    """
    parts = [part for part in samples if part.size]
    dtype = parts[0].dtype
    values = np.concatenate([part.ravel() for part in parts])
    values = values[np.isfinite(values)] if dtype.kind == "f" else values
    lowest, highest = (values.min().item(), values.max().item()) if values.size else (0, 0)
    found = f"{where} holds {dtype} with values from {lowest:g} to {highest:g}"
    likely = f"{setting}=[{lowest:g},{highest:g}]"
    if max(-lowest, highest) > 1:  # as many bits as that takes, with a sign if there is one
        power = 2 ** max(int(-lowest - 1).bit_length(), int(highest).bit_length())
        likely = f"{setting}=[{-power if lowest < 0 else 0},{power - 1}]"
    chosen = given or trained
    if chosen:
        if len(chosen) != 2 or not -np.inf < chosen[0] < chosen[1] < np.inf:
            raise ConfigError(f"{setting}={list(chosen)}: must be [low,high] with low < high")
        low, high = chosen
    elif dtype in _FULL_SCALE or (dtype.kind == "f" and lowest >= 0 and highest <= 1):
        low, high = 0.0, full_scale(dtype)
    else:
        raise DataError(
            f"{found}, and nothing says which of them become 0 and 1; set what the network was"
            f" trained with, or what corresponds to it, such as {likely}"
        )
    reached = (highest - low) / (high - low)
    outside = float(np.mean((values < low) | (values > high))) if values.size else 0.0
    problem = ""
    if highest > lowest and outside > _MUCH:
        problem = f"{found}, {outside:.0%} of them outside [{low:g},{high:g}]"
    elif highest > lowest and reached <= _LITTLE:
        problem = f"{found}, which reach {max(reached, 0):.0%} of [{low:g},{high:g}]"
    if problem and not given:
        origin = "what the network was trained with" if trained else f"the range of {dtype}"
        problem += f", {origin}; set {likely}, or {setting}=[{low:g},{high:g}] if that is meant"
        if strict and (trained or dtype != np.uint8):
            raise DataError(problem)
    return ((float(low), float(high)) if chosen else None), problem


def grey_range(values: npt.NDArray[Any]) -> Range:
    """What becomes black and white in a picture: beyond are half a per cent each."""
    low, high = np.percentile(values, [0.5, 99.5])
    return float(low), float(high)


def grey_image(values: npt.NDArray[Any], bounds: Range | None = None) -> npt.NDArray[np.float32]:
    """Values of a picture as float32 in [0, 1], by default between their own ``grey_range``."""
    low, high = bounds or grey_range(values)
    grey: npt.NDArray[np.float32] = (values.astype(np.float32) - low) / ((high - low) or 1.0)
    return np.clip(grey, 0, 1)
