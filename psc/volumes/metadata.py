"""Axes, voxel size and offset of an array, from whatever its container says about it.

One rule for HDF5 and Zarr. What is said nearest to the array counts, from the array upwards:

* ``multiscales`` of OME-Zarr (0.1 to 0.5) in which the array is a level: the level's
  transformations, then the whole pyramid's; each axis with its unit;
* ``resolution`` (CREMI), ``voxel_size`` (funlib) or ``element_size_um`` (Fiji), with ``offset`` and
  ``units``; where no unit is named they are nm, as CREMI has it.

Axes are called as the multiscales, Zarr's ``dimension_names``, xarray's ``_ARRAY_DIMENSIONS``,
``axis_names``, HDF5's dimension labels or ilastik's ``axistags`` say. Without names they are z, y,
x, with axes of one entry before them or after them. What is not z, y or x must have one entry.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psc.errors import DataError

Triple = tuple[float, float, float]
Attributes = Mapping[str, Any]

_PREFIXES = {"p": 1e-3, "n": 1.0, "u": 1e3, "μ": 1e3, "m": 1e6, "c": 1e7, "": 1e9}
_WORDS = {"pico": "p", "nano": "n", "micro": "u", "milli": "m", "centi": "c", "": ""}
_NANOMETRES = {
    **{f"{prefix}m": nm for prefix, nm in _PREFIXES.items()},
    **{f"{word}met{end}": _PREFIXES[p] for word, p in _WORDS.items() for end in ("er", "re")},
    **{"micron": 1e3, "å": 0.1, "angstrom": 0.1, "ångström": 0.1, "ångstrom": 0.1},
}
_SIZES = ("resolution", "voxel_size", "element_size_um")
_NAMES = ("axis_names", "_ARRAY_DIMENSIONS", "axistags", "axes")
_SMALLEST = 0.05  # nm; smaller voxels must be of another unit


@dataclass(frozen=True)
class Metadata:
    """What is known of an array.

    Attributes:
        axes: names of the stored axes, "z", "y" and "x" among them; "" = unnamed, of one entry.
        voxel_size: (z, y, x) in nm; None if unknown.
        offset: where the first voxel lies, (z, y, x) in nm; None if nothing is said.
        source: where the voxel size is from; if it is unknown, why.
        notes: what else was guessed, a line each.
    """

    axes: tuple[str, ...]
    voxel_size: Triple | None
    offset: Triple | None
    source: str
    notes: tuple[str, ...] = ()


@dataclass
class _Spacing:
    """What one place says, in stored order, of all axes or of the spatial ones."""

    source: str
    scale: Sequence[float] | None  # None: nothing, and ``source`` says why
    shift: Sequence[float] | None
    units: Sequence[Any]
    names: Sequence[Any] | None = None


def nanometres(unit: object) -> float | None:
    """How many nm a unit of length is, in any usual spelling; None if it is no unit of length."""
    # NFKC makes one of the two micro signs, and one of the three ways to write Å
    name = unicodedata.normalize("NFKC", str(unit)).strip().casefold()
    return _NANOMETRES.get(name, _NANOMETRES.get(name.removesuffix("s")))


def multiscales(attributes: Attributes) -> list[Mapping[str, Any]]:
    """OME's descriptions of images, in version 0.5 under "ome", before on their own."""
    ome = attributes.get("ome", attributes)
    found = ome.get("multiscales") if isinstance(ome, Mapping) else None
    return [m for m in found if isinstance(m, Mapping)] if isinstance(found, list) else []


def levels_of(multiscale: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The levels of an image by their paths, the finest first."""
    levels = [d for d in multiscale.get("datasets") or () if isinstance(d, Mapping)]
    return {tidy(str(level.get("path", ""))): level for level in levels}


def tidy(path: str) -> str:
    """A name within a container, parts separated by single slashes."""
    return "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))


def plain(value: Any) -> Any:
    """An attribute as JSON would have it: NumPy's types as Python's, text that is JSON parsed."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def describe(
    shape: Sequence[int],
    levels: Sequence[tuple[str, Attributes]],
    where: str,
    names: Sequence[Any] | None = None,
) -> Metadata:
    """Find what is known of an array.

    Args:
        shape: of the array as it is stored.
        levels: attributes of the array, of the group around it and so on up to the root, each with
            the path from there to the array ("" for the array itself).
        where: file and array, for messages.
        names: of the axes, where the format itself has a place for them.

    Raises:
        DataError: the metadata contradict the array or each other, or it is no single-channel
            volume.
    """
    spacing = _nearest(len(shape), levels, where)
    said = [spacing.names, names, *(_axis_names(levels[0][1].get(key)) for key in _NAMES)]
    whole = [tuple(str(n).casefold() for n in s) for s in said if s and all(s)]
    known = [s for s in dict.fromkeys(whole) if {"z", "y", "x"} & set(s)]
    if len(known) > 1:
        raise DataError(
            f"{where}: its axes are {' and '.join(map(str, known))} in different places of its"
            " metadata; correct one of them"
        )
    axes = _axes(shape, known[0] if known else None, where)
    guess = f"{where}: its axes are called {', '.join(whole[0])}; taken as z, y, x" if whole else ""
    size, offset, source = _in_nanometres(spacing, axes, where)
    return Metadata(axes, size, offset, source, () if known or not whole else (guess,))


def _axes(shape: Sequence[int], names: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    """Names of all axes; refuses what is no volume, or could be one in two ways."""
    extra = len(shape) - 3
    if names is None:
        before = extra >= 0 and all(n == 1 for n in shape[:extra])
        after = extra == 1 and shape[3] == 1
        if extra <= 0 or before != after:
            names = ("z", "y", "x", "") if after else (*[""] * extra, "z", "y", "x")
    spatial = [name for name in names or () if name in ("z", "y", "x")]
    if (
        names is None
        or len(names) != len(shape)
        or sorted(spatial) != ["x", "y", "z"]
        or 0 in shape
        or any(n != 1 for n, name in zip(shape, names, strict=True) if name not in spatial)
    ):
        called = f" with axes {', '.join(names)}" if names and any(names) else ""
        raise DataError(
            f"{where}: expected shape (D, H, W), found {tuple(shape)}{called}; store a"
            " single-channel volume with axes z, y, x"
        )
    return names


def _axis_names(value: Any) -> list[Any] | None:
    """Names out of a list of names or of dictionaries, as ilastik's {"axes": [{"key": "z"}]}."""
    if isinstance(value, Mapping):
        value = value.get("axes")
    if not isinstance(value, list):
        return None
    return [a.get("name", a.get("key")) if isinstance(a, Mapping) else a for a in value]


def _nearest(ndim: int, levels: Sequence[tuple[str, Attributes]], where: str) -> _Spacing:
    for path, attributes in levels:
        for multiscale in multiscales(attributes):
            if path and (level := levels_of(multiscale).get(path)) is not None:
                return _of_multiscale(multiscale, level, ndim, where)
        if found := {key: attributes[key] for key in _SIZES if key in attributes}:
            return _of_attributes(found, attributes, path, where)
    return _Spacing("the file does not say it", None, None, ())


def _of_attributes(
    found: Mapping[str, Any], attributes: Attributes, path: str, where: str
) -> _Spacing:
    key, value = next(iter(found.items()))
    if key == "resolution" and found.get("voxel_size", value) != value:
        raise DataError(
            f"{where}: attributes 'resolution' {value} and 'voxel_size' {found['voxel_size']}"
            " contradict each other; correct or delete one"
        )
    scale = _numbers(value, where, f"attribute {key!r}", 3)
    offset = attributes.get("offset")
    shift = None if offset is None else _numbers(offset, where, "attribute 'offset'", 3)
    unit = "um" if key == "element_size_um" else attributes.get("units", attributes.get("unit"))
    source = f"attribute {key}" + (f" of the group around {path}" if path else "")
    problem = ""
    if re.search(r"(^|/)s?[1-9][0-9]*$", path):
        problem = " is perhaps that of a finer level"
    elif unit is None and 0 < min(scale) < _SMALLEST:
        problem = f" is {value} without a unit, and nm cannot be meant"
    units = unit if isinstance(unit, list) else [unit or "nm"] * len(scale)
    return _Spacing(source + problem, None if problem else scale, shift, units)


def _of_multiscale(
    multiscale: Mapping[str, Any], level: Mapping[str, Any], ndim: int, where: str
) -> _Spacing:
    axes = multiscale.get("axes") or [None] * ndim
    names = _axis_names(axes) if all(axes) else list("tczyx") if ndim == 5 else None
    if len(axes) != ndim:
        raise DataError(f"{where}: it has {ndim} axes, but its multiscales describe {names}")
    scale, shift, scaled, moved, unknown = np.ones(ndim), np.zeros(ndim), False, False, None
    for step in [
        *(level.get("coordinateTransformations") or ()),
        *(multiscale.get("coordinateTransformations") or ()),
    ]:
        kind = step.get("type")
        if kind == "scale" and "scale" in step:
            factors = np.array(_numbers(step["scale"], where, "scale of its multiscales", ndim))
            scale, shift, scaled = scale * factors, shift * factors, True
        elif kind == "translation" and "translation" in step:
            what = "translation of its multiscales"
            shift, moved = shift + _numbers(step["translation"], where, what, ndim), True
        elif kind != "identity":
            unknown = kind
    if unknown or not scaled:
        why = f"use a transformation {unknown!r}, not understood" if unknown else "give no scale"
        return _Spacing(f"its multiscales {why}", None, None, (), names)
    units = [axis.get("unit") if isinstance(axis, Mapping) else None for axis in axes]
    return _Spacing("multiscales", scale.tolist(), shift.tolist() if moved else None, units, names)


def _in_nanometres(
    spacing: _Spacing, axes: tuple[str, ...], where: str
) -> tuple[Triple | None, Triple | None, str]:
    """Voxel size and offset along z, y, x; and where they are from, or why they are unknown."""
    if spacing.scale is None:
        return None, None, spacing.source

    def along(values: Sequence[Any]) -> list[Any]:
        spatial = [name for name in axes if name in ("z", "y", "x")]
        order: Sequence[str] = axes if len(values) == len(axes) else spatial
        if len(values) != len(order):
            raise DataError(
                f"{where}: {spacing.source} needs a number for each of {', '.join(spatial)}, found"
                f" {list(values)}; correct or delete it"
            )
        return [values[order.index(name)] for name in "zyx"]

    scale, units = along(spacing.scale), along(spacing.units)
    if not min(scale) > 0:
        raise DataError(
            f"{where}: {spacing.source} must be three positive numbers (z, y, x), found"
            f" {list(spacing.scale)}; correct or delete it"
        )
    factors = [nanometres(unit) for unit in units]
    if None in factors:
        unit = units[factors.index(None)]
        why = "without a unit" if unit is None else f"in {unit!r}, which is no unit of length"
        return None, None, f"{spacing.source} say {scale} {why}"

    def in_nm(values: list[Any]) -> Triple:
        z, y, x = (value * factor for value, factor in zip(values, factors, strict=True))
        return z, y, x

    offset = None if spacing.shift is None else in_nm(along(spacing.shift))
    return in_nm(scale), offset, spacing.source


def _numbers(value: Any, where: str, what: str, count: int | None = None) -> list[float]:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or numbers.size < (count or 0):
        raise DataError(
            f"{where}: {what} must be {count or 3} finite numbers, found {value!r}; correct or"
            " delete it"
        )
    return [float(number) for number in numbers]
