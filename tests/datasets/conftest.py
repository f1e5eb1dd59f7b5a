import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from psc.datasets.volumes import Volume


@pytest.fixture(scope="session")
def sample_em() -> Path:
    """Folder of the real EM sample."""
    root = os.environ.get("PSC_SAMPLE_DATA")
    if not root:
        pytest.skip("PSC_SAMPLE_DATA is not set")
    return Path(root) / "em"


@pytest.fixture
def make_volume() -> Callable[..., Volume]:
    """Volumes of random grey values and blocky labels without 0."""

    def make(shape=(20, 18, 16), *, seed=0, name="volume", dtype=np.uint8, **changes) -> Volume:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(1, 9, [-(-size // 4) for size in shape], dtype=np.uint64)
        labels = np.kron(coarse, np.ones((4, 4, 4), np.uint64))
        parts = {
            "raw": rng.integers(0, 256, shape).astype(dtype),
            "labels": labels[tuple(slice(size) for size in shape)] * 1000,
            "voxel_size": None,
            "name": name,
            "synthetic": False,
            "files": ({"name": f"{name}.h5", "bytes": 1, "sha256": "0"},),
        }
        return Volume(**(parts | changes))

    return make
