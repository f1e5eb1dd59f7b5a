"""Patches of volumes: random ones to train on, chosen ones to validate on, and what they read."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

from psc.volumes.metadata import Size3, size3

Patch = dict[str, Tensor]
_ScalarT = TypeVar("_ScalarT", bound=np.generic)


class RandomPatches(Dataset[Patch], ABC):
    """Patch i is a function of (seed, i) and of nothing else.

    Not of workers, not of what was drawn before: a resumed run goes on with the patches it would
    have seen.
    """

    def __init__(self, seed: int, length: int = 2**62) -> None:
        self._seed, self._length = seed, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Patch:
        """Patch ``index``, always the same."""
        if not 0 <= index < self._length:
            raise IndexError(f"patch {index} of {self._length}")
        return self.draw(np.random.default_rng([self._seed, index]))

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Patch:
        """A patch, by a source of randomness of its own."""


class ChosenPatches(Dataset[Patch]):
    """A patch at each of some places, by a function of the place's parts."""

    def __init__(self, places: Sequence[tuple[Any, ...]], cut: Callable[..., Patch]) -> None:
        self._places, self._cut = places, cut

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Patch:
        """The patch at place ``index``."""
        if not 0 <= index < len(self._places):
            raise IndexError(f"patch {index} of {len(self._places)}")
        return self._cut(*self._places[index])


def grid_starts(box: Iterable[slice], size: Size3) -> list[Size3]:
    """First voxels of windows that cover a box: spread evenly, they may overlap.

    Along an axis on which the box is shorter than a window there is one, centred on it.
    """
    axes = []
    for side, part in zip(box, size, strict=True):
        low, high = side.start, side.stop - part
        count = -(-(side.stop - low) // part)
        spread = np.linspace(low, high, count).round().astype(int).tolist()
        axes.append(spread if high > low else [(low + high) // 2])
    return [size3(start) for start in itertools.product(*axes)]


def read_padded(
    volume: npt.NDArray[_ScalarT], start: Size3, shape: Size3, fill: float
) -> npt.NDArray[_ScalarT]:
    """A window of an array (D, H, W), continued beyond its border by a constant.

    ``start`` may be negative, or beyond the array. A view where the window is inside, else a copy.
    """
    box = tuple(slice(max(a, 0), max(a + n, 0)) for a, n in zip(start, shape, strict=True))
    inside = volume[box]
    if inside.shape == tuple(shape):
        return inside
    window = np.full(shape, fill, dtype=volume.dtype)
    first = (max(-a, 0) for a in start)
    window[tuple(slice(a, a + n) for a, n in zip(first, inside.shape, strict=True))] = inside
    return window
