"""Slabs of volumes, and the check that no slab is used for two purposes.

EM volumes are few, so training, validation and test usually share one and are kept apart along z.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.datasets.volumes import Volume
from psc.errors import ConfigError

__all__ = ["Region", "check_disjoint"]


@dataclass(frozen=True, eq=False)
class Region:
    """The slices ``z_start <= z < z_stop`` of a volume.

    Labels are used from inside the slab only. Grey values carry no annotation, so a network's
    context may reach across the slab's border; without ``raw_context`` it is reflected there.

    Attributes:
        volume: the volume.
        z_start: first slice.
        z_stop: one after the last slice; None = up to the end.
        raw_context: whether grey values of the same volume outside the slab may be read.

    Raises:
        ConfigError: the slab is empty or not inside the volume.
    """

    volume: Volume
    z_start: int = 0
    z_stop: int | None = None
    raw_context: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.z_start < self.stop <= self.depth:
            raise ConfigError(
                f"{self.volume.name}: slab z = {self.z_start} to {self.z_stop} is empty or not"
                f" inside the volume; give 0 <= start < stop <= {self.depth}"
            )

    @property
    def depth(self) -> int:
        """Slices of the whole volume."""
        return int(self.volume.raw.shape[0])

    @property
    def stop(self) -> int:
        """One after the last slice, as a number."""
        return self.depth if self.z_stop is None else self.z_stop

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the slab in voxels (z, y, x)."""
        _, height, width = self.volume.raw.shape
        return self.stop - self.z_start, height, width

    def __str__(self) -> str:
        """Name and slices, for messages."""
        return f"{self.volume.name}[{self.z_start}:{self.stop}]"


def check_disjoint(splits: Mapping[str, Sequence[Region]]) -> None:
    """Make sure that no slice of raw data belongs to two splits.

    Slices are compared by content, so a copy of the volume in another file or another layout is
    found as well. Slices of one constant grey value are left out of that comparison.

    Args:
        splits: regions by the name of the split, as in ``{"train": [...], "test": [...]}``.

    Raises:
        ConfigError: two splits share slices; names both regions and the slices.
    """
    digests: dict[int, list[bytes | None]] = {}
    for (first, first_regions), (second, second_regions) in itertools.combinations(
        splits.items(), 2
    ):
        for a, b in itertools.product(first_regions, second_regions):
            if shared := _shared_slices(a, b, digests):
                raise ConfigError(
                    f"splits {first!r} and {second!r} share data: {a} and {b} have"
                    f" {len(shared)} slices in common (z = {shared[0]} to {shared[-1]} of"
                    f" {a.volume.name}); choose slabs that do not overlap"
                )


def _shared_slices(a: Region, b: Region, digests: dict[int, list[bytes | None]]) -> list[int]:
    """Slices of a that b has too, as z in a's volume; ``digests`` keeps what was computed."""
    if a.volume.raw is b.volume.raw:
        return list(range(max(a.z_start, b.z_start), min(a.stop, b.stop)))
    for volume in (a.volume, b.volume):
        if id(volume) not in digests:
            digests[id(volume)] = [_digest(plane) for plane in volume.raw]
    theirs = set(digests[id(b.volume)][b.z_start : b.stop]) - {None}
    ours = digests[id(a.volume)]
    return [z for z in range(a.z_start, a.stop) if ours[z] in theirs]


def _digest(plane: npt.NDArray[Any]) -> bytes | None:
    """Fingerprint of a slice; None if all its grey values are equal, as in padding."""
    if (plane == plane.flat[0]).all():
        return None
    return hashlib.blake2b(np.ascontiguousarray(plane).data, digest_size=16).digest()
