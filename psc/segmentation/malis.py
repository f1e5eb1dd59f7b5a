"""MALIS: how many pairs of voxels depend on each affinity (Turaga et al. 2009, Funke et al. 2018).

Two voxels end up in one segment as soon as the threshold falls below their maximin affinity: the
lowest affinity on the best path between them. That lowest edge is the one that joins them when a
maximum spanning tree is built (Kruskal), so one pass over the sorted edges counts all pairs.

Where affinities are equal, the edge that comes first in the flattened (3, D, H, W) array is taken
first; so the counts are a function of the input and of nothing else. A voxel of label 0 is in no
pair, but paths lead through it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from psc.errors import DataError
from psc.segmentation.affinities import checked_affinities
from psc.segmentation.edge_order import (
    ALL_EDGES,
    DIFFERENT,
    LARGEST_VOLUME,
    SAME,
    UNKNOWN,
    edge_kinds,
    edges_by_affinity,
)
from psc.segmentation.labels import relabel_consecutive
from psc.segmentation.pair_counts import count_pairs, join_objects, singletons

__all__ = [
    "PairCounts",
    "VoxelGraph",
    "constrained_counts",
    "malis_pairs",
    "pair_weights",
]

_Labels = npt.NDArray[np.integer[Any]]
_Mask = npt.NDArray[np.bool_]
_Counts = npt.NDArray[np.int64]


class PairCounts(NamedTuple):
    """Pairs of labelled voxels by the edge that joins them.

    Attributes:
        positive: int64 (3, D, H, W), pairs of voxels with the same label.
        negative: int64 (3, D, H, W), pairs with different labels.
    """

    positive: _Counts
    negative: _Counts


def malis_pairs(affinities: npt.NDArray[Any], labels: _Labels) -> PairCounts:
    """Count the pairs of voxels whose maximin edge each edge is.

    Args:
        affinities: (3, D, H, W) in [0, 1], of a voxel and its predecessor along z, y, x; compared
            as float32. Those of voxels without predecessor have no meaning.
        labels: integers (D, H, W), no negative ones; 0 is in no pair.

    Returns:
        Counts; together they are all pairs of labelled voxels, since a grid is connected.

    Raises:
        DataError: affinities outside [0, 1], labels that are no ids, or shapes that differ.
    """
    return VoxelGraph.of(affinities, labels).all_counts()


def constrained_counts(
    affinities: npt.NDArray[Any], labels: _Labels, mask: _Mask | None = None
) -> PairCounts:
    """Count pairs in two passes, each of which knows the truth about the other one's edges.

    The target of an edge is 1 where both voxels have the same label, not 0, else 0. The positive
    pass runs on min(affinity, target): no path leaves an object, so positive pairs fall on edges
    inside. The negative pass runs on max(affinity, target): objects are whole, so negative pairs
    fall on edges between them (Funke et al. 2018).

    An edge without known target keeps its affinity in both passes, and gets no pairs. Nor does an
    edge that a pass has set to its target: where pieces of an object meet only outside the crop,
    no affinity in it can join them. The authors' code for TensorFlow (TuragaLab/malis) drops these
    pairs too; in their earlier layer for Caffe they raised affinities of boundaries. Among equals,
    edges set to 1 come first and edges set to 0 last; the rest is as in ``malis_pairs``.

    Args:
        affinities: as for ``malis_pairs``.
        labels: as for ``malis_pairs``; ids of whole objects, not of their pieces in a crop.
        mask: bool (3, D, H, W), False where the target is unknown. Default: known where neither
            voxel has label 0. With True at a label 0, that is boundary, and the target 0.

    Returns:
        Positive counts of the first pass, negative ones of the second.

    Raises:
        DataError: as ``malis_pairs``, or a mask of another dtype or shape.
    """
    graph = VoxelGraph.of(affinities, labels, mask)
    return PairCounts(graph.positive_counts(), graph.negative_counts())


def pair_weights(counts: _Counts, pairs: int | None = None) -> npt.NDArray[np.float32]:
    """Counts as fractions of a number of pairs.

    Args:
        counts: positive or negative ones, int64.
        pairs: their number; None: the sum of the counts.

    Returns:
        float32 of the same shape; 0 where there are no pairs.
    """
    total = int(counts.sum()) if pairs is None else pairs
    weights = np.empty(counts.shape, dtype=np.float32)
    np.multiply(counts, 1 / max(total, 1), out=weights, dtype=np.float64, casting="unsafe")
    return weights


@dataclass(frozen=True, eq=False)
class VoxelGraph:
    """Affinities and labels, ready for the passes, which may run in two threads at once.

    Attributes:
        bits: uint32 (3·D·H·W,), the bits of the float32 affinities.
        kinds: uint8 (3·D·H·W,), what the labels say about each edge.
        labels: int32 (D·H·W,), dense, 0 in no pair.
        shape: (D, H, W).
    """

    bits: npt.NDArray[np.uint32]
    kinds: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    shape: tuple[int, int, int]

    @staticmethod
    def of(
        affinities: npt.NDArray[Any], labels: _Labels, mask: _Mask | None = None
    ) -> "VoxelGraph":
        """Check the arguments of ``constrained_counts`` and bring them into form.

        Raises:
            DataError: see there.
        """
        affinities = checked_affinities(affinities)
        dense, _ = relabel_consecutive(labels)
        if dense.shape != affinities.shape[1:]:
            raise DataError(
                f"labels have shape {dense.shape}, affinities {affinities.shape}; labels must have"
                " the last three sizes of the affinities"
            )
        if dense.size > LARGEST_VOLUME:
            raise DataError(
                f"{dense.size} voxels, of which {LARGEST_VOLUME} can be numbered; give a crop"
            )
        if mask is None:
            mask = np.empty((3, 0, 0, 0), dtype=np.bool_)
        elif mask.dtype != np.bool_ or mask.shape != affinities.shape:
            raise DataError(
                f"the mask must be bool of shape {affinities.shape}, found {mask.dtype} of shape"
                f" {mask.shape}"
            )
        kinds = edge_kinds(dense, np.ascontiguousarray(mask))
        depth, height, width = dense.shape
        flat = affinities.view(np.uint32).reshape(-1)
        return VoxelGraph(flat, kinds.reshape(-1), dense.reshape(-1), (depth, height, width))

    def all_counts(self) -> PairCounts:
        """``malis_pairs``."""
        edges = edges_by_affinity(self.bits, self.kinds, ALL_EDGES, 0)
        return self._count(edges, *singletons(self.labels))

    def positive_counts(self) -> _Counts:
        """The positive pass of ``constrained_counts``.

        Edges of target 0 come last in it and get no pairs: they are left out.
        """
        edges = edges_by_affinity(self.bits, self.kinds, SAME, UNKNOWN)
        return self._count(edges, *singletons(self.labels)).positive

    def negative_counts(self) -> _Counts:
        """The negative pass of ``constrained_counts``.

        Edges of target 1 come first in it and get no pairs: they join objects in any order.
        """
        parents, contents = singletons(self.labels)
        join_objects(parents, contents, self.kinds, self._steps)
        edges = edges_by_affinity(self.bits, self.kinds, DIFFERENT, UNKNOWN)
        return self._count(edges, parents, contents).negative

    def labelled_pairs(self) -> tuple[int, int]:
        """Numbers of pairs of labelled voxels with the same and with different labels."""
        sizes = [int(size) for size in np.bincount(self.labels)[1:]]
        same = sum(size * (size - 1) // 2 for size in sizes)
        return same, sum(sizes) * (sum(sizes) - 1) // 2 - same

    @property
    def _steps(self) -> npt.NDArray[np.int64]:
        _, height, width = self.shape
        return np.array([height * width, width, 1], dtype=np.int64)

    def _count(self, edges: Any, parents: Any, contents: Any) -> PairCounts:
        shape = (3, *self.shape)
        counts = PairCounts(np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64))
        flat = (array.reshape(-1) for array in counts)
        count_pairs(edges, parents, contents, self._steps, *flat)
        return counts
