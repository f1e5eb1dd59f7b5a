"""What cannot be converted is named, all of it at once, with the reason."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from psc import convert
from psc.errors import ConfigError


class OwnForward(nn.Conv3d):
    def forward(self, x):
        return super().forward(x).relu()


class OnlyAnotherConstructor(nn.Conv3d):
    def __init__(self, channels):
        super().__init__(channels, channels, 3, padding=1)


def conv():
    return nn.Conv3d(2, 2, 3, padding=1)


def broken():
    """A network whose layers are each unsupported, but for two and those kept."""
    tied, shared = conv(), conv()
    tied.weight = conv().weight
    twin = conv()
    twin.weight = tied.weight
    pruned, infinite, hooked, patched = conv(), conv(), conv(), conv()
    prune.random_unstructured(pruned, "weight", 0.5)
    hooked.weight.register_hook(lambda g: g)
    patched.forward = lambda x: x
    with torch.no_grad():
        infinite.weight[0] = torch.nan
    return nn.ModuleDict(
        {
            "good": OnlyAnotherConstructor(2),
            "pointwise": nn.LazyConv3d(2, 1),
            "lazy": nn.LazyConv3d(2, 3),
            "shared": shared,
            "again": nn.Sequential(shared),
            "tied": tied,
            "twin": twin,
            "pruned": pruned,
            "parametrised": parametrizations.weight_norm(conv()),
            "quantised": torch.ao.nn.quantized.Conv3d(2, 2, 3),
            "own": OwnForward(2, 2, 3),
            "patched": patched,
            "hooked": hooked,
            "complex": nn.Conv3d(2, 2, 3, dtype=torch.complex64),
            "meta": nn.Conv3d(2, 2, 3, device="meta"),
            "thin": nn.Conv3d(4, 4, 3, groups=4),
            "one": nn.Conv3d(4, 1, 3),
        }
    ), {"infinite": infinite}


REASONS = {
    "lazy": "run the network once first",
    "tied": "parameters are shared by tied, twin",
    "twin": "parameters are shared by tied, twin",
    "pruned": "prune.remove",
    "parametrised": "remove_parametrizations",
    "quantised": "convert before quantising",
    "own": "OwnForward overrides forward",
    "patched": "this module overrides forward",
    "hooked": "hooks are registered on its parameters",
    "complex": "torch.complex64",
    "meta": "use init='random'",
    "thin": "1 output channels in each of its 4 groups cannot be shared out to m=2",
    "one": "1 output channels cannot be shared out to m=2",
}


def test_all_unsupported_layers_are_named_with_their_reasons():
    network, _ = broken()
    with pytest.raises(ConfigError) as raised:
        convert(network, 2)
    lines = dict(re.findall(r"^  (\S+): (.*)$", str(raised.value), re.MULTILINE))
    assert lines.keys() == REASONS.keys()
    for name, reason in REASONS.items():
        assert reason in lines[name]
    assert "unsupported='skip'" in str(raised.value)


def test_unsupported_layers_may_be_skipped_and_are_reported():
    network, others = broken()
    network.update(others)
    for name in ("pruned", "parametrised", "patched", "hooked", "pointwise", "lazy"):
        del network[name]  # copy.deepcopy does not take all of these
    report = convert(network, 2, unsupported="skip").report
    status = {row.name: row.status for row in report.layers}
    assert status.pop("good") == status.pop("shared") == "converted"
    assert set(status.values()) == {"skipped"}
    assert "not finite" in next(row.reason for row in report.layers if row.name == "infinite")
    with pytest.raises(ConfigError, match=r"infinite: .* not finite"):
        convert(network, 2, include="infinite")


def test_a_block_used_twice_is_converted_once_for_both():
    block = nn.Sequential(conv(), nn.ReLU())
    network = nn.Sequential(block, nn.Sequential(block))
    x = torch.randn(1, 2, 4, 4, 4)
    done = convert(network, width=None, example_input=x)
    assert [row.name for row in done.report.layers] == ["0.0"]
    assert done.model[0] is done.model[1][0]
    assert torch.allclose(done.model(x), network(x), atol=1e-5)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.called, self.read, self.idle = conv(), conv(), conv()
        self.both = conv()

    def forward(self, x):
        assert next(self.parameters()).dtype == x.dtype  # a harmless look
        x = self.both(self.called(x)) + self.both.weight.norm()
        return F.conv3d(x, self.read.weight, self.read.bias, padding=1)


def test_weights_used_functionally_are_found_with_an_example():
    network, x = Functional(), torch.randn(1, 2, 4, 4, 4)
    with pytest.raises(ConfigError) as raised:
        convert(network, example_input=x)
    lines = dict(re.findall(r"^  (\S+): (.*)$", str(raised.value), re.MULTILINE))
    assert lines.keys() == {"read", "idle", "both"}
    assert "outside of its own forward" in lines["read"]
    assert "outside of its own forward" in lines["both"]
    assert "never calls it" in lines["idle"]
    done = convert(network, width=None, example_input=(x,), unsupported="skip")
    assert [row.name for row in done.report.converted] == ["called"]
    assert torch.allclose(done.model(x), network(x), atol=1e-5)


class HoldsItTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv()
        self.parts = [self.conv]

    def forward(self, x):
        return self.parts[0](x)


def test_what_fails_after_the_conversion_leaves_the_network_as_it_was():
    network, x = HoldsItTwice(), torch.randn(1, 2, 4, 4, 4)
    with pytest.raises(ConfigError, match="in a second place"):
        convert(network, example_input={"x": x}, inplace=True)
    assert type(network.conv) is nn.Conv3d
    network(x)


def test_wrapped_networks_are_refused():
    with pytest.raises(ConfigError, match="wrapped in OptimizedModule"):
        convert(torch.compile(conv(), backend="eager"))
    with pytest.raises(ConfigError, match="TorchScript"):
        convert(torch.jit.trace(conv(), torch.zeros(1, 2, 3, 3, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"m": 4}, "m=4: P_mSC_n has 1, 2 or 3 streams"),
        ({"m": 0}, "m=0"),
        ({"n": 0}, "n=0"),
        ({"init": "hosvd"}, "init must be one of svd, random; got 'hosvd'"),
        ({"merge": "mean"}, "merge must be one of concatenate, sum"),
        ({"unsupported": "ignore"}, "unsupported must be one of refuse, skip"),
        ({"sweeps": -1}, "sweeps must not be negative"),
        ({"activation": nn.ReLU()}, "without parentheses"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        convert(conv(), **arguments)


def test_a_network_without_conv3d_is_refused():
    with pytest.raises(ConfigError, match="Sequential has no Conv3d"):
        convert(nn.Sequential(nn.Conv2d(1, 1, 3)))
