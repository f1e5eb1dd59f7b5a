"""Upsampling in one step: sizes, and which coarse voxels each fine one depends on."""

import pytest
import torch

from psc.networks.unet import sources, upsampler


@pytest.mark.parametrize("upsampling", ["interpolation", "transposed"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_sources_are_the_coarse_voxels_that_a_gradient_reaches(factor, upsampling):
    up = upsampler(4, 2, factor, upsampling)
    for parameter in up.parameters():
        parameter.data.abs_()  # nothing cancels
    x = torch.rand(1, 4, 1, 5, 1, requires_grad=True)
    y = up(x)
    assert y.shape == (1, 2, factor, 5 * factor, factor)
    for position in range(factor, 4 * factor):  # away from the border
        voxel = y[0, :, 0, position, 0].sum()
        (gradient,) = torch.autograd.grad(voxel, x, retain_graph=True)
        reached = gradient.abs().sum((0, 1, 2, 4)).nonzero().flatten().tolist()
        first, last = sources(position, factor, upsampling)
        assert reached == list(range(first, last + 1))
