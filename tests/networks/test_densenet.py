"""DenseNet: published counts, the two forms in plain functions, geometry, receptive field."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from psc import make_unit
from psc.errors import ConfigError
from psc.networks.densenet import DenseLayer, DenseNet, sources, upsampler

BLOCKS = {
    "3d": make_unit("conv3d"),
    "p1sc1": make_unit(m=1, n=1),
    "p2sc1": make_unit(m=2, n=1),
    "p2sc2": make_unit(m=2, n=2),
    "p2sc3": make_unit(m=2, n=3),
    "p3sc2": make_unit(m=3, n=2),
}
STATE_OF_THE_ART = {"bottleneck": 4, "compression": 0.5, "upsampling": "transposed"}
TINY = {"initial_channels": 8, "growth": 4, "layers_per_block": 2, "dense_blocks": 2}
FORMS = {"state of the art": STATE_OF_THE_ART, "reproduction": {}}


def parameters(unit, **options):
    with torch.device("meta"):
        network = DenseNet(unit, **options)
    return sum(p.numel() for p in network.parameters())


def layers_per_segment(block):
    return 2 if block in ("p2sc2", "p2sc3", "p3sc2") else 1


def for_both_layers(unit):
    """A factory that takes k_i of Eq. 5 from all the filters that a unit emits."""
    return lambda *channels, filters=None, **options: unit(*channels, **options)


def randomise(network):
    """Batch norms that a test can see: neither running statistics nor weights of 0 and 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    nn.init.normal_(network.head.conv.bias)
    return network


@pytest.mark.parametrize(("in_channels", "count"), [(1, 1_551_392), (2, 1_552_256)])
def test_published_parameter_counts_of_the_state_of_the_art(in_channels, count):
    assert parameters(BLOCKS["3d"], in_channels=in_channels, **STATE_OF_THE_ART) == count


@pytest.mark.parametrize(
    ("block", "one_layer", "filters_of_both", "filters_of_one"),
    [
        ("3d", 1_890_724, None, None),  # 3D and n = 1 stand for one layer in every reading
        ("p1sc1", 1_832_342, None, None),
        ("p2sc2", 1_966_890, 2_037_206, 1_362_542),
        ("p2sc3", 2_122_252, 2_327_052, 1_444_180),
    ],
)
def test_parameter_counts_of_the_reproduction(block, one_layer, filters_of_both, filters_of_one):
    unit = BLOCKS[block]
    assert parameters(unit) == one_layer
    if filters_of_both is not None:
        assert parameters(for_both_layers(unit), layers_per_segment=2) == filters_of_both
        assert parameters(unit, layers_per_segment=2) == filters_of_one


def test_relations_that_the_paper_states_hold_with_two_layers_per_segment():
    state_of_the_art = parameters(BLOCKS["3d"], **STATE_OF_THE_ART)
    count = {b: parameters(BLOCKS[b], layers_per_segment=layers_per_segment(b)) for b in BLOCKS}
    assert count["p2sc2"] < count["p1sc1"]
    assert count["p2sc3"] < state_of_the_art < count["3d"]
    # The paper has 12 % for P_2SC_3; ours are what the class's documentation says.
    assert 1 - count["p2sc3"] / state_of_the_art == pytest.approx(0.069, abs=5e-4)
    assert 1 - count["p2sc2"] / state_of_the_art == pytest.approx(0.122, abs=5e-4)


def test_channels_of_the_state_of_the_art():
    with torch.device("meta"):
        network = DenseNet(BLOCKS["3d"], **STATE_OF_THE_ART)
    entering = [block[0].bottleneck.conv.in_channels for block in network.dense]
    leaving = [block.out_channels for block in network.dense]
    assert (entering, leaving) == ([32, 48, 56, 60], [96, 112, 120, 124])
    layer = network.dense[0][0]
    assert layer.bottleneck.conv.out_channels == layer.segment.layers.conv_1.conv.in_channels == 64
    kernels = [(up.kernel_size[0], up.stride[0], up.groups) for up in network.upsample]
    assert kernels == [(4, 2, 4), (6, 4, 4), (10, 8, 4), (18, 16, 4)]
    biased = [name for name, m in network.named_modules() if getattr(m, "bias", None) is not None]
    convolutions = [name for name in biased if name.endswith("conv")]
    assert convolutions == [*(f"down.{i}.halve.conv" for i in (1, 2, 3)), "head.conv"]


def plain(network, x, form):
    """The 3D network in plain functions on its weights, in evaluation mode."""
    w = network.state_dict()

    def norm_relu(x, name):
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
        mean, var, scale, shift = (v.view(1, -1, 1, 1, 1) for v in (mean, var, scale, shift))
        return F.relu((x - mean) / (var + 1e-5).sqrt() * scale + shift)

    x = F.conv3d(x, w["stem.layers.conv_1.conv.weight"], padding=1)
    x = norm_relu(x, "stem.layers.conv_1.norm")
    x = F.conv3d(x, w["stem.layers.conv_2.conv.weight"], padding=1)
    x = norm_relu(x, "stem.layers.conv_2.norm")
    features = x = F.conv3d(x, w["stem.layers.conv_3.conv.weight"], padding=1)
    x = F.conv3d(norm_relu(x, "down.0.norm"), w["down.0.conv.weight"], stride=2)
    scales = []
    for block in range(2):
        if block == 1:
            x = norm_relu(x, "down.1.reduce.norm")
            x = F.conv3d(x, w["down.1.reduce.conv.weight"])
            x = norm_relu(x, "down.1.halve.norm")
            x = F.conv3d(x, w["down.1.halve.conv.weight"], w["down.1.halve.conv.bias"], stride=2)
        for layer in range(2):
            name, y = f"dense.{block}.{layer}", x
            if form == "state of the art":
                y = norm_relu(y, f"{name}.bottleneck.norm")
                y = F.conv3d(y, w[f"{name}.bottleneck.conv.weight"])
            y = norm_relu(y, f"{name}.segment.layers.conv_1.norm")
            y = F.conv3d(y, w[f"{name}.segment.layers.conv_1.conv.weight"], padding=1)
            x = torch.cat([x, y], 1)
        stride = 2 ** (block + 1)
        if form == "state of the art":
            weight = w[f"upsample.{block}.weight"]
            assert weight.shape[2:] == (stride + 2,) * 3
            y = F.conv_transpose3d(x, weight, stride=stride, padding=1, groups=2)
        else:
            y = F.conv3d(x, w[f"upsample.{block}.conv.weight"])
            y = F.interpolate(y, features.shape[2:], mode="trilinear", align_corners=False)
        scales.append(y)
    x = norm_relu(torch.cat([*scales, features], 1), "head.norm")
    return F.conv3d(x, w["head.conv.weight"], w["head.conv.bias"])


@pytest.mark.parametrize("form", FORMS)
def test_forward_is_the_plain_sequence_of_operations(form):
    torch.manual_seed(0)
    network = DenseNet(BLOCKS["3d"], in_channels=2, classes=2, **(TINY | FORMS[form]))
    network = randomise(network).double().eval()
    x = torch.randn(2, 2, 8, 12, 4, dtype=torch.float64)
    torch.testing.assert_close(network(x), plain(network, x, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", BLOCKS)
def test_every_parameter_of_every_block_gets_a_gradient(block, form):
    torch.manual_seed(0)
    layers = layers_per_segment(block)
    network = DenseNet(BLOCKS[block], layers_per_segment=layers, **(TINY | FORMS[form]))
    y = network(torch.randn(2, 1, 4, 8, 8))
    assert y.shape == (2, 4, 4, 8, 8)
    y.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(("block", "layers"), [("3d", 1), ("p2sc2", 1), ("p2sc2", 2), ("p2sc3", 2)])
@pytest.mark.parametrize("bottleneck", [0, 4])
def test_a_dense_layer_keeps_its_input_and_adds_channels(block, layers, bottleneck):
    layer = DenseLayer(BLOCKS[block], 6, growth=4, bottleneck=bottleneck, layers=layers).eval()
    x = torch.randn(1, 6, 4, 4, 4)
    original = x.clone()
    y = layer(x)
    assert y.shape == (1, layer.out_channels, 4, 4, 4) == (1, 6 + 4 * layers, 4, 4, 4)
    torch.testing.assert_close(y[:, :6], original, rtol=0, atol=0)
    torch.testing.assert_close(x, original, rtol=0, atol=0)
    assert (y[:, 6:] < 0).any()  # no activation after the last convolution
    assert (y[:, 6:] > 0).any()


@pytest.mark.parametrize("block", ["3d", "p1sc1", "p2sc2"])
def test_the_stem_ends_in_a_raw_convolution(block):
    network = DenseNet(BLOCKS[block], **TINY)
    ends = [network.stem.layers[-1]] if block == "3d" else []
    if block != "3d":
        ends = [stream.axis for stream in network.stem.blocks[-1].streams]
        inner = [stream.axis for stream in network.stem.blocks[0].streams]
        assert all([*part._modules] == ["conv", "norm", "activation"] for part in inner)
    assert all([*part._modules] == ["conv"] and part.conv.bias is None for part in ends)


def test_one_segment_for_two_layers_takes_eq_5_for_the_filters_of_one():
    with torch.device("meta"):
        network = DenseNet(BLOCKS["p2sc2"], layers_per_segment=2)
    (block,) = network.dense[0][0].segment.blocks
    assert block.width == (16 * 32 * 27 // (32 * 9 + 16 * 3)) // 2
    assert sum(stream.axis.conv.out_channels for stream in block.streams) == 2 * 16


def test_dropout_acts_in_training_on_new_channels_only():
    torch.manual_seed(0)
    layer = DenseLayer(BLOCKS["3d"], 4, growth=4, dropout=0.5)
    y = layer(torch.rand(1, 4, 16, 16, 16))
    assert (y[:, 4:] == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert not (y[:, :4] == 0).any()
    assert not (layer.eval()(torch.rand(1, 4, 16, 16, 16))[:, 4:] == 0).any()


def test_initialisation_is_he_with_zero_biases():
    torch.manual_seed(0)
    network = DenseNet(BLOCKS["3d"], dense_blocks=2)
    biases = [m.bias for m in network.modules() if isinstance(m, nn.Conv3d) and m.bias is not None]
    assert len(biases) == 2
    assert not any(bias.any() for bias in biases)
    weight = network.dense[1][3].segment.layers.conv_1.conv.weight  # 144 → 16
    assert weight.std().item() == pytest.approx((2 / (144 * 27)) ** 0.5, rel=0.02)


def test_transposed_upsampling_begins_as_linear_interpolation_of_a_groups_sum():
    network = DenseNet(BLOCKS["3d"], dense_blocks=2, **STATE_OF_THE_ART)
    fine, coarse = network.upsample
    x = torch.rand(1, 96, 4, 5, 6)
    sums = torch.stack([group.sum(1) for group in x.chunk(4, dim=1)], dim=1)
    expected = F.interpolate(sums, scale_factor=2, mode="trilinear", align_corners=False)
    inside = (..., slice(1, -1), slice(1, -1), slice(1, -1))  # zeros lie beyond the border
    torch.testing.assert_close(fine(x)[inside], expected[inside])
    torch.testing.assert_close(coarse.weight, coarse.weight.flip(2, 3, 4))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dense_blocks", [1, 2, 3])
def test_output_size_is_what_forward_returns(form, dense_blocks):
    options = TINY | FORMS[form] | {"dense_blocks": dense_blocks}
    network = DenseNet(BLOCKS["3d"], **options).eval()
    assert network.padding == "same"
    assert network.period == 2**dense_blocks
    sizes = network.valid_input_sizes(0, 34)
    assert sizes == list(range(network.period, 35, network.period))
    shape = (sizes[0], sizes[1], sizes[0])
    assert network(torch.zeros(1, 1, *shape)).shape == (1, 4, *shape)
    for size in range(-1, 35):
        if size in sizes:
            assert network.output_size(size) == size
        else:
            with pytest.raises(ConfigError):
                network.output_size(size)
    assert network.input_size_for(network.period + 1) == 2 * network.period


def test_a_size_it_cannot_take_names_the_nearest():
    with torch.device("meta"):
        network = DenseNet(BLOCKS["3d"])
    message = r"4 dense blocks.*17 voxels; nearest valid sizes: 16 \(output 16\), 32 \(output 32\)"
    with pytest.raises(ConfigError, match=message):
        network(torch.zeros(1, 1, 16, 17, 16, device="meta"))
    with pytest.raises(ConfigError, match=r"nearest valid sizes: 16 \(output 16\)$"):
        network.output_size(3)


@pytest.mark.parametrize("upsampling", ["interpolation", "transposed"])
@pytest.mark.parametrize(
    ("block", "dense_blocks", "layers"),
    [("3d", 1, 1), ("3d", 2, 1), ("p1sc1", 2, 1), ("p2sc2", 2, 2), ("p2sc3", 1, 2)],
)
def test_receptive_field_is_the_widest_that_a_gradient_reaches(
    block, dense_blocks, layers, upsampling
):
    network = DenseNet(
        BLOCKS[block],
        initial_channels=2,
        growth=2,
        classes=2,
        layers_per_block=2,
        dense_blocks=dense_blocks,
        upsampling=upsampling,
        layers_per_segment=layers,
    )
    network = network.double().eval()
    for parameter in network.parameters():
        parameter.data.abs_()  # nothing cancels, no ReLU closes
    period = network.period
    size = (network.receptive_field // period + 4) * period
    x = torch.rand((1, 1, size, size, size), dtype=torch.float64, requires_grad=True)
    y = network(x)
    spans = []
    for shift in range(period):
        centre = size // 2 // period * period + shift
        voxel = y[0, :, centre, centre, centre].sum()
        (gradient,) = torch.autograd.grad(voxel, x, retain_graph=True)
        reached = gradient[0, 0] != 0
        spans.extend(int(reached.any(a).any(b).sum()) for a, b in ((1, 1), (0, 1), (0, 0)))
    assert max(spans) == network.receptive_field


def test_receptive_fields_of_the_published_sizes():
    for block, extent in (("3d", 278), ("p1sc1", 278), ("p2sc2", 280), ("p2sc3", 398)):
        with torch.device("meta"):
            network = DenseNet(BLOCKS[block], layers_per_segment=layers_per_segment(block))
        assert network.receptive_field == extent


def test_shifts_by_the_period_commute_inside_and_others_do_not():
    torch.manual_seed(0)
    network = DenseNet(BLOCKS["3d"], **(TINY | {"dense_blocks": 1, "layers_per_block": 1}))
    network = randomise(network).double().eval()
    x = torch.rand(1, 1, 20, 20, 30, dtype=torch.float64)
    y = network(x[..., :28])
    margin = network.receptive_field // 2
    inside = slice(margin, 28 - margin - 2)
    shifted = network(x[..., 2:])
    torch.testing.assert_close(shifted[..., inside], y[..., margin + 2 : 28 - margin])
    odd = network(x[..., 1:29])
    assert not torch.allclose(odd[..., inside], y[..., margin + 1 : 27 - margin])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"initial_channels": 0}, "initial_channels"),
        ({"growth": 0}, "growth"),
        ({"layers_per_block": 0}, "layers_per_block"),
        ({"dense_blocks": 0}, "dense_blocks"),
        ({"bottleneck": -1}, "bottleneck must be at least 0"),
        ({"layers_per_segment": 0}, "layers_per_segment"),
        ({"layers_per_segment": 3}, "layers_per_block=4 does not divide.*layers_per_segment=3"),
        ({"compression": 0.0}, "compression"),
        ({"compression": 1.5}, "compression"),
        ({"compression": float("nan")}, "compression"),
        ({"compression": 0.001}, "compression=0.001 leaves none of 96 channels"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"upsampling": "nearest"}, "upsampling must be one of interpolation, transposed, got 'ne"),
        ({"upsampling": "transposed", "classes": 5}, "96 channels for 5 classes"),
        ({"in_channels": 0}, "in_channels"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message), torch.device("meta"):
        DenseNet(BLOCKS["3d"], **options)


def test_fewer_new_channels_than_streams_is_the_blocks_own_error():
    with pytest.raises(ConfigError, match="out_channels=1 is less than m=2"):
        DenseNet(BLOCKS["p2sc2"], growth=1, dense_blocks=1)


def test_compiles_in_one_graph_to_the_same_numbers_and_names():
    torch.manual_seed(0)
    options = TINY | FORMS["state of the art"] | {"layers_per_segment": layers_per_segment("p2sc2")}
    network = DenseNet(BLOCKS["p2sc2"], dropout=0, **options)
    x = torch.rand(1, 1, 8, 8, 8)
    expected, names = network(x), list(network.state_dict())
    network.compile(backend="eager", fullgraph=True)  # what follows, the U-Net's and ResNet's test
    torch.testing.assert_close(network(x), expected)
    assert list(network.state_dict()) == names  # checkpoints do not depend on compilation


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
