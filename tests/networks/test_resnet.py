"""ResNet: published counts, torchvision's network as oracle of the layout, geometry."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

from psc import make_unit
from psc.errors import ConfigError
from psc.networks.resnet import BLOCKS_PER_STAGE, ResidualBlock, ResNet, ZeroPaddedShortcut

BLOCKS = {
    "3d": make_unit("conv3d"),
    "p1sc1": make_unit(m=1, n=1),
    "p2sc1": make_unit(m=2, n=1),
    "p2sc2": make_unit(m=2, n=2),
    "p2sc3": make_unit(m=2, n=3),
    "p3sc2": make_unit(m=3, n=2),
    "33 M": make_unit(m=2, n=3, maximum_width=256, width_divisor=3),
}
KINDS = [block for block in BLOCKS if block != "33 M"]


def on_meta(block="3d", **options):
    with torch.device("meta"):
        return ResNet(BLOCKS[block], **options)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def narrow(block, **options):
    torch.manual_seed(0)
    return ResNet(BLOCKS[block], base_width=4, classes=5, layers=18, **options)


@pytest.mark.parametrize(
    ("block", "count", "millions"),  # the range that the published rules leave open
    [
        ("3d", 63_527_717, (63.5, 63.55)),
        ("p1sc1", 39_904_941, (39.9, 40.2)),
        ("p2sc2", 50_048_535, (49.8, 50.1)),
        ("p2sc3", 75_907_413, (71, 76)),
        ("33 M", 33_027_525, (32.5, 33.5)),
    ],
)
def test_published_parameter_counts(block, count, millions):
    assert parameters(on_meta(block)) == count
    assert millions[0] <= count / 1e6 <= millions[1]


def test_3d_resnet_34_has_as_many_parameters_as_torchvisions():
    with torch.device("meta"):
        theirs = VideoResNet(
            BasicBlock, [Conv3DSimple] * 4, [3, 4, 6, 3], BasicStem, num_classes=101
        )
    assert parameters(theirs) == parameters(on_meta("3d"))


def published_count(m, n, cap, divisor):
    """Weights by the rules of the reference, in plain arithmetic: biases only in norms and head."""
    total = 3 * 64 * 3 * 7 * 7 + 2 * 64 + 512 * 101 + 101
    k_in = 64
    for k_out, blocks in zip((64, 128, 256, 512), (3, 4, 6, 3), strict=True):
        for _ in range(blocks):
            if k_in != k_out:
                total += k_in * k_out + 2 * k_out
            width = min(k_out * k_in * 27 // (9 * k_in + 3 * k_out) // divisor, cap)
            for entering in (k_in, k_out)[: 2 if n == 1 else 1]:
                total += m * (entering * width * 9 + (n - 1) * width * width * 9)
                total += width * k_out * (2 * n + 1)  # the streams share out k_out
                total += 2 * (m * n * width + k_out)
            k_in = k_out
    return total


@pytest.mark.parametrize(
    ("block", "rule"),
    [
        ("p1sc1", (1, 1, 512, 1)),
        ("p2sc1", (2, 1, 512, 2)),
        ("p2sc2", (2, 2, 512, 2)),
        ("p2sc3", (2, 3, 512, 2)),
        ("p3sc2", (3, 2, 512, 3)),
        ("33 M", (2, 3, 256, 3)),
    ],
)
def test_every_block_has_the_parameters_that_the_rules_give(block, rule):
    assert parameters(on_meta(block)) == published_count(*rule)


def test_identity_shortcuts_save_the_projections():
    saved = sum(k * 2 * k + 2 * 2 * k for k in (64, 128, 256))
    assert parameters(on_meta("p2sc2")) - parameters(on_meta("p2sc2", shortcut="identity")) == saved


def test_factorised_stem():
    stem = on_meta("p1sc1", stem="factorised").stem
    plane, axis = stem.plane.conv, stem.axis.conv
    assert (plane.out_channels, plane.kernel_size, plane.stride) == (45, (1, 7, 7), (1, 2, 2))
    assert (axis.out_channels, axis.kernel_size, axis.stride) == (64, (3, 1, 1), (1, 1, 1))
    kinds = (nn.Conv3d, nn.BatchNorm3d, nn.ReLU)
    for parts in (stem.plane, stem.axis):
        assert all(isinstance(*pair) for pair in zip(parts, kinds, strict=True))
    for base_width, between in ((32, 22), (16, 11), (1, 1)):
        narrower = on_meta(stem="factorised", base_width=base_width)
        assert narrower.stem.plane.conv.out_channels == between


@pytest.mark.parametrize(("layers", "counts"), [(34, (3, 4, 6, 3)), (18, (2, 2, 2, 2))])
def test_a_residual_block_asks_for_one_unit_of_two_convolutions(layers, counts):
    calls = []

    def unit(in_channels, out_channels, *, depth, stride, options):
        calls.append((in_channels, out_channels, depth, stride))
        assert not options.final_activation
        return BLOCKS["p2sc2"](
            in_channels, out_channels, depth=depth, stride=stride, options=options
        )

    network = ResNet(unit, base_width=2, classes=2, layers=layers)
    expected = []
    for stage, count in enumerate(counts):
        width = 2 * 2**stage
        first = (2, 2, 2, 1) if stage == 0 else (width // 2, width, 2, 2)
        expected += [first, *[(width, width, 2, 1)] * (count - 1)]
    assert calls == expected
    blocks = [m for m in network.modules() if isinstance(m, ResidualBlock)]
    assert all(len(block.segment.blocks) == 1 for block in blocks)  # P_2SC_2 takes the pair


@pytest.mark.parametrize("shortcut", ["projection", "identity"])
@pytest.mark.parametrize("block", KINDS)
def test_forward_and_backward_reach_every_parameter(block, shortcut):
    network = narrow(block, shortcut=shortcut)
    y = network(torch.randn(2, 3, 5, 17, 20))
    assert y.shape == (2, 5)
    y.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("block", KINDS)
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 5), (9, 31, 17)])
def test_any_size_is_taken_and_strides_round_up(block, size):
    network = narrow(block, shortcut="identity").eval()
    x = torch.randn(1, 3, *size)
    before = network.stages(network.stem(x))
    assert before.shape[2:] == tuple(map(math.ceil, (size[0] / 8, size[1] / 16, size[2] / 16)))
    assert network(x).shape == (1, 5)


def test_a_single_tiny_clip_cannot_train():
    network = narrow("p2sc2")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.randn(1, 3, 8, 16, 16))
    network(torch.randn(1, 3, 9, 16, 16))
    network(torch.randn(2, 3, 1, 1, 1))


def test_wrong_channels_are_named():
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 1"):
        narrow("3d")(torch.zeros(1, 1, 4, 8, 8))


def test_zero_padded_shortcut_keeps_every_second_voxel():
    x = torch.arange(2.0 * 3 * 5 * 4 * 3).reshape(2, 3, 5, 4, 3)
    y = ZeroPaddedShortcut(3, 2)(x)
    assert y.shape == (2, 6, 3, 2, 2)
    for d, h, w in ((0, 0, 0), (2, 1, 1), (1, 0, 1)):
        assert torch.equal(y[:, :3, d, h, w], x[:, :, 2 * d, 2 * h, 2 * w])
    assert not y[:, 3:].any()


@pytest.mark.parametrize("shortcut", ["projection", "identity"])
def test_a_silent_segment_leaves_the_shortcut(shortcut):
    torch.manual_seed(0)
    block = ResidualBlock(BLOCKS["p2sc2"], 4, 8, 2, shortcut).eval()
    for stream in block.segment.blocks[0].streams:
        nn.init.zeros_(stream.axis.norm.weight)
    x = torch.randn(1, 4, 5, 6, 7)
    y = block(x)
    if shortcut == "identity":
        assert torch.equal(y[:, :4], x[..., ::2, ::2, ::2].relu())
        assert not y[:, 4:].any()
    else:
        weight = block.shortcut.conv.weight.reshape(8, 4)
        projected = torch.einsum("oc,ncdhw->nodhw", weight, x[..., ::2, ::2, ::2])
        expected = (projected / math.sqrt(1 + block.shortcut.norm.eps)).relu()
        torch.testing.assert_close(y, expected)


def test_initialisation_is_he_by_fan_out():
    torch.manual_seed(0)
    network = ResNet(BLOCKS["p2sc2"], layers=18, base_width=32, classes=50)
    (block,) = network.stages[2][1].segment.blocks  # 128 → M → M → 64 per stream
    plane, axis = block.streams[0].plane_1.conv, block.streams[0].axis.conv
    assert plane.weight.std().item() == pytest.approx((2 / (block.width * 9)) ** 0.5, rel=0.02)
    assert axis.weight.std().item() == pytest.approx((2 / (64 * 5)) ** 0.5, rel=0.02)
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert not network.classifier.bias.any()
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv3d))


@pytest.mark.parametrize("stem", ["conv3d", "factorised"])
@pytest.mark.parametrize("block", [*KINDS, "p1sc2"])
@pytest.mark.parametrize("layers", [18, 34])
def test_receptive_field_is_what_a_gradient_reaches(block, layers, stem):
    unit = BLOCKS.get(block, make_unit(m=1, n=2))
    network = ResNet(unit, in_channels=1, base_width=3, layers=layers, classes=2, stem=stem)
    network = network.double().eval()
    for parameter in network.parameters():
        parameter.data.abs_()  # nothing cancels, nothing is cut off by a ReLU
    for axis, extent in enumerate(network.receptive_field):
        shape = [1, 1, 1, 1, 1]  # along one axis at a time; padding leaves the others alone
        shape[2 + axis] = extent + 64
        x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        y = network.stages(network.stem(x)).sum(1).flatten()
        (gradient,) = torch.autograd.grad(y[len(y) // 2], x)
        reached = gradient.flatten().nonzero().flatten()
        assert reached[0] > 0
        assert reached[-1] < shape[2 + axis] - 1
        assert reached[-1] - reached[0] + 1 == extent


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 50}, "backbone.layers=50: known are 18, 34"),
        ({"stem": "conv2d"}, "backbone.stem=conv2d: known are conv3d, factorised"),
        ({"shortcut": "none"}, "backbone.shortcut=none: known are projection, identity"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"base_width": 0}, "backbone.base_width must be at least 1, got 0"),
    ],
)
def test_what_does_not_exist_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        on_meta("3d", **options)


def test_fewer_channels_than_streams_are_refused():
    with pytest.raises(ConfigError, match="out_channels=2 is less than m=3"):
        on_meta("p3sc2", base_width=2)


def test_compiles_in_one_graph_to_the_same_numbers_and_names(monkeypatch):
    monkeypatch.setitem(BLOCKS_PER_STAGE, 18, (1, 1, 1, 1))  # every kind of block, fast
    network = narrow("p2sc2", stem="factorised")
    x = torch.rand(2, 3, 4, 16, 16)
    expected, names = network(x), list(network.state_dict())
    network.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(network(x), expected)
    assert list(network.state_dict()) == names  # checkpoints do not depend on compilation


def test_dropout_acts_before_the_classifier_in_training_only():
    torch.manual_seed(0)
    network = ResNet(make_unit("conv3d"), layers=18, base_width=4, classes=3, dropout=0.9)
    seen = []
    network.classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.rand(2, 3, 4, 16, 16) + 1
    network(x)
    network.eval()(x)
    trained, evaluated = ((features == 0).float().mean().item() for features in seen)
    assert trained > 0.7
    assert trained > evaluated
