"""merge_linear undoes convert where no non-linearity stands between."""

import pytest
import torch
from torch import nn

from psc import convert, merge_linear
from psc.conversion import composed_weight
from psc.errors import ConfigError


@pytest.mark.parametrize("merge", ["concatenate", "sum"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_exact_conversion_and_merging_give_the_original_weights(odd, m, merge):
    back = merge_linear(convert(odd, m, width=None, merge=merge).model)
    expected = odd.state_dict()
    assert back.state_dict().keys() == expected.keys()
    for name, tensor in back.state_dict().items():
        assert (tensor - expected[name]).abs().max() <= 1e-6 * expected[name].abs().max(), name


def test_so_does_a_kernel_of_lower_rank_by_its_svd():
    # A sum of four separable terms is found by four filters of sixteen: no shortcut for exactness.
    torch.manual_seed(0)
    layer = nn.Conv3d(6, 8, 3)
    with torch.no_grad():
        plane, line = torch.randn(4, 6, 3, 3), torch.randn(8, 4, 3)
        layer.weight.copy_(torch.einsum("omd,mihw->oidhw", line, plane))
    converted = convert(layer, width=4)
    assert converted.report.layers[0].widths == (4,)
    assert converted.report.layers[0].relative_error < 1e-6
    merged = merge_linear(converted.model)
    assert (merged.weight - layer.weight).abs().max() <= 1e-6 * layer.weight.abs().max()


@pytest.mark.parametrize("merge", ["concatenate", "sum"])
def test_a_merged_network_computes_what_the_converted_one_did(odd, odd_input, merge):
    converted = convert(odd, 2, merge=merge, sweeps=2).model.eval()
    merged = merge_linear(converted)
    difference = merged(odd_input) - converted(odd_input)
    assert difference.abs().max() < 1e-4 * converted(odd_input).abs().max()
    assert type(merged.stem) is nn.Conv3d


def test_mode_hooks_and_requires_grad_are_kept_in_place_too(odd, odd_input):
    calls = []
    odd.stem.weight.requires_grad_(False)
    odd.stem.eval()
    odd.stem.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    converted = convert(odd, 2).model
    assert merge_linear(converted, inplace=True) is converted
    assert [p.requires_grad for p in converted.stem.parameters()] == [False, True]
    assert not converted.stem.training
    converted(odd_input)
    assert calls == ["Conv3d"]


def test_dtype_is_kept():
    converted = convert(nn.Conv3d(2, 4, 3, dtype=torch.bfloat16), 2, width=None).model
    assert composed_weight(converted).dtype == torch.float32
    assert merge_linear(converted).weight.dtype == torch.bfloat16


def test_what_cannot_be_merged_is_named(odd):
    bent = convert(odd, include=["stem", "blocks.same"], activation=nn.ReLU).model
    with pytest.raises(ConfigError, match=r"convolutions of stem, blocks\.same"):
        merge_linear(bent)
    with pytest.raises(ConfigError, match=r"no layer that psc\.convert made"):
        merge_linear(odd)
