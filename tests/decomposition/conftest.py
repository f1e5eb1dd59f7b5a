"""Random kernels in float64: shapes of every kind, from a seed so that failures repeat."""

import pytest
import torch


@pytest.fixture
def normal():
    """Function: float64 numbers from a standard normal distribution, by shape and seed."""

    def draw(*shape, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return draw
