"""n = 2 and 3: consecutive convolutions as one block, found by watching the network run."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet
from torch import nn
from torchvision.models.video import r3d_18

from psc import convert, merge_linear
from psc.block.block import stream_width
from psc.conversion import SeparableConv3d, composed_weight
from psc.conversion.layers import Absorbed
from psc.decomposition import compose_chain
from psc.errors import ConfigError


def conv(c_in, c_out, **options):
    return nn.Conv3d(c_in, c_out, 3, **{"padding": 1, **options})


def linear(*middle, **options):
    """Two convolutions without padding and what stands between, in float64."""
    torch.manual_seed(0)
    layers = [conv(2, 4, padding=0, **options), *middle, conv(4, 6, padding=0)]
    return nn.Sequential(*layers).double().eval()


def volume(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def difference(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def worn_norm():
    """A norm with statistics and weights of some training."""
    norm = nn.BatchNorm3d(4)
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
    return norm


@pytest.mark.parametrize("merge", ["concatenate", "sum"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_what_is_affine_between_layers_is_kept_exactly(m, merge):
    for between in ([], [worn_norm(), nn.Dropout3d(0.5), nn.Identity()]):
        network = linear(*between, stride=(1, 2, 1))
        x = volume(2, 2, 9, 11, 9)
        done = convert(network, m, 2, width=150, merge=merge, example_input=x)
        (block,) = (part for part in done.model.modules() if isinstance(part, SeparableConv3d))
        assert done.model[0] is block
        assert {type(part) for part in done.model[1:]} == {Absorbed}
        other = volume(1, 2, 9, 9, 13) + 3
        assert difference(done.model(other), network(other)) < 1e-6
        first, last = done.report.layers
        assert (first.status, last.status) == ("converted", "merged")
        assert first.relative_error < 1e-6
        assert last.reason == "into the block at 0"
        assert done.report.runs == (tuple(str(i) for i in range(len(network))),)


def test_a_non_linearity_becomes_the_affine_map_that_is_nearest_on_the_example():
    network = linear(nn.ReLU(inplace=True))
    x = volume(3, 2, 9, 9, 9)
    block = convert(network, 2, 2, width=150, example_input=x).model[0]
    # By NumPy-like least squares per channel, from the network itself.
    before = network[0](x).detach()
    slopes, offsets = [], []
    for channel in range(4):
        values = before[:, channel].flatten()
        design = torch.stack([values, torch.ones_like(values)], 1)
        slope, offset = torch.linalg.lstsq(design, values.relu()[:, None]).solution[:, 0]
        slopes.append(slope)
        offsets.append(offset)
    slope, offset = (torch.stack(s)[:, None, None, None] for s in (slopes, offsets))
    assert difference(block(x), network[2](slope * before + offset)) < 1e-6
    kernel = compose_chain([network[0].weight, network[2].weight * slope], [(1, 1, 1)] * 2)
    assert difference(composed_weight(block), kernel) < 1e-6


def test_widths_sizes_and_names_are_those_of_the_papers_block():
    network = nn.Sequential(conv(8, 12), nn.ReLU(), conv(12, 12), nn.ReLU(), conv(12, 12))
    x = volume(1, 8, 6, 6, 6, dtype=torch.float32)
    done = convert(network, 2, 2, example_input=x, activation=nn.ReLU)
    width = stream_width(8, 12, 2)
    block, *_, alone = done.model
    assert block.widths == (width, width)
    names = [name for name, _ in block.streams[0].named_children()]
    assert names == ["plane_1", "activation_1", "plane_2", "activation_2", "line"]
    assert block.streams[1].line.kernel_size == (1, 5, 1)
    assert block.streams[1].plane_2.padding == (1, 0, 1)
    assert "P2SC2 for 8→12 3×3×3, 3×3×3" in repr(block)
    # The activation after the pair stays; the third convolution is left over.
    assert isinstance(done.model[3], nn.ReLU)
    assert isinstance(alone, SeparableConv3d)
    assert [row.status for row in done.report.layers] == ["converted", "merged", "converted"]
    assert done.model(x).shape == network(x).shape
    text = str(done.report)
    assert "P2SC2" in text
    assert "merged: into the block at 0" in text
    assert "total, 3 of 3 converted" in text
    assert json.loads(json.dumps(done.report.to_dict()))["runs"] == [["0", "1", "2"]]
    counts = [sum(p.numel() for p in net.parameters()) for net in (network, done.model)]
    assert [sum(row.parameters[i] for row in done.report.layers) for i in (0, 1)] == counts
    assert convert(network, 1, 3, example_input=x).report.runs == (("0", "1", "2", "3", "4"),)


def test_torchvisions_residual_blocks_are_one_block_each():
    torch.manual_seed(0)
    network = r3d_18(num_classes=3).eval()
    x = volume(1, 3, 2, 12, 12, dtype=torch.float32)
    options = {"width": 8, "sweeps": 1, "exclude": ["layer3", "layer4"]}
    done = convert(network, 2, 2, example_input=x, **options)
    shown = [(run[0], run[-1]) for run in done.report.runs]
    pairs = [("layer1.0", 2), ("layer1.1", 2), ("layer2.0", 2), ("layer2.1", 2)]
    assert shown == [(f"{name}.conv1.0", f"{name}.conv2.0") for name, _ in pairs]
    assert isinstance(done.model.stem[0], SeparableConv3d)
    strided = done.model.layer2[0].conv1[0]
    assert strided.streams[0].line.stride == (2, 1, 1)
    assert strided.streams[0].line.kernel_size == (7, 1, 1)  # both layers' extent together
    assert done.model(x).shape == (1, 3)
    others = ["stem", "layer3", "layer4"]
    again = convert(network, 2, 2, width=8, init="random", runs=done.report.runs, exclude=others)
    assert [row.status for row in again.report.layers].count("merged") == 4


def test_monais_u_net_has_its_pairs_found():
    torch.manual_seed(0)
    network = BasicUNet(3, 1, 2, features=(4, 4, 4, 8, 8, 4)).eval()
    x = volume(1, 1, 32, 32, 32, dtype=torch.float32)
    done = convert(network, 1, 2, example_input=x)
    assert len(done.report.runs) == 9  # five levels down, four up
    assert done.model(x).shape == network(x).shape
    with pytest.raises(ConfigError, match="stands for several layers"):
        merge_linear(done.model)


class Wandering(nn.Module):
    """Pairs of convolutions that look consecutive; not all of them are."""

    def __init__(self):
        super().__init__()
        names = "plain functional skip kept_alive returned grouped twice custom"
        for name in names.split():
            groups = 2 if name == "grouped" else 1
            self.add_module(f"{name}_1", conv(2, 2, groups=groups))
            self.add_module(f"{name}_2", conv(2, 2))
        self.shared = nn.ReLU()
        self.squash = Squash()

    def forward(self, x):
        x = self.plain_2(self.plain_1(x)).tanh()
        x = self.functional_2(F.relu(self.functional_1(x))).tanh()
        y = self.skip_1(x)
        x = self.skip_2(y) + y
        y = self.kept_alive_1(x)
        size = y.shape, y.size(0), y.dim()
        x = self.kept_alive_2(y)
        x = x + y.mean()
        returned = self.returned_1(x)
        x = self.returned_2(returned).tanh()
        x = self.grouped_2(self.grouped_1(x)).tanh()
        x = self.twice_2(self.shared(self.twice_1(self.shared(x)))).tanh()
        x = self.custom_2(self.squash(self.custom_1(x)))
        return {"x": x, "more": Box(returned), "size": size}


class Box:
    """A result that only its class knows how to open."""

    def __init__(self, content):
        self.content = [content]


class Squash(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


def test_only_what_goes_from_one_layer_to_the_next_and_nowhere_else_is_a_run():
    torch.manual_seed(0)
    network = Wandering()
    x = volume(1, 2, 4, 4, 4, dtype=torch.float32)
    done = convert(network, 1, 2, example_input=x, width=1)
    assert done.report.runs == (
        ("plain_1", "plain_2"),
        ("functional_1", "(relu)", "functional_2"),
        ("twice_1", "(shared)", "twice_2"),
        ("custom_1", "(squash)", "custom_2"),
    )
    assert sum(isinstance(part, SeparableConv3d) for part in done.model.modules()) == 12
    assert network.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
    done.model(x)["x"].sum().backward()


def test_layers_in_place_activations_and_unbatched_volumes():
    network = nn.Sequential(
        conv(1, 2), nn.LeakyReLU(inplace=True), nn.Identity(), conv(2, 3), nn.ReLU(inplace=True)
    )
    seen = []
    network[3].register_forward_hook(lambda _m, _x, y: seen.append(y.shape))
    x = volume(1, 5, 5, 5, dtype=torch.float32)
    done = convert(copy.deepcopy(network), 1, 2, example_input=x, inplace=True)
    seen.clear()
    assert done.model(x).shape == network(x).shape
    assert seen[0] == seen[1] == (3, 5, 5, 5)  # what hears the last layer hears the block
    half = network.bfloat16()
    done = convert(half, 1, 2, example_input=x.bfloat16())
    assert {p.dtype for p in done.model.parameters()} == {torch.bfloat16}


REFUSALS = [
    ({}, "needs example_input"),
    ({"init": "random"}, "needs example_input"),
    ({"runs": [["0", "1", "2"]]}, "needs example_input"),
    ({"example": True, "width": None}, "width=None, exact, is for n=1"),
    ({"example": True, "n": 3}, "no 3 of the 4 convolutions"),
    ({"example": True, "include": ["0", "3"]}, "no 2 of the 2 convolutions"),
    ({"init": "random", "runs": [["0", "7"]]}, "no module '7'"),
    ({"init": "random", "runs": [["0", "1"]]}, r"0 → 1: must begin and end.*it holds 1"),
    ({"init": "random", "runs": [["0", "2"], ["2", "3"]]}, "2 stands in two places"),
    ({"init": "random", "runs": [["0", "3"]]}, "3: dilation=\\(2, 2, 2\\)"),
    ({"init": "random", "runs": [["0", "4", "2"]]}, "4: a MaxPool3d must not stand"),
    ({"example": True, "runs": [["2", "4", "0"]]}, "data go from 2 to 3"),
    ({"init": "random", "runs": [["5", "2"]]}, "2 reads 2 channels, 5 writes 3"),
    ({"n": 1, "runs": [["0", "2"]]}, "runs are for n > 1"),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS)
def test_impossible_runs_are_refused_before_anything_is_changed(options, message):
    network = nn.Sequential(
        conv(2, 2), nn.ReLU(), conv(2, 2), conv(2, 2, dilation=2, padding=2), nn.MaxPool3d(2)
    )
    network.append(conv(2, 3))
    before = copy.deepcopy(network.state_dict())
    options = {"n": 2, "m": 1, "inplace": True, **options}
    if options.pop("example", False):
        options["example_input"] = volume(1, 2, 4, 4, 4, dtype=torch.float32)
    with pytest.raises(ConfigError, match=message):
        convert(network, **options)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_weights_that_are_not_finite_are_refused():
    network = linear()
    network[1].weight.data[0] = torch.inf
    with pytest.raises(ConfigError, match=r"0 → 1: .*not finite"):
        convert(network, 1, 2, example_input=volume(1, 2, 7, 7, 7))
