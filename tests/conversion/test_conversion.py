"""convert keeps what a network is, and changes its kernels only as far as their rank says."""

import copy

import pytest
import torch
from torch import nn

import psc
from psc import ConvolutionOptions, PSCBlock, convert
from psc.block.block import stream_width
from psc.conversion import SeparableConv3d, composed_weight
from psc.conversion.layers import stream_widths
from psc.decomposition import factorise
from psc.errors import ConfigError


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize("merge", ["concatenate", "sum"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_an_exact_conversion_computes_the_same_with_every_option_of_a_conv3d(
    odd, odd_input, m, merge
):
    done = convert(odd, m, width=None, merge=merge, example_input=odd_input)
    assert all(part.training for model in (odd, done.model) for part in model.modules())
    assert odd.norm.num_batches_tracked == done.model.norm.num_batches_tracked == 0
    expected = odd(odd_input)
    assert relative(done.model(odd_input), expected) < 1e-5
    kept = [layer.name for layer in done.report.layers if layer.status == "kept"]
    assert kept == ["flat", "head"]
    assert len(done.report.converted) == 8
    # The network itself is as it was.
    assert isinstance(odd.stem, nn.Conv3d)
    assert torch.equal(odd.eval()(odd_input), copy.deepcopy(odd)(odd_input))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_one_filter_less_than_exact_is_still_near_by_svd(m):
    # Not the exact shortcut: every stream by its truncated SVD, channels shared out and put back.
    torch.manual_seed(0)
    layer = nn.Conv3d(4, 7, 3, padding=1, dtype=torch.float64)
    module = convert(layer, m, width=lambda _, conv: 3 * conv.out_channels // m - 1).model
    x = torch.randn(1, 4, 5, 5, 5, dtype=torch.float64)
    like = nn.Conv3d(4, 7, 3, padding=1, dtype=torch.float64)
    like.weight.data, like.bias.data = composed_weight(module), layer.bias.data
    assert relative(module(x), like(x)) < 1e-12  # the module IS the kernel that it says it has
    assert 0 < relative(composed_weight(module), layer.weight) < 0.3
    if m > 1:
        assert module.channel_order.tolist() != sorted(module.channel_order.tolist())


def test_the_kernels_are_the_nearest_of_their_width():
    torch.manual_seed(0)
    layer = nn.Conv3d(8, 8, 3)
    done = convert(layer)
    width = stream_width(8, 8, 1)
    _, error = factorise(layer.weight, 0, width)
    (row,) = done.report.layers
    assert row.widths == (width,)
    assert row.relative_error == pytest.approx(error.item(), rel=1e-4)
    random = convert(layer, init="random").report.layers[0]
    assert random.widths == row.widths
    assert random.relative_error > 0.9
    # Groups are layers of their own, each with its nearest kernel.
    grouped = nn.Conv3d(8, 8, 3, groups=2)
    parts = [factorise(w, 0, 5)[0].weight() for w in grouped.weight.detach().chunk(2)]
    assert relative(composed_weight(convert(grouped, width=5).model), torch.cat(parts)) < 1e-5


@pytest.mark.parametrize(
    ("m", "shape"), [(1, (16, 24)), (2, (16, 24)), (3, (1, 9)), (2, (600, 700))]
)
def test_shapes_are_those_of_the_papers_block(m, shape):
    with torch.device("meta"):
        layer = nn.Conv3d(*shape, 3)
        block = PSCBlock(*shape, m=m, n=1, options=ConvolutionOptions(activation=None))
    converted = convert(layer, m, init="random", activation=nn.Identity).model
    assert converted.widths == (block.width,) * m
    for s, stream in enumerate(block.streams):
        assert converted.planes(s)[0].weight.shape == stream.plane_1.conv.weight.shape
        assert converted.line(s).weight.shape == stream.axis.conv.weight.shape


def test_eq5_of_kernels_that_are_not_cubic_and_of_groups_saves_no_weight_but_adds_none():
    for layer in (
        nn.Conv3d(16, 20, (3, 7, 7)),
        nn.Conv3d(16, 20, (5, 3, 3)),
        nn.Conv3d(32, 64, 3, groups=4),
        nn.Conv3d(24, 24, 3, groups=24),
    ):
        for m in (1, 2, 3) if layer.groups < 24 else (1,):
            row = convert(layer, m, init="random", merge="sum").report.layers[0]
            before, after = row.parameters
            assert 0.6 * before <= after <= before


def test_widths_may_be_given_and_end_at_the_rank_unless_a_non_linearity_follows():
    layer = nn.Conv3d(2, 4, 3)  # rank 12 along each axis
    options = {"maximum": None, "m": 1, "merge": "concatenate"}
    assert stream_widths("a", [layer], width=5, linear=True, **options) == (5,)
    assert stream_widths("a", [layer], width=50, linear=True, **options) == (12,)
    assert stream_widths("a", [layer], width=50, linear=False, **options) == (50,)
    assert stream_widths("a", [layer], width=lambda name, _: len(name), linear=True, **options) == (
        1,
    )
    # Filters beyond the rank change nothing yet.
    wide = convert(layer, width=50, activation=nn.Identity).model
    assert relative(composed_weight(wide), layer.weight) < 1e-6
    assert wide.streams[0].plane.weight[12:].abs().min() > 0
    for value in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="width must be a whole number"):
            convert(layer, width=value)


def test_an_activation_stands_between_2d_and_1d():
    torch.manual_seed(0)
    module = convert(nn.Conv3d(2, 4, 3), 2, activation=nn.PReLU).model
    plane, activation, line = module.streams[0].children()
    x = torch.randn(1, 2, 4, 4, 4)
    assert isinstance(activation, nn.PReLU)
    assert not module.is_linear
    first = line(nn.functional.prelu(plane(x), torch.tensor([0.25])))
    assert torch.allclose(module.streams[0](x), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_returned(dtype):
    torch.manual_seed(0)
    layer = nn.Conv3d(3, 6, 3, dtype=dtype)
    done = convert(layer, 2, width=7)
    assert {p.dtype for p in done.model.parameters()} == {dtype}
    exact = convert(layer.float(), 2, width=7).report.layers[0].relative_error
    assert done.report.layers[0].relative_error == pytest.approx(exact, rel=0.02)


def test_mode_names_hooks_and_requires_grad_are_kept(odd, odd_input):
    calls = []
    odd.eval()
    odd.grouped.train()
    odd.stem.weight.requires_grad_(False)
    odd.blocks["same"].bias.requires_grad_(False)
    odd.stem.register_forward_hook(lambda module, x, y: calls.append(type(module).__name__))
    odd.stem.register_forward_pre_hook(lambda module, x, k: calls.append("pre"), with_kwargs=True)
    odd.stem.register_full_backward_hook(lambda *_: calls.append("backward"))
    names = [name for name, _ in odd.named_modules()]
    model = convert(odd, 2).model
    assert set(names) <= {name for name, _ in model.named_modules()}
    model(odd_input).sum().backward()
    assert calls == ["pre", "SeparableConv3d", "backward"]
    assert [p.requires_grad for p in model.stem.parameters()] == [False, False, True] * 2
    same = {name: p.requires_grad for name, p in model.blocks["same"].named_parameters()}
    assert [name for name, learns in same.items() if not learns] == [
        "streams.0.line.bias",
        "streams.1.line.bias",
    ]
    assert model.grouped.training
    assert all(part.training for part in model.grouped.modules())
    assert not any(part.training for part in model.stem.modules())


def test_in_place_handles_of_hooks_still_remove_them(odd, odd_input):
    calls = []
    handle = odd.stem.register_forward_hook(lambda *_: calls.append(1))
    assert convert(odd, inplace=True).model is odd
    assert isinstance(odd.stem, SeparableConv3d)
    odd(odd_input)
    handle.remove()
    odd(odd_input)
    assert calls == [1]
    with pytest.raises(ConfigError, match="use what is returned"):
        convert(nn.Conv3d(2, 2, 3), inplace=True)


def test_a_copy_holds_the_new_layers_in_plain_lists_too(odd, odd_input):
    odd.watched = [odd.stem]
    model = convert(odd, width=None).model
    assert model.watched[0] is model.stem
    assert odd.watched[0] is odd.stem


def test_layers_are_chosen_by_name_and_by_kernel_size(odd):
    def chosen(**options):
        return [row.name for row in convert(odd, init="random", **options).report.converted]

    assert chosen(include="blocks", exclude=["*.re*"]) == [
        "blocks.circular",
        "blocks.same",
        "blocks.valid",
    ]
    assert chosen(include=["stem", "d*"]) == ["stem", "depthwise"]
    assert chosen(kernel_sizes=[(3, 7, 5), 2]) == ["stem", "blocks.valid"]
    for options in ({"include": "block"}, {"exclude": ["stem", "nothing"]}):
        with pytest.raises(ConfigError, match="fits no 3D convolution; there are stem, flat"):
            convert(odd, **options)
    with pytest.raises(ConfigError, match="kernel_sizes"):
        convert(odd, kernel_sizes=[(3, 3)])


def test_state_dicts_go_from_one_conversion_to_another(odd, odd_input):
    trained = convert(odd, 3).model.eval()
    fresh = convert(odd, 3, init="random").model.eval()
    assert relative(fresh(odd_input), trained(odd_input)) > 1e-2
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(odd_input), trained(odd_input))


def test_volumes_without_a_batch_are_taken_as_by_conv3d():
    layer = nn.Conv3d(2, 5, 3, padding=1)
    x = torch.randn(2, 4, 4, 4)
    assert relative(convert(layer, 2, width=None).model(x), layer(x)) < 1e-5


def test_the_svd_draws_no_random_number(odd):
    before = torch.get_rng_state()
    convert(odd, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_convert_is_at_the_top():
    assert psc.convert is convert
    with pytest.raises(AttributeError, match="no attribute 'convrt'"):
        psc.convrt  # noqa: B018
