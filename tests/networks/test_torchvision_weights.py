"""Torchvision's networks as numerical oracle, and weights that do not fit."""

import copy
import struct

import pytest
import torch
from torch import nn
from torchvision.models.video import mc3_18, r2plus1d_18, r3d_18
from torchvision.models.video.resnet import (
    BasicBlock,
    BasicStem,
    Bottleneck,
    Conv2Plus1D,
    Conv3DSimple,
    R2Plus1dStem,
    VideoResNet,
)

from psc import make_unit
from psc.errors import CheckpointError
from psc.networks.resnet import ResNet
from psc.networks.weights import load_torchvision_weights, read_weights

CLASSES = 7


def ours(kind, **options):
    torch.manual_seed(1)
    options = {"layers": 18, "classes": CLASSES, **options}
    if kind == "r3d":
        return ResNet(make_unit("conv3d"), **options)
    unit = make_unit(m=1, n=1, maximum_width=None)
    return ResNet(unit, stem="factorised", **options)


def on_meta(build, *arguments, **options):
    with torch.device("meta"):
        return build(*arguments, **options)


@pytest.fixture(scope="module", params=["r3d", "r2plus1d"])
def torchvisions(request):
    """The kind and torchvision's network, whose batch norms are not those of a fresh one."""
    torch.manual_seed(0)
    build = r3d_18 if request.param == "r3d" else r2plus1d_18
    network = build(weights=None, num_classes=CLASSES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return request.param, network


def pair(torchvisions, dtype):
    """Ours with the weights of torchvision's, and torchvision's."""
    kind, network = torchvisions
    mine = on_meta(ours, kind).to_empty(device="cpu")  # drawing 33 million weights takes a second
    assert load_torchvision_weights(mine, network.state_dict(), "test") == []
    return mine.to(dtype), copy.deepcopy(network).to(dtype)


def clips(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(4))


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("shape", [(1, 3, 4, 24, 24), (2, 3, 5, 16, 19)])
def test_evaluated_logits_are_torchvisions(torchvisions, shape):
    mine, theirs = (network.eval() for network in pair(torchvisions, torch.float32))
    with torch.no_grad():
        assert relative(mine(clips(*shape)), theirs(clips(*shape))) <= 1e-5


def test_training_step_is_torchvisions(torchvisions):
    """In float64: batch norm over few voxels magnifies rounding errors a thousandfold."""
    dtype, tolerance = torch.float64, 1e-10
    mine, theirs = pair(torchvisions, dtype)
    x = clips(1, 3, 4, 24, 24, dtype=dtype)
    logits, expected = mine(x), theirs(x)
    assert relative(logits, expected) <= tolerance
    logits.square().sum().backward()
    expected.square().sum().backward()
    for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert relative(p.grad, q.grad) <= tolerance, name
    tensors = zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
    for ours_, tensor in tensors:  # running statistics too
        torch.testing.assert_close(ours_, tensor)


@pytest.mark.parametrize(
    ("kind", "convolution", "stem"),
    [("r3d", Conv3DSimple, BasicStem), ("r2plus1d", Conv2Plus1D, R2Plus1dStem)],
)
def test_order_and_shapes_of_34_layers(kind, convolution, stem):
    theirs = on_meta(
        VideoResNet, BasicBlock, [convolution] * 4, [3, 4, 6, 3], stem, num_classes=101
    )
    network = on_meta(ours, kind, layers=34, classes=101)
    assert load_torchvision_weights(network, theirs.state_dict(), "x") == []


@pytest.fixture(scope="module")
def state():
    """State dict of a narrow network in our naming."""
    return narrow().state_dict()


def narrow(**options):
    options = {"classes": CLASSES, "base_width": 2, **options}
    return ResNet(make_unit("conv3d"), layers=18, **options)


def test_our_own_naming_is_accepted(state):
    torch.manual_seed(2)
    network = narrow()
    assert load_torchvision_weights(network, state, "ours") == []
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_weights_are_copied_not_shared(state):
    network = narrow()
    load_torchvision_weights(network, state, "ours")
    assert network.stem.conv.weight.data_ptr() != state["stem.conv.weight"].data_ptr()


def test_another_number_of_classes_keeps_the_fresh_classifier_only(state):
    network = narrow(classes=4)
    fresh = network.classifier.weight.clone()
    assert load_torchvision_weights(network, state, "x") == ["classifier.weight", "classifier.bias"]
    assert torch.equal(network.classifier.weight, fresh)
    rest = {n: t for n, t in network.state_dict().items() if not n.startswith("classifier")}
    assert all(torch.equal(tensor, state[name]) for name, tensor in rest.items())


THEIRS_3D = on_meta(r3d_18, num_classes=CLASSES).state_dict()
THEIRS_FACTORISED = on_meta(r2plus1d_18, num_classes=CLASSES).state_dict()
THEIRS_MIXED = on_meta(mc3_18, num_classes=CLASSES).state_dict()


@pytest.mark.parametrize(
    ("network", "weights", "message"),
    [
        (
            lambda: ours("r3d", base_width=32),
            THEIRS_3D,
            r"stem\.0\.weight \(the network's stem\.conv\.weight\) has shape "
            r"\(64, 3, 3, 7, 7\), the network needs \(32, 3, 3, 7, 7\)",
        ),
        (
            lambda: ours("r3d"),
            THEIRS_FACTORISED,
            r"stem\.0\.weight \(the network's stem\.conv\.weight\) has shape \(45, 3, 1, 7, 7\)",
        ),
        (
            lambda: ours("r2plus1d"),
            THEIRS_3D,
            r"stem\.0\.weight .*\(64, 3, 3, 7, 7\), the network needs \(45, 3, 1, 7, 7\)",
        ),
        (
            lambda: ResNet(make_unit(m=1, n=1), stem="factorised", layers=18, classes=CLASSES),
            THEIRS_FACTORISED,  # the published cap of M
            r"layer3\.1\.conv1\.0\.0\.weight \(.*plane_1\.conv\.weight\) has shape "
            r"\(576, 256, 1, 3, 3\), the network needs \(512,",
        ),
        (
            lambda: ResNet(make_unit(m=2, n=2), layers=18, classes=CLASSES),
            THEIRS_3D,
            r" has shape ",
        ),
        (
            lambda: ours("r3d", layers=34),
            THEIRS_3D,
            r" has shape ",
        ),
        (
            lambda: ours("r3d", shortcut="identity"),
            THEIRS_3D,
            r"layer2\.0\.downsample\.0\.weight .* has shape \(128, 64, 1, 1, 1\)",
        ),
        (
            lambda: ours("r3d"),
            THEIRS_MIXED,
            r"layer2\.0\.conv1\.0\.weight .* has shape \(128, 64, 1, 3, 3\), the",
        ),
    ],
    ids=["width", "2+1 in 3d", "3d in 2+1", "cap", "block", "layers", "shortcut", "mc3"],
)
def test_the_first_mismatch_is_named_with_the_remedy(network, weights, message):
    with pytest.raises(CheckpointError, match=f"some file.*{message}") as error:
        load_torchvision_weights(on_meta(network), weights, "some file")
    assert "backbone=resnet18 block=3d" in str(error.value)
    assert "block=p1sc1 block.maximum_width=null" in str(error.value)


def test_other_networks_are_refused():
    theirs = on_meta(VideoResNet, Bottleneck, [Conv3DSimple] * 4, [1, 1, 1, 1], BasicStem)
    with pytest.raises(CheckpointError, match="x: "):
        load_torchvision_weights(on_meta(narrow), theirs.state_dict(), "x")


def test_tensors_in_another_order_are_refused():
    network = on_meta(ours, "r3d")
    with pytest.raises(CheckpointError, match="the network needs"):
        load_torchvision_weights(network, dict(sorted(THEIRS_3D.items())), "x")


def test_nothing_is_loaded_where_something_does_not_fit(state):
    torch.manual_seed(3)
    network = narrow()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    damaged = {**state, "classifier.weight": torch.zeros(CLASSES, 3)}
    with pytest.raises(CheckpointError, match=r"classifier\.weight has shape \(7, 3\)"):
        load_torchvision_weights(network, damaged, "x")
    without = {name: t for name, t in state.items() if name != "classifier.bias"}
    with pytest.raises(CheckpointError, match=r"has no parameter classifier\.bias"):
        load_torchvision_weights(network, without, "x")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("prefix", ["", "network.", "module.", "network._orig_mod."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_bare_state_dict_and_a_training_checkpoint_are_read(state, tmp_path, prefix, wrapped):
    content = {prefix + name: tensor for name, tensor in state.items()}
    if wrapped:
        content = {"state_dict": content, "epoch": 3, "psc_config": {"block": "3d"}}
    torch.save(content, tmp_path / "weights.pt")
    read = read_weights(tmp_path / "weights.pt")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "but of type list"),
        (torch.zeros(3), "but of type Tensor"),
        ({}, "but empty"),
        ({"epoch": 3}, "'epoch' is of type int, not a tensor"),
    ],
)
def test_other_contents_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=rf"other\.pt holds no state dict \({message}\)"):
        read_weights(tmp_path / "other.pt")


def test_missing_and_damaged_files_are_refused(state, tmp_path):
    with pytest.raises(CheckpointError, match=r"no weights at .*absent\.pt"):
        read_weights(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    torch.save(state, tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")  # code, not tensors
    torch.save({"weight": torch.full((100,), 1.5)}, tmp_path / "changed.pt")
    content = (tmp_path / "changed.pt").read_bytes()  # of which PyTorch compares no checksum
    value = struct.pack("<f", 1.5)
    (tmp_path / "changed.pt").write_bytes(content.replace(value, struct.pack("<f", 2.5), 1))
    for name in ("text.pt", "half.pt", "module.pt", "changed.pt"):
        with pytest.raises(CheckpointError, match=f"{name} is damaged or not a checkpoint"):
            read_weights(tmp_path / name)


def test_loading_what_a_file_may_run_is_no_remedy(tmp_path):
    text, pickled = tmp_path / "notes.md", tmp_path / "run.pt"
    text.write_text("# Notes\n")
    torch.save({"state_dict": {}, "path": tmp_path}, pickled)
    for path in (text, pickled):
        with pytest.raises(CheckpointError, match="more than tensors and plain values") as refusal:
            read_weights(path)
        assert "weights_only" not in str(refusal.value)
