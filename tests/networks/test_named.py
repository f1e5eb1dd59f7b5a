"""Networks by name are those of the configurations, and nothing else passes."""

import functools
import runpy
from pathlib import Path

import pytest
import torch

import psc
from psc.errors import CheckpointError, ConfigError
from psc.networks.build import build_network_on_meta
from psc.paper.account import compose_account

ROOT = Path(__file__).parents[2]
SMALL = {"unet": {"base_width": 4, "depth": 1}, "resnet18": {"base_width": 8, "classes": 5}}
SMALL["densenet"] = {"growth": 4, "dense_blocks": 2, "initial_channels": 8}


@functools.cache
def chosen(group, name):
    """The part of a configuration that one choice makes; a network's two do not know each other."""
    return getattr(compose_account([f"{group}={name}"]), group)


@pytest.mark.parametrize("name", psc.list_networks())
def test_a_name_is_the_network_of_that_configuration(name):
    backbone, block = name.split("_", 1) if "bui" not in name else ("densenet_bui", name[13:])
    with torch.device("meta"):
        ours = psc.create(name).state_dict()
    other = build_network_on_meta(chosen("backbone", backbone), chosen("block", block))
    theirs = other.state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


def test_the_list_has_every_backbone_with_every_block_of_the_configurations():
    names = {
        group: [p.stem for p in (ROOT / "configs" / group).iterdir()]
        for group in ("backbone", "block")
    }
    blocks = set(names["block"]) - {"psc"}
    assert set(psc.list_networks()) == {f"{a}_{b}" for a in names["backbone"] for b in blocks}
    assert psc.list_networks("resnet*_p2sc2") == ["resnet18_p2sc2", "resnet34_p2sc2"]
    assert psc.list_networks("vgg*") == []


@pytest.mark.parametrize(
    ("name", "shape", "result"),
    [
        ("unet_p2sc2", (1, 2, 20, 20, 20), (1, 5, 4, 4, 4)),
        ("resnet18_p3sc1", (2, 2, 4, 8, 8), (2, 5)),
        ("densenet_p1sc2", (1, 2, 8, 8, 8), (1, 5, 8, 8, 8)),
    ],
)
def test_results_are_logits_of_the_channels_that_were_asked_for(name, shape, result):
    small = dict(SMALL[name.split("_")[0]], in_channels=2)
    small["out_channels" if "unet" in name else "classes"] = 5
    network = psc.create(name, **small).eval()
    with torch.no_grad():
        y = network(torch.randn(shape) * 9)
    assert y.shape == result
    assert y.min() < 0  # no probabilities


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("unet_p2sc22x", {}, "nearest are unet_p2sc2"),
        ("resnet50_3d", {}, "nearest are resnet34_3d"),
        ("unet", {}, "there is no network 'unet'; the nearest are unet_"),
        ("", {}, "there is no network ''"),
        ("unet_p4sc1", {}, "no network 'unet_p4sc1'"),
        ("unet_p2sc0", {}, "no network 'unet_p2sc0'"),
        ("unet_p1sc1_calibrated", {}, "no network"),
        ("unet_3d", {"classes": 3}, "UNet has no argument 'classes'; it has in_channels, out_"),
        ("unet_3d", {"unit": None}, "no argument 'unit'"),
        ("unet_3d", {"in_channels": "1"}, "in_channels='1': must be of type int"),
        ("unet_3d", {"in_channels": True}, "in_channels=True: must be of type int"),
        ("unet_3d", {"in_channels": 0}, "in_channels must be at least 1"),
        ("unet_3d", {"merge": "sum"}, "merge: plain 3D convolutions"),
        ("unet_p2sc2", {"merge": "mean"}, "merge='mean'"),
        ("unet_p2sc2", {"maximum_width": 1.5}, "maximum_width=1.5: must be a whole number"),
        ("resnet18_3d", {"layers": 50}, "layers=50"),
        ("densenet_3d", {"dropout": 2}, "dropout"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        psc.create(name, **arguments)


def test_weights_come_from_a_file_and_are_that_networks(tmp_path):
    path = tmp_path / "weights.pt"
    trained = psc.create("unet_p2sc2", **SMALL["unet"])
    torch.save(trained.state_dict(), path)
    again = psc.create("unet_p2sc2", weights=path, **SMALL["unet"])
    torch.testing.assert_close(again.state_dict(), trained.state_dict(), rtol=0, atol=0)
    run = {"state_dict": {f"network.{k}": v for k, v in trained.state_dict().items()}}
    torch.save(run, path)
    again = psc.create("unet_p2sc2", weights=str(path), **SMALL["unet"])
    torch.testing.assert_close(again.state_dict(), trained.state_dict(), rtol=0, atol=0)
    for name, options in (("unet_3d", SMALL["unet"]), ("unet_p2sc2", {}), ("densenet_3d", {})):
        with pytest.raises(CheckpointError, match=r"weights\.pt.*belongs to another"):
            psc.create(name, weights=path, **options)
    with pytest.raises(CheckpointError, match="no weights at"):
        psc.create("unet_3d", weights=tmp_path / "none.pt")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        psc.create("unet_p2sc2", weights=path, **SMALL["unet"])


def test_a_classifier_of_other_classes_stays_random(tmp_path):
    path = tmp_path / "weights.pt"
    video = psc.create("resnet18_p1sc1", **SMALL["resnet18"])
    torch.save(video.state_dict(), path)
    other = psc.create("resnet18_p1sc1", weights=path, base_width=8, classes=9)
    assert other.classifier.weight.shape[0] == 9
    assert torch.equal(other.stem[0].weight, video.stem[0].weight)


def test_torch_hub_has_them_all():
    network = torch.hub.load(str(ROOT), "unet_p2sc2", source="local", **SMALL["unet"])
    assert isinstance(network, psc.networks.UNet)
    entries = runpy.run_path(str(ROOT / "hubconf.py"))
    assert set(psc.list_networks()) <= entries.keys()
    assert "in_channels" in entries["unet_p2sc2"].__doc__
    assert entries["dependencies"] == ["torch", "numpy"]
