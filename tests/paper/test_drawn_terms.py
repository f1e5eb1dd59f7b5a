"""The numbers behind Figure 2: they are a decomposition of a real kernel, checked without it."""

import pytest
import torch
from torch import nn

from psc.block.unit import make_unit
from psc.errors import ConfigError
from psc.networks.unet import UNet
from psc.paper.figure_2 import decompose, first_kernel


def test_the_kernel_is_the_first_of_a_seeded_unet():
    before = torch.random.get_rng_state()
    kernel = first_kernel(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = UNet(make_unit("conv3d"), depth=1)
    first = next(m for m in network.modules() if isinstance(m, nn.Conv3d))
    assert torch.equal(kernel.float(), first.weight[0, 0])
    assert not torch.equal(kernel, first_kernel(4))


@pytest.fixture(scope="module")
def found():
    return decompose(first_kernel())


def test_core_and_matrices_give_the_kernel(found):
    u1, u2, u3 = found.hosvd.factors
    core = found.hosvd.core[..., 0]
    torch.testing.assert_close(
        torch.einsum("abc,ia,jb,kc->ijk", core, u1, u2, u3), found.kernel, rtol=0, atol=1e-12
    )


def test_terms_add_up_and_so_do_their_energies(found):
    assert [(t.axis, t.index) for t in found.terms] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (0, 1),
        (1, 1),
        (2, 1),
        (0, 2),
    ]
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(sum(t.kernel for t in found.terms), found.kernel, **close)
    torch.testing.assert_close(sum(t.core for t in found.terms), found.hosvd.core[..., 0], **close)
    assert sum(t.owned.long() for t in found.terms).eq(1).all()
    assert sum(t.energy for t in found.terms) == pytest.approx(1)


def test_each_term_is_separable_along_its_axis(found):
    total = float(found.kernel.square().sum())
    for term in found.terms:
        letters = "ijk"
        others = letters.replace(letters[term.axis], "")
        product = torch.einsum(f"{letters[term.axis]},{others}->ijk", term.rod, term.plane)
        torch.testing.assert_close(product, term.kernel)
        unfolded = term.kernel.movedim(term.axis, 0).flatten(1)
        assert torch.linalg.matrix_rank(unfolded, rtol=1e-9) == 1
        # Off its slice a sub-tensor is zero (Eq. 2); its energy is its kernel's.
        off = term.core.clone()
        off.select(term.axis, term.index).zero_()
        assert not off.any()
        assert term.energy == pytest.approx(float(term.kernel.square().sum()) / total)


def test_what_is_no_kernel_is_refused():
    with pytest.raises(ConfigError, match="finite"):
        decompose(torch.full((3, 3, 3), torch.nan))
