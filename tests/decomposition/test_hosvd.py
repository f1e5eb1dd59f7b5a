"""HOSVD by its definition and NumPy's SVD; Eq. 1 to 3: kernels are sums of separable ones."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from psc import ConvolutionOptions, PSCBlock
from psc.decomposition import (
    all_sub_tensors,
    compose,
    dropped_energy,
    greedy_selection,
    hosvd,
    ownership,
    separable_terms,
    split_core,
)
from psc.errors import ConfigError

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


@settings(max_examples=10)
@given(kernels)
def test_hosvd_reproduces_the_kernel(kernel):
    a = drawn(kernel)
    parts = hosvd(a)
    assert (parts.reconstruct() - a).abs().max() <= 1e-12
    assert parts.core.dtype == torch.float64
    # The definition, written out: an oracle for the mode products.
    expected = torch.einsum("...ijkc,...xi,...yj,...zk->...xyzc", parts.core, *parts.factors)
    assert (expected - a).abs().max() <= 1e-12


@settings(max_examples=10)
@given(kernels)
def test_hosvd_factors_are_orthonormal_and_thin(kernel):
    a = drawn(kernel)
    for axis, u in enumerate(hosvd(a).factors):
        extent = a.shape[axis - 4]
        others = a[(0,) * (a.ndim - 4)].numel() // extent
        assert u.shape == (*a.shape[:-4], extent, min(extent, others))
        assert (u.mT @ u - torch.eye(u.shape[-1]).double()).abs().max() <= 1e-12


@settings(max_examples=10)
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


sizes = st.tuples(*[st.integers(1, 4)] * 3)
seeds = st.integers(0, 2**32 - 1)
orders = st.permutations([0, 1, 2])


@st.composite
def kernels_and_selections(draw):
    """Two kernels (2, J1, J2, J3, C), non-cubic, and any list of sub-tensors in any order."""
    shape, channels = draw(sizes), draw(st.integers(1, 3))
    kernel = np.random.default_rng(draw(seeds)).normal(size=(2, *shape, channels))
    parts = hosvd(torch.from_numpy(kernel))
    pairs = all_sub_tensors(parts.core.shape[1:4]).tolist()
    selection = draw(st.lists(st.sampled_from(pairs), min_size=1, max_size=len(pairs) + 1))
    return torch.from_numpy(kernel), parts, torch.tensor(selection)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_eq1_a_separable_kernel_is_a_2d_and_a_1d_convolution(normal, axis, padded):
    x = normal(2, 3, 7, 8, 9)
    plane = normal(4, 3, 3, 5, seed=2).unsqueeze(2 + axis)
    shape = [5 if a == axis else 1 for a in range(3)]
    line = normal(5, seed=1).reshape(1, 1, *shape).expand(4, 1, *shape)  # one for all channels
    weight = plane * line

    def padding(kernel):
        return [size // 2 for size in kernel.shape[2:]] if padded else 0

    whole = F.conv3d(x, weight, padding=padding(weight))
    chain = F.conv3d(F.conv3d(x, plane, padding=padding(plane)), line, None, 1, padding(line), 1, 4)
    assert whole.shape == chain.shape
    assert (whole - chain).abs().max() <= 1e-12 * whole.abs().max()


def test_eq1_a_bias_in_between_is_right_but_at_a_zero_padded_border(normal):
    x, bias = normal(1, 2, 6, 6, 6), normal(3, seed=1)
    plane, line = normal(3, 2, 1, 3, 3, seed=2), normal(4, 3, 3, 1, 1, seed=3)
    whole = compose(plane, line)
    summed_bias = line.sum((2, 3, 4)) @ bias
    expected = F.conv3d(x, whole, summed_bias, padding=1)
    chain = F.conv3d(F.conv3d(x, plane, bias, padding=(0, 1, 1)), line, padding=(1, 0, 0))
    difference = (chain - expected).abs().amax((0, 1, 3, 4))  # by D, along which the line reads
    assert (difference[1:-1] <= 1e-12).all()
    assert (difference[[0, -1]] > 1e-2).all()


def test_eq3_with_a_relu_in_between_a_stream_is_not_linear(normal):
    x = normal(1, 2, 5, 5, 5)
    linear = PSCBlock(2, 4, m=2, n=1, options=ConvolutionOptions(activation=None, bias=False))
    relu = PSCBlock(2, 4, m=2, n=1, options=ConvolutionOptions(final_activation=False, bias=False))
    for block, is_odd in ((linear.double(), True), (relu.double(), False)):
        sum_of_opposites = (block(x) + block(-x)).abs().max()
        assert bool(sum_of_opposites <= 1e-12) is is_odd


@settings(max_examples=10)
@given(kernels_and_selections())
def test_eq2_every_entry_belongs_to_at_most_one_sub_tensor(case):
    _, parts, selection = case
    shape = tuple(parts.core.shape[1:4])
    owned = ownership(selection, shape)
    # The rule, entry by entry: the first pair on whose slice the entry lies.
    for entry in itertools.product(*map(range, shape)):
        on_slice = [entry[axis] == index for axis, index in selection.tolist()]
        expected = on_slice.index(True) if any(on_slice) else None
        owners = owned[(slice(None), *entry)].nonzero().flatten().tolist()
        assert owners == ([] if expected is None else [expected])


@settings(max_examples=10)
@given(kernels_and_selections())
def test_eq2_a_sub_tensor_is_zero_off_its_slice(case):
    _, parts, selection = case
    terms = split_core(parts.core, selection)
    for term, (axis, index) in enumerate(selection.tolist()):
        off_slice = terms[:, term].movedim(1 + axis, 0).clone()
        off_slice[index] = 0
        assert off_slice.abs().max() == 0


@settings(max_examples=10)
@given(kernels_and_selections(), orders)
def test_eq2_all_sub_tensors_sum_to_the_core(case, order):
    _, parts, _ = case
    everything = all_sub_tensors(parts.core.shape[1:4], order)
    assert torch.equal(split_core(parts.core, everything).sum(1), parts.core)


@settings(max_examples=10)
@given(kernels_and_selections(), orders)
def test_eq3_the_full_sum_reproduces_the_kernel(case, order):
    kernel, parts, _ = case
    everything = all_sub_tensors(parts.core.shape[1:4], order)
    groups = separable_terms(parts, everything)
    assert [group.axis for group in groups] == [0, 1, 2]
    assert (sum(group.kernel() for group in groups) - kernel).abs().max() <= 1e-12
    # Any order that ends with the others is complete too: the first axis takes all.
    assert dropped_energy(parts.core, all_sub_tensors(parts.core.shape[1:4], order[:1])).max() == 0


@settings(max_examples=10)
@given(kernels_and_selections())
def test_eq3_each_term_has_rank_one_along_its_own_axis(case):
    _, parts, selection = case
    for group in separable_terms(parts, selection):
        kernels = group.kernels()
        assert (kernels.sum(1) - group.kernel()).abs().max() <= 1e-12
        unfolded = kernels.movedim(2 + group.axis, 2).flatten(3)
        values = torch.linalg.svdvals(unfolded)
        assert (values[..., 1:] <= 1e-12).all()


@settings(max_examples=10)
@given(kernels_and_selections())
def test_eq3_the_truncation_error_is_the_dropped_energy(case):
    kernel, parts, selection = case
    truncated = sum(group.kernel() for group in separable_terms(parts, selection))
    error = (kernel - truncated).flatten(1).norm(dim=1)
    assert (error - dropped_energy(parts.core, selection).sqrt()).abs().max() <= 1e-12
    # What is left is a box: the product of the indices that are not selected.
    pairs = {tuple(pair) for pair in selection.tolist()}
    box = parts.core
    for axis in range(3):
        left = [i for i in range(parts.core.shape[1 + axis]) if (axis, i) not in pairs]
        box = box.index_select(1 + axis, torch.tensor(left, dtype=torch.long))
    assert (box.square().sum((1, 2, 3, 4)).sqrt() - error).abs().max() <= 1e-12


def test_eq3_terms_of_a_selection_are_orthogonal(normal):
    parts = hosvd(normal(3, 4, 2, 5))
    groups = separable_terms(parts, greedy_selection(parts.core, 5))
    terms = torch.cat([group.kernels() for group in groups]).flatten(1)
    gram = terms @ terms.mT
    assert (gram - torch.diag(gram.diagonal())).abs().max() <= 1e-12


def test_eq3_a_selection_per_kernel_is_a_loop(normal):
    parts = hosvd(normal(4, 3, 3, 3, 2))
    selection = greedy_selection(parts.core, 2)
    assert selection.shape == (4, 2, 2)
    groups = separable_terms(parts, selection)
    errors = dropped_energy(parts.core, selection)
    for i in range(4):
        single = hosvd(normal(4, 3, 3, 3, 2)[i])
        assert torch.equal(greedy_selection(single.core, 2), selection[i])
        torch.testing.assert_close(dropped_energy(single.core, selection[i]), errors[i])
        for group, alone in zip(groups, separable_terms(single, selection[i]), strict=True):
            torch.testing.assert_close(group.kernel()[i], alone.kernel())


@settings(max_examples=10)
@given(kernels_and_selections())
def test_eq3_greedy_takes_the_most_that_is_left_and_never_loses_by_another_term(case):
    _, parts, _ = case
    pairs = all_sub_tensors(parts.core.shape[1:4])
    selection = greedy_selection(parts.core, len(pairs))
    errors = [dropped_energy(parts.core, selection[:, :t]) for t in range(1, len(pairs) + 1)]
    for earlier, later in itertools.pairwise(errors):
        assert (later <= earlier + 1e-12).all()
    assert errors[-1].max() == 0
    for kernel in range(2):
        core = parts.core[kernel]
        best = min(float(dropped_energy(core, pair[None])) for pair in pairs)
        assert float(errors[0][kernel]) == pytest.approx(best, abs=1e-12)


def of_one_orientation(core, axis, terms):
    """Error of the first sub-tensors of an axis, those with the most energy."""
    selection = all_sub_tensors(core.shape[-4:-1], [axis])[:terms]
    return dropped_energy(core, selection).sqrt()


def test_eq3_the_best_orientation_is_the_truncated_svd_of_the_best_unfolding(normal):
    kernel = normal(6, 3, 2, 4, 2)
    core = hosvd(kernel).core
    for terms in (1, 2, 3):
        for axis in range(3):
            unfolded = kernel.movedim(1 + axis, 1).flatten(2).numpy()
            tails = np.linalg.svd(unfolded, compute_uv=False)[:, terms:]
            alone = of_one_orientation(core, axis, terms)
            np.testing.assert_allclose(alone, np.sqrt((tails**2).sum(1)), atol=1e-12)


def test_eq3_the_error_falls_with_the_orientations_to_choose_from(normal):
    core = hosvd(normal(16, 3, 3, 3, 4)).core
    alone = torch.stack([of_one_orientation(core, axis, 1) for axis in range(3)])
    errors = [alone[:m].amin(0) for m in (1, 2, 3)]
    assert errors[2].sum() < errors[1].sum() < errors[0].sum()


@pytest.mark.parametrize("pair", [(3, 0), (-1, 0), (0, 3), (1, -1)])
def test_a_sub_tensor_that_the_core_lacks_is_refused(pair):
    with pytest.raises(ConfigError, match=r"no sub-tensor \(axis, index\)"):
        split_core(torch.zeros(3, 3, 3, 1), torch.tensor([[0, 0], pair]))


def test_a_selection_of_another_form_is_refused():
    with pytest.raises(ConfigError, match="pairs"):
        ownership(torch.zeros(4, 3, dtype=torch.long), (3, 3, 3))


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda core: greedy_selection(core, 0), "1 to 9"),
        (lambda core: greedy_selection(core, 10), "1 to 9"),
        (lambda core: greedy_selection(core, 1, (0, 0)), "distinct"),
        (lambda core: greedy_selection(core, 1, (3,)), "distinct"),
    ],
)
def test_numbers_of_terms_and_axes_that_there_are_not_are_refused(choose, message):
    with pytest.raises(ConfigError, match=message):
        choose(torch.zeros(3, 3, 3, 1))


def test_eq3_one_orientation_is_enough_and_fewer_terms_are_not(normal):
    core = hosvd(normal(3, 2, 4, 2)).core
    pairs = all_sub_tensors(core.shape[:3]).tolist()
    assert float(dropped_energy(core, torch.tensor([[1, 0], [1, 1]]))) == 0  # min I_k = 2 terms
    for count in (1, 2, 3):
        for chosen in itertools.combinations(pairs, count):
            sliced = [sum(axis == a for axis, _ in chosen) for a in range(3)]
            complete = any(n == size for n, size in zip(sliced, core.shape, strict=False))
            error = float(dropped_energy(core, torch.tensor(chosen)))
            assert (error == 0) is complete
