"""Sums from the layer widths against built networks, the published numbers and the README."""

from pathlib import Path

import pytest
import torch
from closed_form import Rule, segment_multiply_adds, segment_parameters, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import densenet_budget, resnet_budget, unet_budget
from torch import nn

from psc import ConvolutionOptions, make_unit
from psc.accounting import account
from psc.networks.densenet import DenseNet
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet
from psc.paper.account import NETWORKS, README_PART, paper_accounts, parameter_table
from psc.paper.text import markers

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"

RULES = {
    "3d": Rule("conv3d"),
    "p1sc1": Rule(m=1, n=1),
    "p2sc1": Rule(m=2, n=1),
    "p2sc2": Rule(m=2, n=2),
    "p2sc3": Rule(m=2, n=3),
    "p3sc2": Rule(m=3, n=2),
    "p2sc3_calibrated": Rule(m=2, n=3, maximum_width=256, width_divisor=3),
    "p2sc2 summed": Rule(m=2, n=2, merge="sum"),
}
PAIRED = [block for block in RULES if RULES[block].kind == "psc" and RULES[block].n > 1]


def factory(rule):
    return make_unit(
        rule.kind,
        m=rule.m,
        n=rule.n,
        maximum_width=rule.maximum_width,
        width_divisor=rule.width_divisor,
        merge=rule.merge,
    )


def on_meta(network, block, **options):
    with torch.device("meta"):
        return network(factory(RULES[block]), **options)


def budget_of(network, size):
    """The sum from the layer widths that belongs to a row of the page's table."""
    backbone, block = network
    rule = RULES[block]
    if backbone == "unet":
        return unet_budget(rule, size)
    if backbone == "resnet34":
        return resnet_budget(rule, size)
    assert backbone in ("densenet", "densenet_bui")
    layers = 2 if block in PAIRED else 1
    return densenet_budget(
        rule, size, layers_per_segment=layers, state_of_the_art=backbone == "densenet_bui"
    )


@pytest.fixture(scope="module")
def accounts():
    """Every network of the paper at the paper's input."""
    return paper_accounts()


@pytest.mark.parametrize("network", NETWORKS, ids=" ".join)
def test_closed_form_equals_torchs_counter_and_the_sum_from_the_widths(accounts, network):
    result = accounts[network]
    assert result.flops == 2 * result.multiply_adds == result.counted_flops
    assert result.parameters == sum(layer.parameters for layer in result.layers)
    budget = budget_of(network, result.input_shape[2:])
    assert budget.parameters == result.parameters
    assert budget.multiply_adds == result.multiply_adds


@pytest.mark.parametrize(
    ("block", "size", "giga"), [("3d", 132, 150.4), ("p1sc1", 132, 67.0), ("p2sc2", 132, 75.5)]
)
def test_published_multiply_adds_of_the_unet(accounts, block, size, giga):
    result = accounts["unet", block]
    assert result.input_shape == (1, 1, size, size, size)
    assert result.output_shape == (1, 3, 44, 44, 44)
    assert result.multiply_adds / 1e9 == pytest.approx(giga, abs=0.05)


def test_the_page_has_the_generated_table(accounts):
    text, (start, end) = PAGE.read_text(encoding="utf-8"), markers(README_PART)
    table = text.partition(start)[2].partition(end)[0].strip()
    assert table == parameter_table(accounts), (
        "python scripts/account.py table=true into=docs/networks.md"
    )


@pytest.mark.parametrize("block", ["p1sc1", "p2sc2", "p2sc3", "p2sc2 summed"])
def test_the_state_of_the_arts_layout_takes_every_block(block):
    layers = 2 if block in PAIRED else 1
    network = on_meta(
        DenseNet,
        block,
        in_channels=2,
        bottleneck=4,
        compression=0.5,
        upsampling="transposed",
        layers_per_segment=layers,
    )
    result = account(network, (1, 2, 16, 16, 32))
    budget = densenet_budget(
        RULES[block],
        (16, 16, 32),
        in_channels=2,
        layers_per_segment=layers,
        state_of_the_art=True,
    )
    assert result.flops == result.counted_flops == 2 * budget.multiply_adds
    assert result.parameters == budget.parameters


@pytest.mark.parametrize("block", ["3d", "p1sc1", "p2sc3", "p2sc2 summed"])
def test_budgets_of_other_sizes(block):
    unet = on_meta(UNet, block, in_channels=2, base_width=5, growth=2, depth=1, padding="same")
    budget = unet_budget(
        RULES[block],
        (8, 6, 4),
        in_channels=2,
        base_width=5,
        growth=2,
        depth=1,
        padding="same",
    )
    result = account(unet, (1, 2, 8, 6, 4))
    assert (result.parameters, result.multiply_adds) == (budget.parameters, budget.multiply_adds)
    resnet = on_meta(ResNet, block, layers=18, base_width=6, classes=7, in_channels=1)
    budget = resnet_budget(
        RULES[block], (17, 20, 9), in_channels=1, classes=7, blocks=(2, 2, 2, 2), base_width=6
    )
    result = account(resnet, (1, 1, 17, 20, 9))
    assert (result.parameters, result.multiply_adds) == (budget.parameters, budget.multiply_adds)


rules = st.builds(
    Rule,
    st.sampled_from(["conv3d", "psc"]),
    m=st.integers(1, 3),
    n=st.integers(1, 3),
    maximum_width=st.none() | st.integers(1, 40),
    width_divisor=st.none() | st.integers(1, 4),
    merge=st.sampled_from(["concatenate", "sum"]),
)


@settings(max_examples=30, deadline=None)
@given(
    rules,
    st.integers(1, 40),
    st.integers(3, 40),
    st.integers(1, 4),
    st.integers(1, 2),
    st.sampled_from([1, 3, 5]),
    st.none() | st.integers(1, 40),
    st.none() | st.integers(1, 40),
    st.sampled_from(["none", "after", "before"]),
    st.booleans(),
    st.booleans(),
)
def test_eq5_segments_have_the_parameters_and_work_of_built_ones(
    rule, k_in, k_out, depth, stride, d, filters, limit, norm, bias, final_norm
):
    options = ConvolutionOptions(
        kernel_size=d,
        norm=None if norm == "none" else nn.BatchNorm3d,
        pre_activation=norm == "before",
        final_activation=final_norm,
        final_norm=final_norm,
        bias=bias,
    )
    shape = {"depth": depth, "stride": stride, "width_limit": limit, "filters": filters}
    with torch.device("meta"):
        built = factory(rule)(k_in, k_out, options=options, **shape)
    plan = unit(rule, k_in, k_out, kernel_size=d, **shape)
    expected = sum(p.numel() for p in built.parameters())
    assert segment_parameters(plan, bias=bias, norm=norm, final_norm=final_norm) == expected
    result = account(built, (1, k_in, 7, 8, 5))
    work, size = segment_multiply_adds(plan, (7, 8, 5), "same")
    assert (work, (1, k_out, *size)) == (result.multiply_adds, result.output_shape)


@pytest.mark.parametrize("block", RULES)
def test_valid_padding_shrinks_closed_form_segments_as_built_ones(block):
    options = ConvolutionOptions(padding="valid")
    with torch.device("meta"):
        built = factory(RULES[block])(3, 7, depth=2, options=options)
    plan = unit(RULES[block], 3, 7, depth=2)
    work, size = segment_multiply_adds(plan, (11, 12, 13), "valid")
    result = account(built, (1, 3, 11, 12, 13))
    assert (work, (1, 7, *size)) == (result.multiply_adds, result.output_shape)
