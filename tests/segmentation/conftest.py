"""Volumes whose segmentation is known."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from psc.segmentation.affinities import affinities_from_labels
from psc.segmentation.labels import split_disconnected


@pytest.fixture(scope="session")
def blobs() -> Callable[..., np.ndarray]:
    """Factory of Voronoi cells, ids 1..N, that fill a volume."""

    def make(shape: tuple[int, int, int], cells: int, seed: int = 0) -> np.ndarray:
        generator = np.random.default_rng(seed)
        voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        centres = generator.uniform(0, 1, (cells, 3)) * shape
        distance = ((voxels[..., np.newaxis, :] - centres) ** 2).sum(-1)
        return split_disconnected(distance.argmin(-1) + 1)

    return make


@pytest.fixture(scope="session")
def smooth_affinities() -> Callable[[np.ndarray], np.ndarray]:
    """What a good network says: low on both sides of a boundary, high two voxels away from it."""

    def make(labels: np.ndarray) -> np.ndarray:
        true, mask = affinities_from_labels(labels, zero_label="boundary")
        inside = np.where(mask, true, 1).min(axis=0)
        logits = 4 * np.tanh((ndimage.distance_transform_edt(inside) - 1) / 1.5)
        return (1 / (1 + np.exp(np.where(mask, 1.0 - true, 0) - logits))).astype(np.float32)

    return make
