"""The benchmark of whole networks at tiny sizes, and what it measures with."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import r3d_18

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))  # where Python itself looks when the script is started

import benchmark  # noqa: E402
from benchmarks import candidates, memory, networks, slow_kernels, steps  # noqa: E402

from psc import PSCBlock, make_segment  # noqa: E402
from psc.config.schema import ResNetConfig, UNetConfig  # noqa: E402
from psc.networks.unet import UNet  # noqa: E402

MATRIX = 96


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """Narrow networks of ours, a small yardstick, the threads as before."""
    full = candidates.backbone_configuration

    def narrow(name):
        configuration = full(name)
        if isinstance(configuration, UNetConfig | ResNetConfig):
            return replace(configuration, base_width=4)
        return configuration

    monkeypatch.setattr(candidates, "backbone_configuration", narrow)
    monkeypatch.setitem(networks._MATRIX_SIZE, "cpu", MATRIX)
    monkeypatch.setattr(networks, "_SHORTEST", 0.0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(tmp_path, *arguments):
    path = tmp_path / "result.json"
    fixed = ["--device", "cpu", "--precisions", "fp32", "--repeats", "1", "--threads", "1"]
    assert benchmark.main(["networks", *arguments, *fixed, "--out", str(path)]) == 0
    return json.loads(path.read_text())["tables"]


def counted(network, *shape):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network().eval()(torch.zeros(shape))
    return counter.get_total_flops()


def test_rows_of_the_resnet_and_its_peers(tmp_path):
    arguments = ["--backbones", "resnet18", "--blocks", "p2sc2", "p2sc2"]
    tables = run(tmp_path, *arguments, "--size", "8", "--batch-size", "2")

    rows, (matrix,) = tables["networks"], tables["matrix product"]
    assert [(row["network"], row["block"]) for row in rows] == [
        ("resnet18", "3d"),
        ("resnet18", "p2sc2"),
        ("torchvision r3d_18", None),
        ("torchvision r2plus1d_18", None),
    ]
    peer = rows[0]
    for row in rows:
        assert row["fails"] is None
        assert (row["input"], row["batch_size"]) == ("3x8x8x8", 2)
        assert (row["layout"], row["threads"]) == ("channels_last_3d", 1)
        assert row["throughput_of"] == "clips"
        assert row["flop_ratio"] == pytest.approx(row["forward_gflops"] / peer["forward_gflops"])
        for what, passes in (("forward", 1), ("training", 3)):
            seconds = row[f"{what}_seconds"]
            assert row[f"{what}_time_ratio"] == pytest.approx(seconds / peer[f"{what}_seconds"])
            speed = passes * row["forward_gflops"] / seconds
            fraction = speed / matrix[f"{what}_gflops_per_second"]
            assert row[f"{what}_fraction_of_matrix_product"] == pytest.approx(fraction)
            assert row[f"{what}_throughput"] > 0
        assert row["training_seconds"] > row["forward_seconds"]
    # torchvision's documentation gives r3d_18 33,371,472 parameters with 400 classes.
    assert rows[2]["parameters"] == 33_371_472 - (400 - 101) * (512 + 1)
    expected = counted(lambda: r3d_18(num_classes=101), 2, 3, 8, 8, 8)
    assert rows[2]["forward_gflops"] == pytest.approx(expected / 1e9)


def test_rows_of_the_unet_without_monai_and_in_two_layouts(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets.basic_unet", None)
    layouts = ["contiguous", "channels_last_3d"]
    arguments = ["--backbones", "unet", "--blocks", "p1sc1", "--layouts", *layouts]
    rows = run(tmp_path, *arguments, "--size", "16")["networks"]

    assert [row["layout"] for row in rows] == [layouts[0]] * 3 + [layouts[1]] * 3
    for row in (rows[2], rows[5]):
        assert row["network"] == "MONAI BasicUNet"
        assert row["fails"] == "monai is not installed: pip install monai"
        assert row["parameters"] is row["forward_seconds"] is row["training_time_ratio"] is None
    ours = [row for row in rows if row["fails"] is None]
    assert [row["block"] for row in ours] == ["3d", "p1sc1"] * 2
    for what in ("forward", "training"):  # to the fastest of both layouts
        fastest = min(row[f"{what}_seconds"] for row in ours if row["block"] == "3d")
        for row in ours:
            ratio = row[f"{what}_seconds"] / fastest
            assert row[f"{what}_time_ratio"] == pytest.approx(ratio)
    assert {row["throughput_of"] for row in ours} == {"voxels"}
    segment = make_segment(m=1, n=1)
    expected = counted(lambda: UNet(segment, base_width=4, padding="same"), 1, 1, 16, 16, 16)
    assert ours[1]["forward_gflops"] == pytest.approx(expected / 1e9)


def test_monai_beside_the_unet(tmp_path):
    arguments = ["--backbones", "unet", "--blocks", "p2sc2", "--size", "32"]
    peer = run(tmp_path, *arguments)["networks"][-1]

    assert (peer["network"], peer["fails"]) == ("MONAI BasicUNet", None)
    assert peer["parameters"] > 5_000_000
    assert peer["training_seconds"] > peer["forward_seconds"] > 0


def test_who_cannot_train_or_has_no_memory_is_a_row_that_says_so(tmp_path, monkeypatch):
    def ready(self, shape, device, seed, build=candidates.Candidate.ready):
        if self.block == "p2sc2":
            raise torch.OutOfMemoryError("no memory\nmore words")
        return build(self, shape, device, seed)

    monkeypatch.setattr(candidates.Candidate, "ready", ready)
    arguments = ["--backbones", "densenet", "--blocks", "p2sc2", "--size", "16"]
    peer, lacking = run(tmp_path, *arguments)["networks"]

    # Batch norm refuses to learn from the single voxel that four halvings leave of 16.
    assert peer["fails"].startswith("ValueError: Expected more than 1 value per channel")
    assert peer["forward_seconds"] > 0
    assert peer["training_seconds"] is peer["training_peak_extra_mb"] is None
    assert lacking["fails"] == "OutOfMemoryError: no memory"
    assert lacking["forward_seconds"] is lacking["forward_time_ratio"] is None
    assert 0 < lacking["flop_ratio"] < 1


@pytest.mark.parametrize("formulation", ["plain", "folded"])
def test_the_formulation_reaches_every_block(formulation):
    candidate = candidates.candidates_for("resnet18", ["p2sc2"], formulation)[0]
    with torch.device("meta"):
        network = candidate.build()

    found = {module.formulation for module in network.modules() if hasattr(module, "formulation")}
    assert found == {formulation}
    assert sum(isinstance(module, PSCBlock) for module in network.modules()) == 8


def test_one_step_of_adam_and_no_gradients_left():
    module = nn.Conv3d(1, 2, 1)
    x = torch.randn(1, 1, 2, 2, 2)
    before = module.weight.detach().clone()
    trained = steps.OptimizerSteps(lambda: (module, x), "channels_last_3d", "fp32", "cpu")

    trained.train()

    # Adam's first step is the learning rate, against the sign of the gradient.
    change = (module.weight - before).abs()
    assert torch.allclose(change, torch.full_like(change, steps._LEARNING_RATE), rtol=1e-2)
    assert module.weight.grad is None
    assert module.training
    assert not trained.forward().requires_grad
    assert not module.training


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells a process's peak"
)
def test_peak_memory_of_the_process():
    def hold():
        torch.ones(50_000_000)  # 200 MB, freed at once
        torch.ones(50_000_000)

    assert 199 < memory.peak_extra_mb(hold, "cpu") < 300
    assert memory.peak_extra_mb(lambda: None, "cpu") < 10


def test_no_peak_memory_of_a_call_without_memory():
    def fails():
        raise torch.OutOfMemoryError("no memory")

    assert memory.peak_extra_mb(fails, "cpu") is None


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="all kernels are slow ones")
def test_slow_convolutions_are_counted():
    torch.set_num_threads(1)
    along, cube = nn.Conv3d(2, 2, (5, 1, 1), padding=(2, 0, 0)), nn.Conv3d(24, 1, 3)
    small, large = torch.randn(1, 2, 6, 6, 6), torch.randn(1, 24, 30, 30, 4)

    assert slow_kernels.slow_convolutions(lambda: (along(small), along(small)), "cpu") == 2
    assert slow_kernels.slow_convolutions(lambda: cube(large), "cpu") == 0  # 24·30·30 > 20,480
    assert slow_kernels.slow_convolutions(lambda: cube(large[:, :, :9]), "cpu") == 1
    assert slow_kernels.slow_convolutions(lambda: along(small), "cuda") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_networks_on_a_gpu(tmp_path):
    path = tmp_path / "result.json"
    arguments = ["networks", "--device", "cuda", "--size", "32", "--blocks", "p2sc2"]
    assert benchmark.main([*arguments, "--repeats", "1", "--out", str(path)]) == 0

    rows = json.loads(path.read_text())["tables"]["networks"]
    assert {row["precision"] for row in rows} == {"fp32", "tf32", "bf16"}
    ours = [row for row in rows if row["block"] is not None]
    assert len(ours) == 4 * 3 * 2
    assert all(row["fails"] is None and row["training_peak_extra_mb"] > 0 for row in ours)
    assert {row["clock"] for row in rows} == {"wall seconds"}
