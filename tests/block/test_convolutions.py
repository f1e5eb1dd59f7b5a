"""One convolution: which parts it has, in which order, and where a bias is."""

import pytest
from torch import nn

from psc.block.convolution import ConvolutionOptions, convolution


def parts(*, last=False, **options):
    """Names of the parts in their order, and whether the convolution has a bias."""
    options = ConvolutionOptions(**options)
    built = convolution(2, 3, (3, 3, 3), (1, 1, 1), options, last=last)
    return [name for name, _ in built.named_children()], built.conv.bias is not None


def test_without_normalisation_it_has_a_bias():
    assert parts() == (["conv", "activation"], True)
    assert parts(last=True, final_activation=False) == (["conv"], True)


@pytest.mark.parametrize("last", [False, True])
def test_final_norm_only_matters_where_no_activation_follows(last):
    raw = ["conv"] if last else ["conv", "norm", "activation"]
    normalised = ["conv", "norm"] if last else ["conv", "norm", "activation"]
    bare = {"norm": nn.BatchNorm3d, "final_activation": False, "last": last}
    assert parts(**bare) == (normalised, False)
    assert parts(**bare, final_norm=False) == (raw, last)  # raw: no normalisation shifts it
    active = ["conv", "norm", "activation"]
    assert parts(norm=nn.BatchNorm3d, final_norm=False, last=last) == (active, False)
    before = {"norm": nn.BatchNorm3d, "pre_activation": True, "last": last}
    assert parts(**before, final_norm=False) == parts(**before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [None, nn.BatchNorm3d])
@pytest.mark.parametrize("pre_activation", [True, False])
def test_a_given_bias_overrides_the_rule(pre_activation, norm, bias):
    names, has_bias = parts(norm=norm, pre_activation=pre_activation, bias=bias)
    assert has_bias is bias
    assert names == parts(norm=norm, pre_activation=pre_activation)[0]
