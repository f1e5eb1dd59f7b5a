"""Every benchmark at a tiny size: it runs, and its JSON says what was measured, where and how."""

import csv
import json
import math
import multiprocessing
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.video import r3d_18

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))  # as if they were started
sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "conversion"))

import benchmark
import peers
from benchmarks import blockwise, conversion, host, networks, timing

from psc.config import compose
from psc.config.schema import ResNetConfig, UNetConfig
from psc.errors import ConfigError
from psc.networks.build import build_network
from psc.training.checkpoints import CONFIG_KEY, NETWORK_PREFIX

ON_CPU = ("--device", "cpu", "--precisions", "fp32")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Narrow networks, a small yardstick, no call repeated until it is long enough."""
    full = networks._backbone

    def narrow(name):
        config = full(name)
        wide = isinstance(config, UNetConfig | ResNetConfig)
        return replace(config, base_width=4) if wide else config

    monkeypatch.setattr(networks, "_backbone", narrow)
    monkeypatch.setitem(networks.MATRIX_SIZE, "cpu", 96)
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(tmp_path, *arguments, repeats=("--repeats", "1")):
    path = tmp_path / "results" / "result.json"
    out = ["--threads", "1", "--out", str(path)]
    assert benchmark.main([*arguments, *repeats, *out]) == 0
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no partial file is left
    return json.loads(path.read_text())


def test_metrics_and_what_a_result_says(tmp_path, capsys):
    result = run(tmp_path, "metrics", "--size", "40")
    (rows,) = result["tables"].values()
    by_name = {(row["ids"] == "dense", row["contestant"]): row for row in rows}
    ours, peer = by_name[True, "psc"], by_name[True, "scikit-image"]
    for key in ("split", "merge", "adapted_rand_error"):
        assert ours[key] == pytest.approx(peer[key], abs=1e-9)
        assert ours[key] > 0
    assert by_name[False, "psc"]["split"] == pytest.approx(ours["split"])
    assert by_name[False, "scikit-image, relabelled first"]["merge"] == pytest.approx(ours["merge"])
    assert "Error" in by_name[False, "scikit-image"]["fails"]  # it allocates the largest id + 1
    assert by_name[False, "scikit-image"]["cpu_seconds"] is None
    assert peer["cpu_seconds_relative_to_psc"] == peer["cpu_seconds"] / ours["cpu_seconds"]
    assert "| dense | scikit-image |" in capsys.readouterr().out
    assert {"size": 40, "repeats": 1, "seed": 0}.items() <= result["settings"].items()
    environment = result["environment"]
    assert environment["versions"]["numpy"] == np.__version__
    assert environment["threads"] == 1
    assert environment["cpu"]
    assert environment["date"].endswith("+00:00")


def test_label_volumes():
    truth, predicted = host.label_volumes(30, seed=3)
    for axis in range(3):  # a segment's neighbours are itself and unknown, never another segment
        here, before = np.moveaxis(truth, axis, 0)[1:], np.moveaxis(truth, axis, 0)[:-1]
        assert not np.any((here != before) & (here != 0) & (before != 0))
    assert predicted.min() > 0
    assert len(np.unique(truth)) - 1 > len(np.unique(predicted)) > 1
    assert np.array_equal(truth, host.label_volumes(30, seed=3)[0])


def test_crops(tmp_path):
    result = run(tmp_path, "crops", "--size", "32", "--input-size", "14")
    (rows,) = result["tables"].values()
    assert [row["contestant"] for row in rows][:2] == ["NumPy copy", "psc bare crop"]
    assert rows[0]["rate_relative_to_numpy"] == 1
    assert all(row["fails"] is None and row["per_cpu_second"] > 0 for row in rows)
    assert (result["settings"]["input_size"], result["settings"]["output_size"]) == (14, 4)


def test_patches(tmp_path):
    (rows,) = run(tmp_path, "patches", "--size", "24", "--input-size", "8")["tables"].values()
    assert len(rows) == 9
    assert all(row["fails"] is None and row["per_wall_second"] > 0 for row in rows)
    assert [r["rate_relative_to_monai"] for r in rows if r["contestant"] == "MONAI"] == [1, 1, 1]


@pytest.mark.parametrize("augmentation", host.AUGMENTATIONS)
@pytest.mark.parametrize("tuned", [None, False, True])
def test_contestants_draw_patches_of_the_same_kind(tuned, augmentation):
    subjects = [host.brain((24, 12, 24), seed) for seed in range(2)]
    how = (subjects, host.AUGMENTATIONS[augmentation], 8, 0)
    draw = host.our_patches(*how) if tuned is None else host.monai_patches(*how, tuned=tuned)
    patches = [patch for _ in range(4) for patch in draw()]
    assert len(patches) == 16
    for patch in patches:
        assert tuple(patch["image"].shape) == (1, 8, 8, 8)
        assert set(patch["labels"].unique().tolist()) <= {0, 1, 2, 3}
    assert len({np.asarray(patch["image"]).tobytes() for patch in patches}) == 16


def test_malis(tmp_path):
    (rows,) = run(tmp_path, "malis", "--sizes", "6", "5")["tables"].values()
    assert [row["size"] for row in rows] == [5, 5, 5, 5, 6, 6, 6, 6]
    assert {row["affinities"] for row in rows} == {"trained", "untrained"}
    for row in rows:
        pairs = row["positive_pairs"] + row["negative_pairs"]
        assert row["counts"] != "one pass" or pairs == math.comb(row["size"] ** 3, 2)
        assert (row["growth_exponent"] is None) == (row["size"] == 5)


def test_trained_affinities_are_mostly_right():
    _, labels = host.label_volumes(24, 0)
    affinities = host._affinities(labels, 0)["trained"]
    for axis in range(3):
        same = np.diff(labels, axis=axis) == 0
        high = np.moveaxis(affinities[axis], axis, 0)[1:] > 0.5
        assert (high == np.moveaxis(same, axis, 0)).mean() > 0.85


@pytest.mark.usefixtures("full_resolution")
def test_blockwise(tmp_path, monkeypatch):
    # A copy of this process has loaded PyTorch; a fresh one takes ten times as long.
    copied = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr(blockwise, "multiprocessing", copied)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    sizes = ["--sizes", "24", "--block-size", "24", "--piece", "20", "--folder", str(scratch)]
    figure = tmp_path / "growth.png"
    result = run(tmp_path, "blockwise", *sizes, "--figure", str(figure), repeats=())
    assert figure.stat().st_size > 10_000
    ((row,),) = result["tables"].values()
    assert (row["size"], row["workers"], row["growth"]) == (24, 1, None)
    assert row["seconds_per_million"] == pytest.approx(row["seconds"] / row["million_voxels"])
    assert 100 < row["process_mb"] <= row["all_mb"]  # PyTorch alone takes more
    assert row["disk_mb"] > 24**3 / 8e6  # nothing is compressed to less than a bit per voxel
    assert row["fragments"] >= row["segments"] >= 1
    assert list(scratch.iterdir()) == []  # nothing is left


def test_block(tmp_path):
    size = ("--size", "6", "--segments", "1-24", "64-64", "--blocks", "p1sc1", "--batch-size", "2")
    tables = run(tmp_path, "block", *size, *ON_CPU)["tables"]
    forms = [("3d", "plain"), ("p1sc1", "auto"), ("p1sc1", "plain")]
    forms = [(*form, layout) for layout in ("contiguous", "channels_last_3d") for form in forms]
    rows = tables["units"]
    assert [(row["block"], row["formulation"], row["layout"]) for row in rows] == 2 * forms
    assert {(row["fails"], row["clock"]) for row in rows} == {(None, "CPU seconds")}
    assert [row["input"] for row in rows] == 6 * ["2x1x6x6x6"] + 6 * ["2x64x6x6x6"]
    assert [row["beside"] for row in tables["matrix product"]] == ["unet 1-24", "resnet 64-64"]
    for level in (rows[:6], rows[6:]):
        for what in ("forward", "training"):
            peer = min(row[f"{what}_seconds"] for row in (level[0], level[3]))
            for row in level:
                ratio = row[f"{what}_time_ratio"]
                assert ratio == pytest.approx(row[f"{what}_seconds"] / peer)
                assert row[f"{what}_excess"] == pytest.approx(ratio / row["flop_ratio"])
    # 1 to 24 to 24 channels with 27 taps each, against 9 taps to M = 8 (Eq. 5) and 3 to 24, twice.
    expected = (9 * 8 + 3 * 8 * 24 + 9 * 24 * 8 + 3 * 8 * 24) / (27 * 24 + 27 * 24 * 24)
    assert rows[1]["flop_ratio"] == pytest.approx(expected)


def test_networks(tmp_path, monkeypatch):
    def ready(self, device, seed, build=networks.Candidate.ready):
        if self.labels["block"] is None:  # torchvision's are counted; 33 million weights are slow
            return nn.Conv3d(3, 2, 3), torch.randn(*self.shape)
        return build(self, device, seed)

    monkeypatch.setattr(networks.Candidate, "ready", ready)
    arguments = ["--backbones", "resnet18", "--blocks", "p2sc2", "p2sc2", "--batch-size", "2"]
    tables = run(tmp_path, "networks", *arguments, "--size", "8", *ON_CPU)["tables"]
    rows, (matrix,) = tables["networks"], tables["matrix product"]
    peers = [("torchvision r3d_18", None), ("torchvision r2plus1d_18", None)]
    ours = [("resnet18", "3d"), ("resnet18", "p2sc2")]
    assert [(row["network"], row["block"]) for row in rows] == ours + peers
    for row in rows:
        assert row["fails"] is None
        assert (row["input"], row["batch_size"], row["throughput_of"]) == ("3x8x8x8", 2, "clips")
        for what, passes in (("forward", 1), ("training", 3)):
            seconds = row[f"{what}_seconds"]
            assert row[f"{what}_time_ratio"] == pytest.approx(seconds / rows[0][f"{what}_seconds"])
            fraction = passes * row["forward_gflops"] / seconds
            fraction /= matrix[f"{what}_gflops_per_second"]
            assert row[f"{what}_fraction_of_matrix_product"] == pytest.approx(fraction)
    # torchvision's documentation gives r3d_18 33,371,472 parameters with 400 classes.
    assert rows[2]["parameters"] == 33_371_472 - (400 - 101) * (512 + 1)
    with torch.device("meta"):
        assert sum(p.numel() for p in r3d_18(num_classes=101).parameters()) == rows[2]["parameters"]


def test_who_cannot_train_has_no_memory_or_is_not_there_says_so(tmp_path, monkeypatch):
    def ready(self, device, seed, build=networks.Candidate.ready):
        if self.labels["block"] == "p2sc2":
            raise torch.OutOfMemoryError("no memory\nmore words")
        return build(self, device, seed)

    monkeypatch.setattr(networks.Candidate, "ready", ready)
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    arguments = ["--backbones", "densenet", "unet", "--blocks", "p2sc2", "--size", "16"]
    rows = run(tmp_path, "networks", *arguments, *ON_CPU)["tables"]["networks"]
    peer, lacking, _, _, monai, _ = rows
    # Batch norm refuses to learn from the single voxel that four halvings leave of 16.
    assert peer["fails"].startswith("ValueError: Expected more than 1 value per channel")
    assert peer["forward_seconds"] > 0
    assert peer["training_seconds"] is peer["training_peak_extra_mb"] is None
    assert lacking["fails"] == "OutOfMemoryError: no memory"
    assert lacking["forward_seconds"] is lacking["forward_time_ratio"] is None
    assert monai["fails"] == "monai is not installed: pip install monai"
    assert monai["parameters"] is monai["forward_seconds"] is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(tmp_path):
    times = run(tmp_path, "block", "--size", "8")["tables"]["units"]
    assert {row["precision"] for row in times} == {"fp32", "tf32", "bf16"}
    assert all(row["fails"] is None and row["training_peak_extra_mb"] > 0 for row in times)
    rows = run(tmp_path, "networks", "--size", "32", "--blocks", "p2sc2")["tables"]["networks"]
    assert all(row["fails"] is None for row in rows if row["block"] is not None)
    assert {row["clock"] for row in rows} == {"wall seconds"}


def tiny_network():
    return nn.Sequential(
        nn.Conv3d(2, 24, 3),
        nn.BatchNorm3d(24),
        nn.Conv3d(24, 12, 3, groups=12),
        nn.Conv3d(12, 1, 1),
    )


def test_speed_of_conversion(tmp_path, monkeypatch):
    monkeypatch.setitem(conversion.NETWORKS, "tiny", tiny_network)
    arguments = ["conversion", "--networks", "tiny", "--device", "cpu"]
    rows = run(tmp_path, *arguments)["tables"]["convert"]
    assert [(row["m"], row["convolutions"], row["converted"]) for row in rows] == [
        (1, 3, 2), (2, 3, 1), (3, 3, 1)
    ]  # fmt: skip
    before = sum(p.numel() for p in tiny_network().parameters())
    for row in rows:
        assert row["parameters_before"] == before
        assert 0 < row["mean_error"] <= row["max_error"] < 1
        assert row["largest_kernel_mb"] == pytest.approx(4 * 24 * 2 * 27 / 1e6)
        assert row["left"].startswith("1 × ")


@pytest.mark.parametrize(
    ("name", "parameters"), [("r3d_18", 33_371_472), ("unet", 25_178_811), ("s3d", 8_320_048)]
)
def test_networks_are_those_of_the_paper_and_of_torchvision(name, parameters):
    with torch.device("meta"):
        network = conversion.NETWORKS[name]()
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_peers(tmp_path):
    pytest.importorskip("tltorch")
    path = tmp_path / "peers.json"
    arguments = ["peers", "--layers", "24-72", "stem", "--size", "5", "--device", "cpu"]
    arguments += ["--iterations", "2", "--layouts", "contiguous", "--memory", "0.001"]
    arguments += ["--threads", "1", "--repeats", "1", "--out", str(path)]
    assert benchmark.main(arguments, {"peers": peers.run}) == 0
    tables = json.loads(path.read_text())["tables"]
    rows = [row for row in tables["at equal parameters"] if row["layer"] == "24-72"]
    assert rows[0]["contestant"] == "nn.Conv3d"
    assert (rows[0]["error"], rows[0]["forward_ratio"]) == (0, 1)
    assert rows[0]["parameters"] == 72 * 24 * 27
    ours = {row["contestant"]: row for row in rows if row["contestant"].startswith("psc ")}
    # Eq. 5: M = 108, divided by m; each line reads the planes of its own stream.
    for m, merge in ((1, ""), (2, ", summed"), (3, ", summed"), (2, ", concatenated")):
        row, width = ours[f"psc m={m}{merge}"], 108 // m
        lines = 72 // m if merge == ", concatenated" else 72
        assert row["rank"] == "+".join([str(width)] * m)
        assert row["parameters"] == row["at_most"] == m * width * (24 * 9 + lines * 3)
    names = ["tensorly CP", "tensorly Tucker", "tensorly TT"]
    others = [(r["at_most"], r["contestant"]) for r in rows if r["contestant"].startswith("tens")]
    assert others == [(budget, name) for budget in (46656, 34992, 31104) for name in names]
    for row in tables["at equal parameters"]:
        if row["contestant"] == "tensorly CP":
            assert row["fails"].startswith("left out: its Khatri-Rao product takes")
        else:
            assert row["fails"] is None
            assert 0 <= row["error"] < 1
            assert row["parameters"] <= row["at_most"]
    assert len(tables["side by side"]) == 2 * len(ours)


def layer_of(kernel, stride=1):
    out, channels, *size = kernel.shape
    layer = nn.Conv3d(channels, out, size, stride, [k // 2 for k in size], bias=False)
    layer.weight.data.copy_(kernel)
    return layer


@pytest.mark.parametrize("factorization", peers.IMPLEMENTATIONS)
def test_ranks_are_the_largest_that_fit_and_kernels_those_that_run(factorization):
    pytest.importorskip("tltorch")
    layer = layer_of(
        torch.randn(6, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0)), (1, 2, 2)
    )
    kernel = layer.weight.detach()
    ranks = peers.largest_ranks(factorization, kernel, kernel.numel() // 2)
    made = peers.factorise(layer, factorization, ranks, iterations=2, seed=0)
    stored = sum(p.numel() for p in made.parameters())
    assert stored == peers.stored_numbers(factorization, kernel.shape, ranks)
    assert stored <= kernel.numel() // 2
    sizes = (*kernel.shape[1:], kernel.shape[0])
    cuts = [math.prod(sizes[:i]) for i in range(1, 5)]
    exact = {"TT": [min(cut, kernel.numel() // cut) for cut in cuts], "CP": [kernel.numel()]}
    exact["Tucker"] = [min(n, kernel.numel() // n) for n in kernel.shape]
    for axis in range(len(ranks)):
        more = (*ranks[:axis], ranks[axis] + 1, *ranks[axis + 1 :])
        fits = peers.stored_numbers(factorization, kernel.shape, more) <= kernel.numel() // 2
        assert not fits or ranks[axis] == exact[factorization][axis]
    composed = peers.composed_kernel(factorization, made)
    x = torch.randn(2, 4, 6, 8, 10)
    expected = nn.functional.conv3d(x, composed, stride=(1, 2, 2), padding=(1, 2, 2))
    for implementation in peers.IMPLEMENTATIONS[factorization]:
        module = peers.in_implementation(layer, implementation, made)
        with torch.no_grad():
            torch.testing.assert_close(module(x), expected, rtol=1e-3, atol=1e-3)


def test_no_rank_is_small_enough():
    with pytest.raises(ConfigError, match="no TT of a kernel"):
        peers.largest_ranks("TT", torch.ones(4, 4, 3, 3, 3), 16)


@pytest.mark.parametrize("block", ["3d", "p2sc2"])
def test_trained_layers_are_one_of_each_shape(tmp_path, block):
    small = ["backbone.base_width=4", "backbone.growth=2", "backbone.depth=1"]
    config = compose(["backbone=unet", f"block={block}", *small])
    network = build_network(config.backbone, config.block)
    weights = {f"{NETWORK_PREFIX}{k}": v for k, v in network.state_dict().items()}
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": weights, CONFIG_KEY: asdict(config)}, path)
    if block != "3d":
        with pytest.raises(ConfigError, match=r"has no 3D convolution to convert"):
            peers.trained_layers(path, "cpu", None)
        return
    first = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            first.setdefault(module.weight.shape, (name, module))
    layers = peers.trained_layers(path, "cpu", 6)
    assert [layer.name for layer in layers] == [name for name, _ in first.values()]
    for layer, (_, module) in zip(layers, first.values(), strict=True):
        assert torch.equal(layer.convolution.weight, module.weight)
        assert layer.convolution(layer.input(0)).shape[2:] == layer.input(0).shape[2:] == (6, 6, 6)


def test_layers_are_those_that_are_asked_for():
    layers = peers.random_layers(("stem", "64-64"), "cpu", None, seed=2)
    assert [layer.name for layer in layers] == ["64-64", "stem"]
    assert layers[1].convolution(layers[1].input(0)).shape == (1, 64, 16, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["block", "--segments", "24-71"], "segments ['24-71']: there are unet, resnet, 1-24"),
        (["block", "--blocks", "p4sc1"], "block p4sc1: there are 3d, p1sc1"),
        (["block", "--size", "4", "--padding", "valid"], "3d, input 1x1x4x4x4: "),
        (["block", "--device", "cpu", "--precisions", "tf32"], "on cpu there are fp32, bf16"),
        (["networks", "--backbones", "vgg"], "backbone vgg: there are densenet"),
        (["networks", "--backbones", "unet", "--size", "20"], "nearest valid sizes: 16"),
        (["crops", "--size", "20", "--input-size", "21"], "does not fit into a volume of (20, 20"),
        (["patches", "--size", "40", "--input-size", "21"], "a volume of (40, 20, 40)"),
        (["malis", "--sizes", "9", "2"], "at least 3 voxels, found 2"),
        (["blockwise", "--sizes", "1"], "at least 2"),
        (["blockwise", "--folder", "/nowhere"], "no such folder"),
        (["conversion", "--networks", "vgg"], "networks ['vgg']: there are r3d_18, unet"),
    ],
)
def test_refusals_leave_no_file(tmp_path, capsys, arguments, message):
    path = tmp_path / "result.json"
    assert benchmark.main([*arguments, "--out", str(path)]) == 1
    assert message in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize("wrong", [["block", "--layouts", "x"], ["crops", "--size", "0"]])
def test_arguments_have_the_types_of_the_function(wrong, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(wrong)
    assert "error: argument" in capsys.readouterr().err


def test_contestants_take_turns_after_a_warm_up():
    order, left = [], [None, None, None]  # two calls that warm up, one round

    def fails():
        order.append("c")
        raise ValueError("first line\nsecond line")

    contestants = {
        "a": lambda: order.append("a"),
        "c": fails,
        "d": left.pop,
        "b": lambda: order.append("b"),
    }
    timings = timing.interleave(contestants, repeats=3)
    assert "".join(order) == "aa" + "c" + "bb" + 3 * "ab"
    assert list(timings) == ["a", "c", "d", "b"]
    assert len(timings["a"].cpu) == len(timings["b"].wall) == 3
    assert timings["c"].failure == "ValueError: first line"
    assert timings["c"].median("cpu") is timings["d"].median("wall") is None
    assert timings["d"].failure == "IndexError: pop from empty list"


def test_short_calls_are_repeated_and_waited_for(monkeypatch):
    monkeypatch.setattr(timing, "SHORTEST", 0.001)
    calls, waits = [], []
    timing.interleave({"a": lambda: calls.append(1)}, 1, finish=lambda: waits.append(len(calls)))
    assert len(calls) > 10
    assert waits == [0, 1, 1, 2, 2, len(calls)]  # before and after each measurement


def test_one_step_of_adam_and_no_gradients_left():
    module, x = nn.Conv3d(1, 2, 1), torch.randn(1, 1, 2, 2, 2)
    before = module.weight.detach().clone()
    steps = timing.Steps(lambda: (module, x), "channels_last_3d", "fp32", "cpu", network=True)
    steps.train()
    # Adam's first step is the learning rate, against the sign of the gradient.
    change = (module.weight - before).abs()
    assert torch.allclose(change, torch.full_like(change, timing.LEARNING_RATE), rtol=1e-2)
    assert module.weight.grad is None
    assert module.training
    assert not steps.forward().requires_grad
    assert not module.training


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells a process's peak"
)
def test_peak_memory():
    def hold():
        torch.ones(50_000_000)  # 200 MB, freed at once, and kept by the C library (psc.machine)
        torch.ones(50_000_000)

    def fails():
        raise torch.OutOfMemoryError("no memory")

    assert 199 < timing.peak_extra_mb(hold, "cpu") < 450
    assert timing.peak_extra_mb(lambda: None, "cpu") < 10
    assert timing.peak_extra_mb(fails, "cpu") is None


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="all kernels are slow ones")
def test_slow_convolutions_are_counted():
    torch.set_num_threads(1)
    along, cube = nn.Conv3d(2, 2, (5, 1, 1), padding=(2, 0, 0)), nn.Conv3d(24, 1, 3)
    small, large = torch.randn(1, 2, 6, 6, 6), torch.randn(1, 24, 30, 30, 4)
    assert timing.slow_convolutions(lambda: (along(small), along(small)), "cpu") == 2
    assert timing.slow_convolutions(lambda: cube(large), "cpu") == 0  # 24·30·30 > 20,480
    assert timing.slow_convolutions(lambda: cube(large[:, :, :9]), "cpu") == 1
    assert timing.slow_convolutions(lambda: along(small), "cuda") is None


def test_csv_and_markdown_hold_all_tables(tmp_path):
    tables = {
        "first": [{"a": 1, "b": None}, {"a": 12345.6, "b": "x|y"}],
        "second": [{"b": 3, "c": 0.0123456}],
    }
    report = timing.Report(tables, {"device": "cpu", "repeats": 4}, "block")
    report.write_csv(tmp_path / "tables.csv")
    with (tmp_path / "tables.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    processor = timing.environment()["cpu"]
    first = {"table": "first", "hardware": processor, "c": ""}
    assert rows == [
        first | {"a": "1", "b": ""},
        first | {"a": "12345.6", "b": "x|y"},
        first | {"table": "second", "a": "", "b": "3", "c": "0.0123456"},
    ]
    assert "| 12346 | x/y |" in report.as_markdown()
    assert "| 3 | 0.0123 |" in report.as_markdown()
    path = tmp_path / "tables.csv"
    before = path.read_bytes()
    with pytest.raises(TypeError):
        timing.Report({}, {"size": object()}).write_json(path)
    assert path.read_bytes() == before
