"""One forward pass gives every converted channel the gain and offset of the original's."""

import copy

import pytest
import torch
from torch import nn

from psc import convert
from psc.conversion import calibrate
from psc.errors import ConfigError


def build(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1, bias=bias),
        nn.ReLU(inplace=True),
        nn.Conv3d(6, 6, 3, padding=1, bias=bias),
        nn.BatchNorm3d(6),
        nn.ReLU(inplace=True),
        nn.Conv3d(6, 5, 3, padding=1, bias=bias),
    )


@pytest.fixture
def volume():
    return torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))


def test_gains_and_offsets_that_were_spoilt_are_put_right_in_every_merge(volume):
    for m, merge in ((1, "concatenate"), (3, "concatenate"), (2, "sum")):
        network = build().eval()
        done = convert(network, m, width=None, merge=merge)
        with torch.no_grad():
            for part in done.model.modules():
                if isinstance(part, nn.Conv3d) and part.kernel_size.count(1) == 2:
                    scale = torch.rand(1 if merge == "sum" else part.out_channels) + 0.5
                    part.weight.mul_(scale[:, None, None, None, None])
                    if part.bias is not None:
                        part.bias.add_(scale)
        assert not torch.allclose(done.model(volume), network(volume), atol=0.1)
        calibrate(network, done, volume)
        # Also on other volumes: the corrections are those that were spoilt.
        other = torch.randn(1, 1, 9, 7, 8)
        assert torch.allclose(done.model(other), network(other), atol=1e-4)


@pytest.mark.parametrize(("n", "bias"), [(1, True), (1, False), (2, True), (2, False)])
def test_no_affine_map_per_channel_brings_a_block_nearer(volume, n, bias):
    network = build(bias).eval()
    done = convert(network, 2, n, example_input=volume)
    kept = copy.deepcopy(done.model.state_dict())
    calibrate(network, done, volume)
    changed = {k for k, v in done.model.state_dict().items() if not torch.equal(v, kept[k])}
    assert changed
    assert all(".line." in name for name in changed)
    # Independent: the residual is orthogonal to the result, and to a constant if there is a bias.
    last = {run[0]: run[-1] for run in done.report.runs}
    for row in done.report.converted:
        i = int(row.name)
        with torch.no_grad():
            given = done.model[: i + 1](volume).transpose(0, 1).flatten(1)
            wanted = network[: int(last.get(row.name, row.name)) + 1](volume)
        residual = wanted.transpose(0, 1).flatten(1) - given
        scale = given.square().sum(1)
        assert ((residual * given).sum(1).abs() < 1e-4 * scale).all()
        biased = done.model[i].streams[0].line.bias is not None
        # A BatchNorm within a run leaves a constant, so the block has a bias without the layers'.
        assert biased == (bias or row.name in last)
        if biased:
            assert (residual.mean(1).abs() < 1e-4 * residual.abs().mean(1).clamp(min=1e-3)).all()


def test_modes_hooks_and_the_original_are_as_before_and_shared_blocks_are_corrected_once(volume):
    block = nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.ReLU())
    network = nn.Sequential(block, block)
    done = convert(network, 1, width=1)
    before = copy.deepcopy(network.state_dict())
    calibrate(network, done, volume)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert network.training
    assert done.model.training
    assert not any(part._forward_hooks for m in (network, done.model) for part in m.modules())
    half = build().bfloat16()
    calibrate(half, convert(half, 2), volume.bfloat16())


class Twice(nn.Module):
    """Its only convolution is called at two sizes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(4, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(10 * torch.tanh(self.conv(x)) + 3)
        return y, self.conv(torch.nn.functional.max_pool3d(y, 2))


def test_a_layer_that_is_called_again_is_corrected_by_its_first_call():
    torch.manual_seed(0)
    network, x = Twice().eval(), torch.randn(1, 4, 6, 6, 6)
    exact = convert(network, m=2, width=None)
    calibrate(network, exact, x)
    for ours, original in zip(exact.model(x), network(x), strict=True):
        torch.testing.assert_close(ours, original, rtol=1e-3, atol=1e-4)


def test_a_channel_that_does_not_vary_keeps_its_gain():
    network = nn.Sequential(nn.Conv3d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv3d(4, 4, 3, 2, 1)).eval()
    found = convert(network, m=2)
    calibrate(network, found, torch.rand(1, 1, 3, 3, 3))  # a single voxel in the last layer
    results = [found.model(torch.rand(1, 1, 3, 3, 3)) for _ in range(2)]
    assert not torch.equal(*results)


@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_that_holds_nan_changes_nothing(volume, bias):
    network = build(bias).eval()
    found = convert(network, m=2)
    before = copy.deepcopy(found.model.state_dict())
    volume[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ConfigError, match="NaN or infinity by this batch"):
        calibrate(network, found, volume)
    after = found.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_converted_network_itself_is_no_original(volume):
    found = convert(build().eval(), m=2, inplace=True)
    with pytest.raises(ConfigError, match=r"keep a copy\.deepcopy"):
        calibrate(found.model, found, volume)
