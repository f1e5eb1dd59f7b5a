"""What is shown of a segmentation: its layers, where they lie, and where to look first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from psc.errors import DataError
from psc.reporting.body_table import BodyError
from psc.tiling import Size3

__all__ = [
    "AFFINITIES",
    "BASELINE",
    "FRAGMENTS",
    "RAW",
    "SEGMENTATION",
    "TRUTH",
    "Layer",
    "LayerKind",
    "Scene",
    "Voxels",
]

RAW = "raw"
AFFINITIES = "affinities"
FRAGMENTS = "fragments"
SEGMENTATION = "segmentation"
BASELINE = "no network"
TRUTH = "ground truth"

LayerKind = Literal["grey", "affinities", "labels"]


class Voxels(Protocol):
    """An array in memory or on disk; slices along all axes, without steps, read a box."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) or (3, D, H, W)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        """Read a box."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One volume.

    Attributes:
        name: one of the names above.
        kind: "grey" values of any real dtype; "affinities" in [0, 1], channels z, y, x; "labels".
        voxels: (D, H, W), of affinities (3, D, H, W).
    """

    name: str
    kind: LayerKind
    voxels: Voxels

    @property
    def in_memory(self) -> npt.NDArray[Any] | None:
        """The voxels, unless they are on disk and perhaps larger than memory."""
        return self.voxels if isinstance(self.voxels, np.ndarray) else None


@dataclass(frozen=True, eq=False)
class Scene:
    """Volumes of one place.

    Attributes:
        title: what it is, in a few words.
        path: where it was read.
        layers: by name, in the order in which they are shown.
        voxel_size: nm (z, y, x); None where it is unknown.
        offset: first voxel of the layers within their source volume (z, y, x).
        errors: splits and merges, the worst first; none without a ground truth. Locations are
            voxels of the source volume.
        scores: rows of a table: name, then score by column.
        facts: where it comes from, by name.

    Raises:
        DataError: there is no layer, or two of them cover different voxels.
    """

    title: str
    path: Path
    layers: Mapping[str, Layer]
    voxel_size: tuple[float, float, float] | None
    offset: Size3 = (0, 0, 0)
    errors: tuple[BodyError, ...] = ()
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise DataError(f"{self.path} holds no volume to show")
        for name, layer in self.layers.items():
            leading = (3,) if layer.kind == "affinities" else ()
            if layer.voxels.shape != (*leading, *self.shape) or 0 in self.shape:
                shapes = ", ".join(f"{n} {one.voxels.shape}" for n, one in self.layers.items())
                raise DataError(
                    f"{self.path}: {name} does not cover the same voxels as the others ({shapes});"
                    " they were not written together: evaluate the checkpoint again"
                )

    @property
    def shape(self) -> Size3:
        """Voxels along z, y, x."""
        z, y, x = next(iter(self.layers.values())).voxels.shape[-3:]
        return z, y, x

    @property
    def start(self) -> Size3:
        """The voxel to look at first, within the layers: the worst error, else the middle."""
        if not self.errors:
            z, y, x = (size // 2 for size in self.shape)
            return z, y, x
        return self.within(self.errors[0].location)

    def within(self, location: Size3) -> Size3:
        """A voxel of the source volume as an index into the layers."""
        z, y, x = (a - b for a, b in zip(location, self.offset, strict=True))
        return z, y, x

    def worst(self, kind: Literal["split", "merge"], count: int) -> tuple[BodyError, ...]:
        """The worst errors of one kind."""
        return tuple(error for error in self.errors if error.kind == kind)[:count]

    def bits(self, kind: Literal["split", "merge"]) -> float:
        """VI split or VI merge of this place: the sum over all its errors of that kind."""
        return sum(error.bits for error in self.errors if error.kind == kind)
