"""Feature matching brings a conversion back to the original, without labels."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from psc import convert
from psc.conversion import match_features
from psc.errors import ConfigError


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv3d(6, 6, 3, padding=1), nn.ReLU(inplace=True))


@pytest.fixture
def volumes():
    return list(torch.randn(4, 2, 1, 6, 6, 6, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("n", [1, 2])
def test_the_results_come_nearer_to_the_originals(network, volumes, n):
    done = convert(network, 2, n, example_input=volumes[0], activation=nn.ReLU)
    network.eval()
    done.model.eval()

    @torch.no_grad()
    def error():
        x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(2))
        return float((done.model(x) - network(x)).norm() / network(x).norm())

    before, first = error(), dict(done.model.named_parameters())
    losses = match_features(network, done, volumes, steps=40, learning_rate=1e-2)
    assert len(losses) == 40
    assert losses[-1] < 0.8 * losses[0]
    assert error() < before
    assert all(first[name] is parameter for name, parameter in done.model.named_parameters())


def test_the_loss_is_the_mean_relative_error_of_the_blocks_results(network, volumes):
    done = convert(network, 1, example_input=volumes[0])
    (loss,) = match_features(network, done, volumes, steps=1, learning_rate=1e-12)
    network.eval()
    done.model.eval()
    with torch.no_grad():
        first, wanted = done.model[0](volumes[0]), network[0](volumes[0])
        second = done.model[:4](volumes[0])
        errors = [(first - wanted).square().sum() / wanted.square().sum()]
        wanted = network[:4](volumes[0])
        errors.append((second - wanted).square().sum() / wanted.square().sum())
    assert loss == pytest.approx(float(sum(errors)) / 2, rel=1e-4)


def test_nothing_else_changes(network, volumes):
    done = convert(network, 2, include="3")
    done.model.train()
    network[1].eval()
    before = {name: value.clone() for name, value in done.model.state_dict().items()}
    frozen = done.model[3].streams[0].plane.weight.requires_grad_(False)
    match_features(network, done, volumes, steps=2)
    changed = {n for n, v in done.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(name.startswith("3.streams") for name in changed)
    assert torch.equal(frozen, before["3.streams.0.plane.weight"])
    assert all(part.training for part in done.model.modules())
    assert [part.training for part in network] == [True, False, True, True, True]
    networks = (network, done.model)
    assert not any(part._forward_hooks for model in networks for part in model.modules())
    assert all(p.grad is None for p in done.model[0].parameters())


def test_batches_may_be_a_loader_tuples_or_mappings(volumes):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 4, 3)

        def forward(self, image, *, scale):
            return self.conv(image) * scale

    torch.manual_seed(0)
    network = Two()
    batches = [{"image": volume, "scale": 2} for volume in volumes]
    done = convert(network, 2, example_input=batches[0])
    assert len(match_features(network, done, batches, steps=6)) == 6
    single = nn.Conv3d(1, 4, 3)
    loader = DataLoader([v[0] for v in volumes], batch_size=2)
    assert len(match_features(single, convert(single, 2), loader, steps=5)) == 5
    assert len(match_features(single, convert(single, 2), [(v,) for v in volumes], steps=2)) == 2


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Conv3d(1, 4, 3), nn.Conv3d(1, 4, 3)

    def forward(self, x):
        return self.used(x)


def test_impossible_matching_is_refused(network, volumes):
    done = convert(network, 2)
    for options, message in (({"steps": 0}, "steps=0"), ({"learning_rate": 0}, "learning_rate=0")):
        with pytest.raises(ConfigError, match=message):
            match_features(network, done, volumes, **options)
    with pytest.raises(ConfigError, match="batches have ended"):
        match_features(network, done, iter(volumes), steps=9)
    with pytest.raises(ConfigError, match="loss is nan"):
        match_features(network, done, [volumes[0] * torch.nan], steps=2)
    spare = Idle()
    with pytest.raises(ConfigError, match="never reaches idle"):
        match_features(spare, convert(spare), volumes)
    with pytest.raises(ConfigError, match="no block with parameters that learn"):
        match_features(network, convert(network, kernel_sizes=[5]), volumes)
