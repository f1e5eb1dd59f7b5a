"""PSCBlock with merge="sum" (Eq. 3): against sums of plain convolutions, and what follows them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from psc import ConvolutionOptions, PSCBlock
from psc.errors import ConfigError

GRID = list(itertools.product((2, 3), (1, 2, 3)))

NORMS = {"norm": nn.BatchNorm3d}

# Options → what follows the sum, and how many biases the streams' 1D convolutions have together.
FOLLOWING = [
    ({}, ["activation"], 1),
    ({"final_activation": False}, [], 1),
    ({"activation": None}, [], 1),
    ({"bias": False}, ["activation"], 0),
    (NORMS, ["norm", "activation"], 0),
    (NORMS | {"bias": True}, ["norm", "activation"], 1),
    (NORMS | {"final_activation": False}, ["norm"], 0),
    (NORMS | {"final_activation": False, "final_norm": False}, [], 1),
    (NORMS | {"pre_activation": True}, [], 1),
    (NORMS | {"pre_activation": True, "final_activation": False, "final_norm": False}, [], 1),
]


def normalised(x):
    return F.batch_norm(x, None, None, training=True)


def explicit_sum(block, x, options, *, padding="same", stride=1):
    """The block from calls of ``conv3d``, from its description; batch norms as they begin."""
    norm = normalised if "norm" in options else lambda y: y
    activation = F.relu if options.get("activation", F.relu) else lambda y: y
    pre = options.get("pre_activation", False)
    total = 0
    for axis, stream in enumerate(block.streams):
        y = x
        for i in range(block.n + 1):
            last, weight = i == block.n, stream[i].conv.weight
            steps = [1, 1, 1]
            for a in range(3):
                if (a == axis) == last and i in (0, block.n):
                    steps[a] = stride
            around = [k // 2 if padding == "same" else 0 for k in weight.shape[2:]]
            if pre:
                y = activation(norm(y))
            y = F.conv3d(y, weight, None if last else stream[i].conv.bias, steps, around)
            if not pre and not last:
                y = activation(norm(y))
        total = total + y
    if block.streams[0].axis.conv.bias is not None:
        total = total + block.streams[0].axis.conv.bias[:, None, None, None]
    if not pre and options.get("final_norm", True):
        total = norm(total)
    return activation(total) if not pre and options.get("final_activation", True) else total


def check_equal(ours, expected, inputs):
    """The same numbers, and the same gradients of the inputs."""
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)
    direction = torch.randn_like(expected)
    theirs = torch.autograd.grad((expected * direction).sum(), inputs)
    for a, b in zip(torch.autograd.grad((ours * direction).sum(), inputs), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("m", "n"), GRID)
@pytest.mark.parametrize(("padding", "stride"), [("same", 1), ("valid", 1), ("same", 2)])
def test_eq3_equals_a_sum_of_plain_convolutions(m, n, padding, stride):
    torch.manual_seed(10 * m + n)
    block = PSCBlock(3, 4, m, n, merge="sum", padding=padding, stride=stride).double()
    x = torch.randn(2, 3, 9, 8, 10, dtype=torch.float64, requires_grad=True)
    expected = explicit_sum(block, x, {}, padding=padding, stride=stride)
    check_equal(block(x), expected, [x, *block.parameters()])


@pytest.mark.parametrize(("options", "following", "biases"), FOLLOWING, ids=str)
def test_what_would_follow_each_stream_follows_the_sum_once(options, following, biases):
    torch.manual_seed(0)
    block = PSCBlock(3, 4, 2, 2, merge="sum", **options).double()
    assert [name for name, _ in block.after_sum.named_children()] == following
    lines = [stream.axis for stream in block.streams]
    assert [line.conv.bias is not None for line in lines] == [biases == 1, False]
    own = ["norm", "activation", "conv"] if options.get("pre_activation") else ["conv"]
    assert [[name for name, _ in line.named_children()] for line in lines] == [own, own]
    x = torch.randn(2, 3, 6, 7, 8, dtype=torch.float64, requires_grad=True)
    # Batch norm takes away a bias before it: its gradient is zero but for rounding.
    learnt = [p for name, p in block.named_parameters() if ".norm." not in name]
    check_equal(block(x), explicit_sum(block, x, options), [x, *learnt])


@pytest.mark.parametrize("options", [{}, NORMS, NORMS | {"pre_activation": True}], ids=str)
def test_one_stream_is_the_same_block_either_way(options):
    blocks = []
    for merge in ("concatenate", "sum"):
        torch.manual_seed(0)
        blocks.append(PSCBlock(3, 5, 1, 2, merge=merge, **options))
    concatenated, summed = blocks
    assert str(summed) == str(concatenated)
    torch.testing.assert_close(summed.state_dict(), concatenated.state_dict(), rtol=0, atol=0)


def test_names_of_parameters_are_those_of_concatenated_streams():
    options = ConvolutionOptions(norm=nn.BatchNorm3d)
    concatenated, summed = (
        PSCBlock(3, 6, 2, 2, merge=merge, options=options) for merge in ("concatenate", "sum")
    )

    def names(block):
        return {name for name, _ in block.named_parameters()}

    own = {f"streams.{s}.axis.norm.{name}" for s in range(2) for name in ("weight", "bias")}
    assert names(concatenated) - names(summed) == own
    assert names(summed) - names(concatenated) == {"after_sum.norm.weight", "after_sum.norm.bias"}
    assert repr(summed).startswith("PSCBlock(\n  P2SC2 summed, M=")


@pytest.mark.parametrize("m", [1, 2, 3])
def test_eq5_divided_by_m_gives_summed_streams_the_weights_of_the_3d_layer(m):
    # Eq. 5 gives 108 filters, with nothing lost by rounding
    block = PSCBlock(24, 72, m, 1, merge="sum", bias=False)
    assert m * block.width == 108
    assert sum(p.numel() for p in block.parameters()) == 24 * 72 * 3**3


def test_fewer_channels_than_streams_may_leave():
    block = PSCBlock(2, 1, 3, 1, merge="sum")
    assert block(torch.zeros(1, 2, 5, 6, 7)).shape == (1, 1, 5, 6, 7)
    with pytest.raises(ConfigError, match=r"out_channels=1 is less than m=3.*merge='sum'"):
        PSCBlock(2, 1, 3, 1)


def test_a_sum_compiles_and_exports_to_the_same_numbers():
    torch.manual_seed(0)
    block = PSCBlock(2, 4, 2, 2, merge="sum").eval()
    x = torch.randn(1, 2, 6, 6, 6)
    torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), block(x))
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), block(x))


def test_another_way_to_merge_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"merge='mean': .*concatenate or sum"):
        PSCBlock(4, 8, merge="mean")
