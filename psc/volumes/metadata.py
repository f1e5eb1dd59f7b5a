"""Axes, voxel size and offset of an array, from whatever its container says about it.

One rule for HDF5 and Zarr. What is said nearest to the array counts, from the array upwards:

* ``multiscales`` of OME-Zarr (0.1 to 0.5) in which the array is a level: the level's
  transformations, then the whole pyramid's; each axis with its unit;
* ``resolution`` (CREMI), ``voxel_size`` (funlib) or ``element_size_um`` (Fiji), with ``units``;
  where no unit is named they are nm, as CREMI has it;
* ``offset``, wherever it is, in units that stand beside it, else in those of the voxel size.

Axes are called as the multiscales, Zarr's ``dimension_names``, xarray's ``_ARRAY_DIMENSIONS``,
``axis_names``, HDF5's dimension labels or ilastik's ``axistags`` say. Without names they are z, y,
x, with axes of one entry before them or after them. What is not z, y or x must have one entry.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from psc.errors import DataError

Triple = tuple[float, float, float]
Size3 = tuple[int, int, int]
"""Voxels along z, y and x."""
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
_SPATIAL = ("z", "y", "x")
_UNNAMED = ("nm",) * 3  # units where none are
_SMALLEST = 0.05  # nm; smaller voxels must be of another unit


def size3(values: Iterable[Any]) -> Size3:
    """Three whole numbers, as such."""
    z, y, x = (int(value) for value in values)
    return z, y, x


def in_nm(size: Sequence[float] | None) -> str:
    """A voxel size in words."""
    return "unknown size" if size is None else " × ".join(f"{nm:g}" for nm in size) + " nm"


class Metadata(NamedTuple):
    """What is known of an array; voxel size and offset (z, y, x) in nm, None if unknown."""

    axes: tuple[str, ...]  # in stored order, "z", "y" and "x" among them; "" = unnamed
    voxel_size: Triple | None
    offset: Triple | None  # of the first voxel
    source: str  # where the voxel size is from; if it is unknown, why
    notes: tuple[str, ...]  # what else was guessed, a line each


class _Spacing(NamedTuple):
    """What one place says, in stored order, of all axes or of the spatial ones."""

    source: str
    scale: Sequence[float] | None = None  # None: nothing, and ``source`` says why
    shift: Sequence[float] | None = None
    units: Sequence[Any] = ()
    names: Sequence[Any] | None = None
    shift_units: Sequence[Any] = _UNNAMED  # also of an attribute "offset" that names none


def nanometres(unit: object) -> float | None:
    """How many nm a unit of length is, in any usual spelling; None if it is no unit of length."""
    # NFKC makes one of the two micro signs, and one of the three ways to write Å
    name = unicodedata.normalize("NFKC", str(unit)).strip().casefold()
    return _NANOMETRES.get(name, _NANOMETRES.get(name.removesuffix("s")))


def multiscales(attributes: Attributes) -> list[dict[str, Mapping[str, Any]]]:
    """OME's images in a group, each as its levels by path, the finest first.

    A level is its own description and, as "image", that of the image.
    """
    ome = attributes.get("ome", attributes)  # version 0.5, or before
    images = ome.get("multiscales") if isinstance(ome, Mapping) else None
    return [
        {
            tidy(str(level.get("path", ""))): {**level, "image": image}
            for level in image.get("datasets") or ()
            if isinstance(level, Mapping)
        }
        for image in (images if isinstance(images, list) else ())
        if isinstance(image, Mapping)
    ]


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
    """Find what is known of an array; what contradicts it, or is no volume, is refused.

    ``levels`` are attributes of the array, of the group around it and so on up to the root, each
    with the path from there to the array ("" for the array itself); ``names`` those of the axes,
    where the format itself has a place for them.
    """
    spacing = _nearest(len(shape), levels, where)
    said = [spacing.names, names, *(_axis_names(levels[0][1].get(key)) for key in _NAMES)]
    whole = [tuple(str(n).casefold() for n in s) for s in said if s and all(s)]
    known = [s for s in dict.fromkeys(whole) if set(_SPATIAL) & set(s)]
    if len(known) > 1:
        raise DataError(
            f"{where}: its axes are {' and '.join(map(str, known))} in different places of its"
            " metadata; correct one of them"
        )
    axes = _axes(shape, known[0] if known else None, where)
    guesses = [] if known else [", ".join(called) for called in whole[:1]]
    notes = (f"{where}: its axes are called {guess}; taken as z, y, x" for guess in guesses)
    return Metadata(axes, *_in_nanometres(spacing, axes, where), tuple(notes))


def _axes(shape: Sequence[int], names: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    """Names of all axes; refuses what is no volume, or could be one in two ways."""
    extra = len(shape) - 3
    before, after = all(n == 1 for n in shape[:extra]), extra == 1 and shape[-1] == 1
    if names is None and extra >= 0 and (extra == 0 or before != after):
        names = ("z", "y", "x", "") if after else (*[""] * extra, "z", "y", "x")
    if names and len(names) == len(shape) and 0 not in shape:
        others = [n for n, name in zip(shape, names, strict=True) if name not in _SPATIAL]
        if set(_SPATIAL) <= set(names) and len(others) == extra and set(others) <= {1}:
            return names
    called = f" with axes {', '.join(names)}" if names and any(names) else ""
    raise DataError(
        f"{where}: expected shape (D, H, W), found {tuple(shape)}{called}; store a single-channel"
        " volume with axes z, y, x"
    )


def _axis_names(value: Any) -> list[Any] | None:
    """Names out of a list of names or of dictionaries, as ilastik's {"axes": [{"key": "z"}]}."""
    if isinstance(value, Mapping):
        value = value.get("axes")
    if not isinstance(value, list):
        return None
    return [a.get("name", a.get("key")) if isinstance(a, Mapping) else a for a in value]


def _nearest(ndim: int, levels: Sequence[tuple[str, Attributes]], where: str) -> _Spacing:
    """The nearest voxel size with its translation, or else with the nearest ``offset``."""
    found = _sized(ndim, levels, where)
    for _, attributes in levels if found.shift is None else ():
        if "offset" in attributes:
            shift = _numbers(attributes["offset"], where, "attribute 'offset'", 3)
            units = _units(attributes, len(shift)) or found.shift_units
            return found._replace(shift=shift, shift_units=units)
    return found


def _units(attributes: Attributes, count: int) -> list[Any] | None:
    unit = attributes.get("units", attributes.get("unit"))
    return (unit if isinstance(unit, list) else [unit] * count) if unit else None


def _sized(ndim: int, levels: Sequence[tuple[str, Attributes]], where: str) -> _Spacing:
    for path, attributes in levels:
        for image in multiscales(attributes):
            if path in image:
                return _of_level(image[path], ndim, where)
        if found := {key: attributes[key] for key in _SIZES if key in attributes}:
            return _of_attributes(found, attributes, path, where)
    return _Spacing("the file does not say it")


def _of_level(level: Mapping[str, Any], ndim: int, where: str) -> _Spacing:
    axes = level["image"].get("axes") or [None] * ndim
    names = _axis_names(axes) if all(axes) else list("tczyx") if ndim == 5 else None
    if len(axes) != ndim:
        raise DataError(f"{where}: it has {ndim} axes, but its multiscales describe {names}")
    scale, shift, kinds = np.ones(ndim), np.zeros(ndim), set()
    for part in (level, level["image"]):
        for step in part.get("coordinateTransformations") or ():
            kind = step.get("type")
            kinds.add(kind if kind in step or kind == "identity" else f"{kind} without numbers")
            what = f"{kind} of its multiscales"
            if kind == "scale" and kind in step:
                factors = _numbers(step[kind], where, what, ndim)
                scale, shift = scale * factors, shift * factors
            elif kind == "translation" and kind in step:
                shift = shift + _numbers(step[kind], where, what, ndim)
    if unknown := kinds - {"scale", "translation", "identity"}:
        return _Spacing(f"its multiscales use {', '.join(map(repr, unknown))}, not understood")
    if "scale" not in kinds:
        return _Spacing("its multiscales give no scale", names=names)
    units = [axis.get("unit") if isinstance(axis, Mapping) else None for axis in axes]
    size = _Spacing("multiscales", scale.tolist(), units=units, names=names)
    moved = "translation" in kinds
    return size._replace(shift=shift.tolist(), shift_units=units) if moved else size


def _of_attributes(
    found: Mapping[str, Any], attributes: Attributes, path: str, where: str
) -> _Spacing:
    (key, value), *_ = found.items()
    scale = _numbers(value, where, f"attribute {key!r}", 3)
    other = found.get("voxel_size", value)
    if key == "resolution" and scale != _numbers(other, where, "attribute 'voxel_size'", 3):
        raise DataError(
            f"{where}: attributes 'resolution' {value} and 'voxel_size' {other} contradict each"
            " other; correct or delete one"
        )
    units = ["um"] * len(scale) if key == "element_size_um" else _units(attributes, len(scale))
    source = f"attribute {key}" + (f" of the group around {path}" if path else "")
    if re.search(r"(^|/)s?[1-9][0-9]*$", path):
        why = f"{source} is perhaps that of a finer level"
        return _Spacing(why, shift_units=units or _UNNAMED)
    if units is None and 0 < min(scale) < _SMALLEST:
        why = f"{source} is {value} without a unit, and nm cannot be meant"
        return _Spacing(why, shift_units=[None] * 3)
    units = units or ["nm"] * len(scale)
    return _Spacing(source, scale, units=units, shift_units=units)


def _in_nanometres(
    spacing: _Spacing, axes: tuple[str, ...], where: str
) -> tuple[Triple | None, Triple | None, str]:
    """Voxel size and offset along z, y, x; and where they are from, or why they are unknown."""
    spatial = [name for name in axes if name in _SPATIAL]

    def along(values: Sequence[Any], what: str = spacing.source) -> list[Any]:
        order: Sequence[str] = axes if len(values) == len(axes) else spatial
        if len(values) != len(order):
            raise DataError(
                f"{where}: {what} needs a number for each of {', '.join(spatial)}, found"
                f" {list(values)}; correct or delete it"
            )
        return [values[order.index(name)] for name in _SPATIAL]

    def converted(values: Sequence[Any] | None, units: Sequence[Any]) -> Triple | None:
        factors = [] if values is None else [nanometres(unit) for unit in along(units)]
        if values is None or None in factors:
            return None
        z, y, x = (value * factor for value, factor in zip(values, factors, strict=True))
        return z, y, x

    scale = None if spacing.scale is None else along(spacing.scale)
    if scale is not None and not min(scale) > 0:
        raise DataError(
            f"{where}: {spacing.source} must be three positive numbers (z, y, x), found"
            f" {scale}; correct or delete it"
        )
    size, source = converted(scale, spacing.units), spacing.source
    if scale is not None and size is None:
        unit = next(unit for unit in along(spacing.units) if nanometres(unit) is None)
        why = "without a unit" if unit is None else f"in {unit!r}, which is no unit of length"
        source = f"{source} say {scale} {why}"
    shift = None if spacing.shift is None else along(spacing.shift, "attribute 'offset'")
    return size, converted(shift, spacing.shift_units), source


def _numbers(value: Any, where: str, what: str, count: int) -> list[float]:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or numbers.size < count:
        raise DataError(
            f"{where}: {what} must be {count} finite numbers, found {value!r}; correct or delete it"
        )
    return [float(number) for number in numbers]
