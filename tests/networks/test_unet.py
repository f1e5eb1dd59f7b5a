"""U-Net: published counts and widths, geometry, receptive field."""

import itertools

import pytest
import torch
from torch import nn

from psc import make_unit
from psc.errors import ConfigError
from psc.networks import unet
from psc.networks.unet import UNet

BLOCKS = {
    "3d": make_unit("conv3d"),
    "p1sc1": make_unit(m=1, n=1),
    "p2sc2": make_unit(m=2, n=2),
    "p2sc3": make_unit(m=2, n=3),
    "p3sc2": make_unit(m=3, n=2),
}


def on_meta(block, **options):
    with torch.device("meta"):
        return UNet(BLOCKS[block], **options)


@pytest.mark.parametrize(
    ("block", "parameters"), [("3d", 25_178_811), ("p1sc1", 12_574_139), ("p2sc2", 15_698_611)]
)
def test_published_parameter_counts(block, parameters):
    assert sum(p.numel() for p in on_meta(block).parameters()) == parameters


@pytest.mark.parametrize("block", ["3d", "p1sc1", "p2sc2"])
def test_132_voxels_give_44(block):
    network = on_meta(block)
    assert network.output_size(132) == 44
    x = torch.zeros(1, 1, 132, 132, 132, device="meta")
    assert network(x).shape == (1, 3, 44, 44, 44)


def test_layer_widths_of_p2sc2_are_the_authors():
    network = on_meta("p2sc2")
    for units, expected in (
        (
            network.encoder,
            [(1, 4, 4, 12), (24, 54, 54, 36), (72, 162, 162, 108), (216, 486, 486, 324)],
        ),
        (network.decoder, [(432, 216, 216, 108), (144, 72, 72, 36), (48, 24, 24, 12)]),
    ):
        for unit, widths in zip(units, expected, strict=True):
            (block,) = unit.blocks
            assert len(block.streams) == 2
            for stream in block.streams:
                convolutions = [part.conv for part in stream]
                assert [c.in_channels for c in convolutions] == list(widths[:-1])
                assert [c.out_channels for c in convolutions] == list(widths[1:])
                assert max(convolutions[-1].kernel_size) == 5


def test_layer_widths_of_p1sc1_are_the_authors():
    network = on_meta("p1sc1")
    widths = [
        [block.width for block in unit.blocks] for unit in (*network.encoder, *network.decoder)
    ]
    assert widths == [[w, w] for w in (8, 72, 216, 512, 216, 72, 24)]


def test_initialisation_is_he_with_zero_biases():
    torch.manual_seed(0)
    network = UNet(BLOCKS["3d"], base_width=16, depth=1)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            assert not module.bias.any()
    weight = network.encoder[1].layers.conv_2.conv.weight  # 48 → 48
    assert weight.std().item() == pytest.approx((2 / (48 * 27)) ** 0.5, rel=0.02)


def test_summed_streams_are_initialised_as_one_convolution_of_all_their_inputs():
    torch.manual_seed(0)
    network = UNet(make_unit(m=2, n=2, merge="sum"), base_width=16, depth=1)
    (block,) = network.encoder[1].blocks
    for stream in block.streams:
        variance = stream.axis.conv.weight.var().item()
        assert variance == pytest.approx(2 / (2 * block.width * 5), rel=0.05)
        assert stream.plane_2.conv.weight.var().item() == pytest.approx(
            2 / (block.width * 9), rel=0.05
        )


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", [1, 2])
def test_output_size_is_what_forward_returns(block, padding, depth):
    with torch.device("meta"):
        network = UNet(BLOCKS[block], base_width=3, growth=1, depth=depth, padding=padding)
    sizes = network.valid_input_sizes(1, 68)
    assert sizes
    assert all(b > a for a, b in itertools.pairwise(sizes))
    for size in (sizes[0], sizes[-1]):
        y = network(torch.zeros(1, 1, size, size, size, device="meta"))
        assert y.shape[2:] == (network.output_size(size),) * 3
    for size in set(range(1, 69)) - set(sizes):
        with pytest.raises(ConfigError):
            network.output_size(size)


def test_anisotropic_input():
    network = UNet(BLOCKS["p2sc2"], base_width=2, growth=1, depth=1)
    y = network(torch.zeros(1, 1, 18, 24, 30))
    assert y.shape == (1, 3, 2, 8, 14)


def test_input_size_for_is_the_smallest():
    network = on_meta("p2sc2")
    assert network.input_size_for(44) == 132
    assert network.input_size_for(43) == 132
    assert network.input_size_for(1) == network.valid_input_sizes(1, 200)[0]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("block", "depth"), [("3d", 1), ("p2sc2", 2), ("p2sc3", 1)])
def test_receptive_field_is_the_widest_that_a_gradient_reaches(block, depth, padding):
    network = UNet(BLOCKS[block], base_width=2, growth=1, depth=depth, padding=padding).double()
    network.pool = nn.AvgPool3d(2)  # a maximum would hide what it did not choose
    for parameter in network.parameters():
        parameter.data.abs_()
    size = 24 * network.period if padding == "same" else network.input_size_for(network.period)
    others = 2 * network.period if padding == "same" else size  # the span is looked for along x
    x = torch.rand((1, 1, others, others, size), dtype=torch.float64, requires_grad=True)
    y = network(x)
    spans = []
    for shift in range(network.period):
        z, y_, x_ = ((n - network.period) // 2 + shift for n in y.shape[2:])
        (gradient,) = torch.autograd.grad(y[0, :, z, y_, x_].sum(), x, retain_graph=True)
        spans.append(int((gradient[0, 0] != 0).any(0).any(0).sum()))
    assert max(spans) == network.receptive_field


def test_shifts_by_the_period_commute_and_others_do_not():
    torch.manual_seed(0)
    network = UNet(BLOCKS["p2sc2"], base_width=3, growth=2, depth=1).double()
    x = torch.rand(1, 1, 28, 28, 28, dtype=torch.float64)
    y = network(x[..., :26])
    shifted = network(x[..., 2:])
    torch.testing.assert_close(shifted[..., :-2], y[..., 2:])
    odd = network(x[..., 1:27])
    assert not torch.allclose(odd[..., :-1], y[..., 1:])


def test_a_size_it_cannot_take_names_the_nearest():
    with pytest.raises(ConfigError, match=r"131 voxels.*124 \(output 36\), 132 \(output 44\)"):
        on_meta("3d").output_size(131)
    with pytest.raises(ConfigError, match="nearest valid sizes: 92"):
        on_meta("3d").output_size(3)


@pytest.mark.parametrize("option", ["base_width", "growth", "depth"])
def test_sizes_below_one_are_refused(option):
    with pytest.raises(ConfigError, match=option):
        UNet(BLOCKS["3d"], **{option: 0})


def test_compiles_in_one_graph_to_the_same_numbers_and_names():
    torch.manual_seed(0)
    network = UNet(BLOCKS["p2sc2"], base_width=3, growth=2, depth=1)
    x = torch.rand(1, 1, 20, 20, 20)
    expected, names = network(x), list(network.state_dict())
    network.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(network(x), expected)
    assert list(network.state_dict()) == names  # checkpoints do not depend on compilation


def plainly(pool, x, size):
    """What ``_pool_and_crop`` stands for."""
    margins = [(whole - part) // 2 for whole, part in zip(x.shape[2:], size, strict=True)]
    box = tuple(slice(m, m + n) for m, n in zip(margins, size, strict=True))
    return pool(x), x[(..., *box)]


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("depth", [1, 2])
def test_pooling_and_cropping_in_one_step_have_autograds_gradients(monkeypatch, padding, depth):
    torch.manual_seed(0)
    network = UNet(BLOCKS["p2sc2"], base_width=2, growth=2, depth=depth, padding=padding).double()
    x = torch.rand(2, 1, 44, 44, 48, dtype=torch.float64, requires_grad=True)

    def gradients():
        loss = network(x).square().mean()
        return torch.autograd.grad(loss, [x, *network.parameters()])

    steps = []
    step = unet._PoolAndCrop.apply
    monkeypatch.setattr(unet._PoolAndCrop, "apply", lambda *a: steps.append(a) or step(*a))
    found = gradients()
    assert len(steps) == depth
    monkeypatch.setattr(unet, "_pool_and_crop", plainly)
    torch.testing.assert_close(found, gradients(), rtol=1e-12, atol=1e-14)


def test_pooling_and_cropping_can_be_differentiated_twice_forward_and_per_sample():
    def both(x):
        return unet._PoolAndCrop.apply(x, [4, 2, 4])[:2]

    def loss(x):
        return sum(part.square().sum() for part in both(x[None]))

    torch.manual_seed(0)
    x = torch.rand(2, 2, 6, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(both, (x,), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(both, (x,), fast_mode=True)
    (expected,) = torch.autograd.grad(sum(loss(sample) for sample in x), x)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x.detach()), expected)


def test_a_pool_that_is_watched_or_another_is_called():
    network = UNet(BLOCKS["p2sc2"], base_width=2, growth=1, depth=2)
    x = torch.rand(1, 1, 44, 44, 44)
    expected, shapes = network(x), []
    hook = network.pool.register_forward_hook(lambda _m, _x, y: shapes.append(y.shape[2:]))
    torch.testing.assert_close(network(x), expected)
    assert shapes == [(20, 20, 20), (8, 8, 8)]
    hook.remove()
    network.pool = nn.AvgPool3d(2)
    assert not torch.allclose(network(x), expected)


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_gives_the_same_numbers(strict):
    network = UNet(BLOCKS["p2sc2"], base_width=2, growth=1, depth=1)
    x = torch.rand(1, 1, 20, 20, 20)
    program = torch.export.export(network, (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), network(x))


@pytest.mark.parametrize(("block", "depth"), [("3d", 1), ("p2sc3", 1), ("p2sc2", 2)])
def test_the_unpadded_twin_gives_the_centre_of_what_padding_gives(block, depth):
    torch.manual_seed(0)
    network = UNet(BLOCKS[block], base_width=3, growth=1, depth=depth, padding="same").double()
    twin = network.unpadded()
    assert all(a is b for a, b in zip(network.parameters(), twin.parameters(), strict=True))
    assert network.padding == "same"
    assert network.spoilt_margin > twin.spoilt_margin == 0
    inner = twin.input_size_for(2 * twin.period)
    assert twin.output_size(inner) < inner
    # Poolings fall alike, and no zero of the padding reaches what is compared.
    margin = network.spoilt_margin  # rounded up to whole periods
    start = network._reach // 2 + -(-margin // network.period) * network.period
    size = -(-(2 * start + inner) // network.period) * network.period
    x = torch.rand(1, 1, size, size, size, dtype=torch.float64)
    with torch.no_grad():
        whole = network(x)
        part = twin(x[(..., *[slice(start, start + inner)] * 3)])
    first = start + (inner - part.shape[-1]) // 2
    centre = whole[(..., *[slice(first, first + part.shape[-1])] * 3)]
    assert centre.std() > 1e-4
    torch.testing.assert_close(part, centre, rtol=1e-9, atol=1e-12)
    assert twin.unpadded() is twin
