import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from psc.mri.settings import TissueRecipeConfig
from psc.mri.testing import predict_probabilities

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))  # as if the script were started
from benchmarks.timing import peak_extra_mb


def recipe(size, **options):
    """Windows of that size."""
    training = {"name": "r", "iterations": 1, "validate_every": 1, "batch_size": 1}
    return TissueRecipeConfig(**training, patch_size=size, **options)


class Blur(nn.Module):
    """Logits of two classes: the mean over a cube of ``reach`` voxels each side, zero padded."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.mean = nn.AvgPool3d(2 * reach + 1, stride=1, padding=reach)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = self.mean(x)
        return torch.cat([mean, -mean], dim=1)


def whole(network, image):
    with torch.inference_mode():
        return network(torch.from_numpy(image)[None, None]).softmax(dim=1)[0].numpy()


@pytest.fixture
def image():
    return np.random.default_rng(0).normal(size=(40, 33, 52)).astype(np.float32)


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_a_network_that_sees_one_voxel_gives_the_same_in_windows(image, blending, overlap):
    windows = recipe(16, overlap=overlap, blending=blending, evaluation_batch_size=3)
    found = predict_probabilities(Blur(0), image, windows)
    np.testing.assert_allclose(found, whole(Blur(0), image), atol=1e-5)


def test_a_window_as_large_as_the_volume_gives_the_same(image):
    found = predict_probabilities(Blur(3), image, recipe(52))
    np.testing.assert_allclose(
        found[:, 3:-3, 3:-3, 3:-3], whole(Blur(3), image)[:, 3:-3, 3:-3, 3:-3], atol=1e-6
    )


def test_windows_equal_the_whole_wherever_every_window_sees_the_receptive_field(image):
    size, reach = 20, 2
    found = predict_probabilities(Blur(reach), image, recipe(size))
    expected = whole(Blur(reach), image)
    spoilt = np.zeros(image.shape, dtype=bool)  # within reach of a window's face inside the volume
    for axis, length in enumerate(image.shape):
        starts = [*range(0, length - size, size // 2), length - size]
        near = np.zeros(length, dtype=bool)
        for start in starts:
            if start > 0:
                near[start : start + reach] = True
            if start + size < length:
                near[start + size - reach : start + size] = True
        shape = [1, 1, 1]
        shape[axis] = -1
        spoilt |= near.reshape(shape)
    assert 0.2 < (~spoilt).mean() < 0.8
    difference = np.abs(found - expected).max(axis=0)
    assert difference[~spoilt].max() < 1e-6
    assert difference[spoilt].max() > 1e-3


def test_probabilities_sum_to_one_and_the_image_is_untouched(image):
    before = image.copy()
    found = predict_probabilities(Blur(1), image, recipe(16, evaluation_batch_size=1))
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(image, before)


def test_a_volume_smaller_than_the_window_is_padded_with_background():
    image = np.full((5, 6, 7), 2.0, dtype=np.float32)
    seen = []

    def network(x):
        seen.append(x)
        return Blur(0)(x)

    found = predict_probabilities(network, image, recipe(8), background=-3.0)
    assert found.shape == (2, 5, 6, 7)
    assert set(seen[0].unique().tolist()) == {-3.0, 2.0}
    assert (seen[0] == 2.0).sum() == image.size


def test_blending_weighs_the_middle_of_a_window_more(image):
    """Windows that disagree: each says how many came before it."""
    calls = iter(range(1000))

    def network(x):
        value = float(next(calls))
        return torch.stack([torch.full(x.shape[2:], value), torch.zeros(x.shape[2:])])[None]

    line = image[:16, :16, :24]
    found = predict_probabilities(network, line, recipe(16, evaluation_batch_size=1))
    first, second = (np.exp(v) / (1 + np.exp(v)) for v in (0.0, 1.0))
    along = found[0, 8, 8]
    np.testing.assert_allclose(along[:8], first, atol=1e-6)
    np.testing.assert_allclose(along[16:], second, atol=1e-6)
    assert np.all(np.diff(along[8:16]) > 0)


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells a process's peak"
)
def test_memory_for_a_whole_volume_is_bounded():
    """Four classes of 192×128×128 voxels are 50 MB; sums, weights and what is kept may add 150."""
    network, windows = nn.Conv3d(1, 4, 1), recipe(64, overlap=0.0)
    predict_probabilities(network, np.zeros((64, 64, 64), np.float32), windows)
    image = np.ones((192, 128, 128), np.float32)
    peak = peak_extra_mb(lambda: predict_probabilities(network, image, windows), "cpu")
    assert 50 < peak < 200
