"""Which tissues there are, and by which values the label files of a data set name them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.errors import DataError, first_of

BACKGROUND, CSF, GM, WM = range(4)

TISSUES = {"csf": CSF, "gm": GM, "wm": WM}
"""IBSR's (Section 4.2): name → value of cerebrospinal fluid, grey matter and white matter."""

CLASSES = 1 + len(TISSUES)
"""The tissues and background."""

MOST_TISSUES, LARGEST_VALUE = 254, 65_535

_UNKNOWN = 255
_SCALING_ERROR = 1e-3  # programs that store labels as floats scale them, and a 1 comes back 0.99998
_MOST_LISTED = 5


@dataclass(frozen=True)
class TissueCodes:
    """Names of tissues, and the values that background and they have in label files.

    In memory, background is class 0 and the tissues are 1, 2, … in the order of their names, so
    that two data sets of the same tissues are of the same classes.
    """

    tissues: Mapping[str, int]  # name → class
    values: tuple[tuple[int, ...], ...]  # by class; the first of several is written
    remedy: str = field(compare=False)  # for values that no class has

    @classmethod
    def of(cls, values: Mapping[str, tuple[int, ...]]) -> "TissueCodes":
        """Those of a map that a user gave, ``background`` in it or not (then 0)."""
        names = sorted(values.keys() - {"background"})
        every = (values.get("background", (0,)), *(values[name] for name in names))
        remedy = "name them in dataset.label_values, or count them to its background"
        return cls({name: i for i, name in enumerate(names, 1)}, every, remedy)

    @property
    def classes(self) -> int:
        """The tissues and background."""
        return len(self.values)

    def __str__(self) -> str:
        names = ("background", *self.tissues)
        shown = (" or ".join(map(str, values)) for values in self.values)
        return ", ".join(f"{value} {name}" for name, value in zip(names, shown, strict=True))

    def classes_of(self, data: npt.NDArray[Any], path: object) -> npt.NDArray[np.uint8]:
        """The class of every voxel of a label file; refused if it holds any other value."""
        rounded = np.rint(data) if data.dtype.kind == "f" else data
        known = [value for values in self.values for value in values]
        low, high = min(known), max(known)
        table = np.full(high - low + 1, _UNKNOWN, dtype=np.uint8)
        for number, values in enumerate(self.values):
            table[np.array(values) - low] = number
        inside = (rounded >= low) & (rounded <= high)
        found = table[np.where(inside, rounded, low).astype(np.int32) - low]
        found[~inside] = _UNKNOWN
        refused = [(found == _UNKNOWN, "are of no tissue")]
        if rounded is not data:
            refused.insert(0, (abs(data - rounded) > _SCALING_ERROR, "are no integers"))
        for wrong, what in refused:
            if wrong.any():
                distinct, counts = np.unique(data[wrong], return_counts=True)
                listed = [f"{v:g} ({n} voxels)" for v, n in zip(distinct, counts, strict=True)]
                raise DataError(
                    f"{path}: labels {what}: {first_of(listed, _MOST_LISTED)}; expected"
                    f" {self}, so {self.remedy}"
                )
        if self.tissues == TISSUES and not found.any():  # each brain has these; lesions, not each
            raise DataError(f"{path}: no voxel is labelled; download or draw the labels again")
        return found

    def written(self, classes: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Classes as label files hold them, in the smallest unsigned dtype."""
        first = np.array([values[0] for values in self.values])
        return first.astype(np.min_scalar_type(first.max()))[classes]


IBSR = TissueCodes(
    TISSUES,
    ((BACKGROUND,), (CSF,), (GM,), (WM,)),
    "map them (IBSR: the segTRI files, not seg_ana with its structures)",
)
