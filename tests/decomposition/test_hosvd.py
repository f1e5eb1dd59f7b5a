"""The decomposition before Eq. 2, against its definition and against NumPy's SVD."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psc.decomposition import dropped_energy, hosvd
from psc.errors import ConfigError

# Non-cubic, of extent one, and so thin (5×1×1) that an unfolding has fewer columns than rows.
kernels = st.tuples(
    st.lists(st.integers(1, 3), max_size=2),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)


def drawn(kernel):
    batch, sizes, channels, seed = kernel
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(*batch, *sizes, channels)))


def numpy_unfolding(kernel, axis):
    return np.moveaxis(kernel.numpy(), axis, 0).reshape(kernel.shape[axis], -1)


@settings(max_examples=25)
@given(kernels)
def test_hosvd_reproduces_the_kernel(kernel):
    a = drawn(kernel)
    parts = hosvd(a)
    assert (parts.reconstruct() - a).abs().max() <= 1e-12
    assert parts.core.dtype == torch.float64
    # The definition, written out: an oracle for the mode products.
    expected = torch.einsum("...ijkc,...xi,...yj,...zk->...xyzc", parts.core, *parts.factors)
    assert (expected - a).abs().max() <= 1e-12


@settings(max_examples=25)
@given(kernels)
def test_hosvd_factors_are_orthonormal_and_thin(kernel):
    a = drawn(kernel)
    for axis, u in enumerate(hosvd(a).factors):
        extent = a.shape[axis - 4]
        others = a[(0,) * (a.ndim - 4)].numel() // extent
        assert u.shape == (*a.shape[:-4], extent, min(extent, others))
        assert (u.mT @ u - torch.eye(u.shape[-1]).double()).abs().max() <= 1e-12


@settings(max_examples=25)
@given(kernels)
def test_hosvd_slices_of_the_core_are_orthogonal_with_singular_values_as_norms(kernel):
    parts = hosvd(drawn(kernel))
    for axis in range(3):
        rows = parts.core.movedim(axis - 4, -4).flatten(-3)
        gram = rows @ rows.mT
        expected = torch.diag_embed(parts.singular_values[axis].square())
        assert (gram - expected).abs().max() <= 1e-12 * (1 + expected.max())


def test_hosvd_singular_values_are_numpys_and_a_batch_is_a_loop(normal):
    a = normal(2, 3, 3, 5, 2, 4)
    parts = hosvd(a)
    for i, j in np.ndindex(2, 3):
        single = hosvd(a[i, j])
        for axis in range(3):
            expected = np.linalg.svd(numpy_unfolding(a[i, j], axis), compute_uv=False)
            np.testing.assert_allclose(parts.singular_values[axis][i, j], expected, atol=1e-12)
            torch.testing.assert_close(parts.factors[axis][i, j], single.factors[axis])
        torch.testing.assert_close(parts.core[i, j], single.core)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)],
)
def test_hosvd_keeps_the_dtype(normal, dtype, tolerance):
    a = normal(4, 3, 3, 3, 8, dtype=dtype)
    parts = hosvd(a)
    assert {parts.core.dtype, *(u.dtype for u in parts.factors)} == {dtype}
    assert (parts.reconstruct() - a).abs().max() <= tolerance


def test_hosvd_of_a_zero_kernel_is_zero():
    parts = hosvd(torch.zeros(3, 3, 3, 2))
    assert parts.core.abs().max() == 0
    assert parts.reconstruct().abs().max() == 0


def test_hosvd_is_differentiable(normal):
    selection = torch.tensor([[0, 0], [2, 1]])
    a = normal(2, 3, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda k: dropped_energy(hosvd(k).core, selection), (a,))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (torch.zeros(3, 3, 3), "J1, J2, J3, C"),
        (torch.zeros(3, 0, 3, 2), "none of them 0"),
        (torch.zeros(3, 3, 3, 2, dtype=torch.int8), "floating-point"),
        (torch.full((3, 3, 3, 2), torch.nan), "not finite"),
    ],
)
def test_hosvd_refuses_what_is_no_kernel(kernel, message):
    with pytest.raises(ConfigError, match=message):
        hosvd(kernel)
