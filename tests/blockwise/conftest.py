"""Volumes whose segmentation is known, cut into blocks."""

from collections.abc import Callable

import numpy as np
import pytest
from known_affinities import FromArray, content
from scipy import ndimage

from psc.blockwise.engine import Engine
from psc.blockwise.grid import Grid
from psc.blockwise.images import dequantised, quantised
from psc.blockwise.pipeline import BlockwiseOptions, segment_blockwise
from psc.em.affinities import affinities_from_labels
from psc.em.settings import SegmentationConfig
from psc.em.synthetic import synthetic_fibsem


@pytest.fixture(scope="session")
def noisy_affinities() -> Callable[..., np.ndarray]:
    """What a good network says: smooth, low beside boundaries, uncertain in places; as stored."""

    def make(labels: np.ndarray, seed: int = 0) -> np.ndarray:
        true, mask = affinities_from_labels(labels, zero_label="boundary")
        inside = np.where(mask, true, 1).min(axis=0)
        logits = 4 * np.tanh((ndimage.distance_transform_edt(inside) - 1) / 1.5)
        noise = np.random.default_rng(seed).standard_normal(true.shape)
        noise = ndimage.gaussian_filter(noise, (0, 1, 1, 1))
        logits = logits + 1.5 * noise / noise.std() - np.where(mask, 1.0 - true, 0)
        return dequantised(quantised((1 / (1 + np.exp(-logits))).astype(np.float32)))

    return make


@pytest.fixture(scope="session")
def neuropil(noisy_affinities) -> tuple[np.ndarray, np.ndarray]:
    """Labels and affinities of a synthetic EM volume."""
    _, labels = synthetic_fibsem((72, 80, 64), 0)
    return labels, noisy_affinities(labels)


@pytest.fixture(scope="session")
def options() -> Callable[..., BlockwiseOptions]:
    def make(threshold: float = 0.4, scoring: str = "hist_quant_50", **changes) -> BlockwiseOptions:
        segmentation = SegmentationConfig(scoring=scoring)
        return BlockwiseOptions(segmentation=segmentation, threshold=threshold, **changes)

    return make


@pytest.fixture(scope="session")
def small_case(noisy_affinities) -> tuple[FromArray, Grid]:
    """Affinities of 24³ voxels in eight blocks."""
    rng = np.random.default_rng(5)
    centres = rng.uniform(0, 24, (12, 3))
    voxels = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1)
    labels = ((voxels[..., None, :] - centres) ** 2).sum(-1).argmin(-1) + 1
    return FromArray(noisy_affinities(labels)), Grid((24, 24, 24), (12, 12, 12))


@pytest.fixture(scope="session")
def whole_content(small_case, options, tmp_path_factory):
    """What ``small_case`` gives if nothing interrupts it."""
    folder = tmp_path_factory.mktemp("whole") / "whole"
    source, grid = small_case
    segment_blockwise(source, {}, grid, options(), folder, engine=Engine(progress=False))
    return content(folder)
