"""The benchmark of conversions at tiny sizes: what it compares, and at which sizes."""

import json
import math
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))  # where Python itself looks when the script is started

import benchmark  # noqa: E402
from benchmarks import (  # noqa: E402
    conversion_speed,
    equal_parameters,
    kernels,
    side_by_side,
    timing,
)
from benchmarks import tensorly_peer as peer  # noqa: E402

from psc import convert  # noqa: E402
from psc.config import compose  # noqa: E402
from psc.errors import ConfigError  # noqa: E402
from psc.networks.build import build_network  # noqa: E402
from psc.training.checkpoints import CONFIG_KEY, NETWORK_PREFIX  # noqa: E402

OURS = ["m=1", "m=2, concatenated", "m=3, concatenated", "m=2, summed", "m=3, summed"]


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    """Calls are not repeated until they are long enough; the threads are as before."""
    monkeypatch.setattr(equal_parameters, "_SHORTEST", 0.0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tensorly():
    return pytest.importorskip("tltorch")


def run(tmp_path, *arguments):
    path = tmp_path / "result.json"
    fixed = ["--device", "cpu", "--repeats", "1", "--threads", "1", "--out", str(path)]
    assert benchmark.main(["conversion", *arguments, *fixed]) == 0
    return json.loads(path.read_text())


# The speed of convert


def tiny_network():
    return nn.Sequential(
        nn.Conv3d(2, 24, 3),
        nn.BatchNorm3d(24),
        nn.Conv3d(24, 12, 3, groups=12),
        nn.Conv3d(12, 1, 1),
    )


def test_speed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(conversion_speed, "NETWORKS", {"tiny": tiny_network})

    result = run(tmp_path, "--parts", "speed", "--networks", "tiny", "--seed", "3")

    assert list(result["tables"]) == ["convert"]
    rows = result["tables"]["convert"]
    assert [(row["network"], row["m"]) for row in rows] == [("tiny", 1), ("tiny", 2), ("tiny", 3)]
    torch.manual_seed(3)
    network = tiny_network()
    count = sum(p.numel() for p in network.parameters())
    # Batch norm's running mean, variance and their counter (int64) are held too.
    held = 4 * (count + 2 * 24) + 8
    grouped = "1 × 1 output channels in each of its 12 groups cannot be shared out to m={m} streams"
    for row, m in zip(rows, (1, 2, 3), strict=True):
        made = convert(network, m, unsupported="skip").model
        assert row["parameters_before"] == count
        assert row["parameters_after"] == sum(p.numel() for p in made.parameters())
        assert (row["convolutions"], row["converted"]) == (3, 2 if m == 1 else 1)
        left = ["1 × pointwise"] if m == 1 else [grouped.format(m=m), "1 × pointwise"]
        assert row["left"] == "; ".join(left)
        errors = []
        for name in ("0", "2")[: row["converted"]]:
            old, new = network.get_submodule(name), made.get_submodule(name)
            errors.append(relative_error(old.weight, response(new)))
        assert row["mean_error"] == pytest.approx(sum(errors) / len(errors), abs=1e-5)
        assert row["max_error"] == pytest.approx(max(errors), abs=1e-5)
        assert row["network_mb"] == pytest.approx(held / 1e6)
        assert row["largest_kernel_mb"] == pytest.approx(4 * 24 * 2 * 27 / 1e6)
        if (peak := row["peak_extra_mb"]) is not None:  # Linux
            kernel = row["largest_kernel_mb"]
            assert row["peak_over_network"] == pytest.approx(peak / row["network_mb"])
            assert row["peak_over_kernel"] == pytest.approx(peak / kernel)
            working = peak - row["new_network_mb"]
            assert row["working_over_kernel"] == pytest.approx(working / kernel)
    assert "| tiny | 1 | 3 | 2 |" in capsys.readouterr().out


def relative_error(kernel, approximation):
    return float((kernel - approximation).detach().norm() / kernel.detach().norm())


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells a process's peak"
)
def test_memory_is_at_least_that_of_the_factors(tmp_path, monkeypatch):
    def large():
        return nn.Sequential(nn.Conv3d(1, 8, 3), nn.Conv3d(192, 192, 3, bias=False))

    monkeypatch.setattr(conversion_speed, "NETWORKS", {"large": large})

    rows = run(tmp_path, "--parts", "speed", "--networks", "large")["tables"]["convert"]

    for row in rows:
        assert row["largest_kernel_mb"] == pytest.approx(4 * 192 * 192 * 27 / 1e6)
        assert row["peak_extra_mb"] > row["new_network_mb"]
        # The thin SVD's factors alone, of a square matrix of 576 x 1728, are more than the kernel;
        # with more streams each has a part of it.
        assert row["working_of_largest_layer_over_kernel"] > 1 / row["m"]


def response(module):
    """The kernel of a linear layer without padding, from its answers to single voxels."""
    size, channels = module.kernel_size, module.in_channels
    taps = math.prod(size)
    x = torch.eye(channels * taps).reshape(channels * taps, channels, *size)
    with torch.no_grad():
        y = module(x).flatten(1) - module(torch.zeros_like(x[:1])).flatten(1)
    kernel = y.T.reshape(module.out_channels, channels, *size)
    if module.groups == 1:
        return kernel
    per_group = channels // module.groups
    out = module.out_channels // module.groups
    rows = [kernel[i, (i // out) * per_group :][:per_group] for i in range(len(kernel))]
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("name", "parameters", "convolutions"),
    [
        ("r3d_18", 33_371_472, 20),
        ("unet", 25_178_811, 18),
        ("mc3_18", 11_695_440, 20),
        ("r2plus1d_18", 31_505_325, 37),
        ("s3d", 8_320_048, 78),
        ("mvit_v2_s", 34_537_744, 49),
        ("swin3d_b", 88_048_984, 1),
    ],
)
def test_networks_are_those_of_the_paper_and_of_torchvision(name, parameters, convolutions):
    with torch.device("meta"):
        network = conversion_speed.NETWORKS[name]()

    assert sum(p.numel() for p in network.parameters()) == parameters
    assert sum(isinstance(m, nn.Conv3d) for m in network.modules()) == convolutions


def test_a_network_that_there_is_not_is_refused(capsys):
    assert benchmark.main(["conversion", "--parts", "speed", "--networks", "vgg"]) == 1

    assert "networks ['vgg']: there are r3d_18, unet" in capsys.readouterr().err


def test_a_single_call_is_timed_and_its_errors_are_raised():
    waits = []

    result, seconds = timing.timed(lambda: 3, finish=lambda: waits.append(1))

    assert result == 3
    assert (len(seconds.cpu), len(seconds.wall), len(waits)) == (1, 1, 2)
    with pytest.raises(ZeroDivisionError):
        timing.timed(lambda: 1 // 0)


# Beside tensorly-torch


@pytest.mark.usefixtures("tensorly")
def test_peers(tmp_path):
    arguments = ["--parts", "peers", "--layers", "24-72", "--size", "5", "--iterations", "2"]
    result = run(tmp_path, *arguments)

    assert result["environment"]["versions"]["tensorly-torch"]
    assert list(result["tables"]) == ["at equal parameters", "side by side"]
    rows = result["tables"]["at equal parameters"]
    weight = kernels.random_layers(["24-72"], "cpu", 5, 0)[0].convolution.weight
    assert rows[0]["contestant"] == "nn.Conv3d"
    assert (rows[0]["error"], rows[0]["forward_ratio"]) == (0, 1)
    assert rows[0]["parameters"] == weight.numel() == 72 * 24 * 27
    for row in rows:
        assert row["fails"] is None
        assert row["parameters"] <= row["at_most"]
        assert row["input"] == "1x24x5x5x5"
        assert row["forward_ratio"] == row["forward_seconds"] / rows[0]["forward_seconds"]
        has = {"mobilenet": "CP" in row["contestant"], "reconstructed": "tens" in row["contestant"]}
        assert {k: row[f"{k}_ratio"] is not None for k in has} == has
    ours = {row["contestant"]: row for row in rows if row["contestant"].startswith("psc ")}
    assert list(ours) == [f"psc {name}" for name in (OURS[0], *OURS[3:], *OURS[1:3])]
    # Eq. 5: M = 108, divided by m; each line reads the planes of its own stream.
    for m, merge in ((1, ""), (2, ", summed"), (3, ", summed"), (2, ", concatenated")):
        row, width = ours[f"psc m={m}{merge}"], 108 // m
        lines = 72 // m if merge == ", concatenated" else 72
        assert row["rank"] == "+".join([str(width)] * m)
        assert row["parameters"] == row["at_most"] == m * width * (24 * 9 + lines * 3)
    check_errors(ours, weight)
    budgets = [46656, 34992, 31104]
    peers = [(r["at_most"], r["contestant"]) for r in rows if r["contestant"].startswith("tens")]
    names = ["tensorly CP", "tensorly Tucker", "tensorly TT"]
    assert peers == [(budget, name) for budget in budgets for name in names]
    lines = result["tables"]["side by side"]
    assert [line["psc"] for line in lines] == [OURS[0], *OURS[3:], *OURS[1:3]]


def check_errors(ours, weight):
    """Against convert itself, its kernels found from their answers."""
    layer = nn.Conv3d(24, 72, 3, bias=False)
    layer.weight.data.copy_(weight)
    for name, m, merge in (
        ("psc m=1", 1, "concatenate"),
        ("psc m=2, summed", 2, "sum"),
        ("psc m=3, concatenated", 3, "concatenate"),
    ):
        kernel = response(convert(layer, m, merge=merge).model)
        assert ours[name]["error"] == pytest.approx(relative_error(weight, kernel), abs=1e-5)


@pytest.mark.usefixtures("tensorly")
def test_cp_is_left_out_where_it_takes_too_much_memory(tmp_path):
    arguments = ["--parts", "peers", "--layers", "stem", "--size", "8", "--iterations", "1"]
    rows = run(tmp_path, *arguments, "--memory", "0.001")["tables"]["at equal parameters"]

    left_out = [row for row in rows if row["contestant"] == "tensorly CP"]
    assert left_out
    for row in left_out:
        rank = int(row["rank"])
        # The product of all factors but the smallest's, which has 3 rows (channels or frames).
        size = 4 * rank * 64 * 3 * 7 * 7 / 1e9
        assert row["fails"] == (
            f"left out: its Khatri-Rao product takes {size:.1f} GB, more than 0.001"
        )
        assert row["parameters"] == rank * (1 + 64 + 3 + 3 + 7 + 7)
        assert row["error"] is row["factorise_seconds"] is row["forward_ratio"] is None
    assert all(row["error"] < 1 for row in rows if row["contestant"] != "tensorly CP")


def test_the_peer_is_needed_for_its_part_only(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tltorch", None)
    monkeypatch.setattr(conversion_speed, "NETWORKS", {"tiny": tiny_network})

    assert benchmark.main(["conversion"]) == 1

    assert "pip install tensorly tensorly-torch" in capsys.readouterr().err
    speed = ["conversion", "--parts", "speed", "--networks", "tiny", "--repeats", "1"]
    assert benchmark.main([*speed, "--device", "cpu"]) == 0


def layer_of(kernel, stride=1):
    out, channels, *size = kernel.shape
    padding = [k // 2 for k in size]
    layer = nn.Conv3d(channels, out, size, stride, padding, bias=False)
    layer.weight.data.copy_(kernel)
    return layer


@pytest.mark.usefixtures("tensorly")
@pytest.mark.parametrize("shape", [(12, 10, 3, 3, 3), (8, 3, 3, 5, 5), (6, 1, 3, 3, 3)])
@pytest.mark.parametrize("factorization", peer.FACTORIZATIONS)
def test_ranks_are_the_largest_that_fit(factorization, shape):
    kernel = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact = {"Tucker": [min(n, kernel.numel() // n) for n in shape]}
    sizes = (*shape[1:], shape[0])
    cuts = [math.prod(sizes[:i]) for i in range(1, 5)]
    exact["TT"] = [min(cut, kernel.numel() // cut) for cut in cuts]
    exact["CP"] = [kernel.numel()]
    for budget in (kernel.numel() // 2, kernel.numel(), 10 * kernel.numel()):
        ranks = peer.largest_ranks(factorization, kernel, budget)

        layer = layer_of(kernel)
        made = peer.factorise(layer, factorization, ranks, iterations=1, seed=0)
        stored = sum(p.numel() for p in made.parameters())
        assert stored == peer.stored_numbers(factorization, shape, ranks) <= budget
        for axis, rank in enumerate(ranks):
            more = (*ranks[:axis], rank + 1, *ranks[axis + 1 :])
            is_all = rank == exact[factorization][axis]
            assert is_all or peer.stored_numbers(factorization, shape, more) > budget


def test_no_rank_is_small_enough():
    with pytest.raises(ConfigError, match="no TT of a kernel"):
        peer.largest_ranks("TT", torch.ones(4, 4, 3, 3, 3), 16)


@pytest.mark.usefixtures("tensorly")
@pytest.mark.parametrize(
    ("factorization", "ranks"), [("CP", (2,)), ("Tucker", (2, 3, 3, 2, 3)), ("TT", (3, 4, 5, 4))]
)
def test_exact_ranks_are_found_and_have_no_error(factorization, ranks):
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    shape = (12, 10, 3, 3, 3)
    if factorization == "CP":
        kernel = torch.einsum("ar,br,cr,dr,er->abcde", *(random(n, 2) for n in shape))
    elif factorization == "Tucker":
        factors = [random(n, r) for n, r in zip(shape, ranks, strict=True)]
        kernel = torch.einsum("vwxyz,av,bw,cx,dy,ez->abcde", random(*ranks), *factors)
    else:
        train = [1, *ranks, 1]
        sizes = (*shape[1:], shape[0])
        parts = [random(train[i], n, train[i + 1]) for i, n in enumerate(sizes)]
        kernel = torch.einsum("vaw,wbx,xcy,ydz,zeu->eabcd", *parts)

    # Of all that fit, the singular values tell those that lose nothing.
    budget = peer.stored_numbers(factorization, shape, ranks)
    chosen = peer.largest_ranks(factorization, kernel, budget)
    assert chosen == ranks
    layer = layer_of(kernel.float())
    made = peer.factorise(layer, factorization, chosen, iterations=300, seed=0)
    found = peer.composed_kernel(factorization, made)
    assert relative_error(layer.weight, found) < 1e-3


@pytest.mark.usefixtures("tensorly")
@pytest.mark.parametrize(
    ("factorization", "implementation"),
    [(f, i) for f, implementations in peer.IMPLEMENTATIONS.items() for i in implementations],
)
def test_every_implementation_is_the_convolution_by_the_composed_kernel(
    factorization, implementation
):
    torch.manual_seed(0)
    layer = layer_of(torch.randn(6, 4, 3, 5, 5), stride=(1, 2, 2))
    ranks = peer.largest_ranks(factorization, layer.weight.detach(), layer.weight.numel() // 2)
    made = peer.factorise(layer, factorization, ranks, iterations=2, seed=0)

    module = peer.in_implementation(made, layer, implementation)

    x = torch.randn(2, 4, 6, 8, 10)
    expected = F.conv3d(
        x, peer.composed_kernel(factorization, made), stride=(1, 2, 2), padding=(1, 2, 2)
    )
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected, rtol=1e-3, atol=1e-3)


# Which kernels


def checkpoint_of(tmp_path, block):
    small = ["backbone.base_width=4", "backbone.growth=2", "backbone.depth=1"]
    config = compose(["backbone=unet", f"block={block}", *small])
    network = build_network(config.backbone, config.block)
    weights = {f"{NETWORK_PREFIX}{k}": v for k, v in network.state_dict().items()}
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": weights, CONFIG_KEY: asdict(config)}, path)
    return path, network


def test_trained_layers_are_one_of_each_shape(tmp_path):
    path, network = checkpoint_of(tmp_path, "3d")

    layers = kernels.trained_layers(path, "cpu", 6)

    convolutions = {
        name: m
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3)
    }
    first = {}
    for name, module in convolutions.items():
        first.setdefault(module.weight.shape, name)
    assert [layer.name for layer in layers] == list(first.values())
    assert len(first) < len(convolutions)
    for layer in layers:
        assert layer.kernels == "trained"
        assert torch.equal(layer.convolution.weight, convolutions[layer.name].weight)
        x = layer.input(0)
        assert x.shape == (1, layer.convolution.in_channels, 6, 6, 6)
        assert layer.convolution(x).shape[2:] == x.shape[2:]
        assert torch.equal(x, layer.input(0))


@pytest.mark.usefixtures("tensorly")
def test_trained_kernels_come_after_the_random_ones(tmp_path):
    path, _ = checkpoint_of(tmp_path, "3d")
    arguments = ["--parts", "peers", "--layers", "stem", "--checkpoint", str(path)]
    tiny = ["--size", "5", "--iterations", "1", "--memory", "0.0001", "--layouts", "contiguous"]
    tables = run(tmp_path, *arguments, *tiny)["tables"]

    names = dict.fromkeys((row["kernels"], row["layer"]) for row in tables["at equal parameters"])
    assert next(iter(names)) == ("random", "stem")
    trained = [layer.name for layer in kernels.trained_layers(path, "cpu", 5)]
    assert list(names)[1:] == [("trained", name) for name in trained]
    assert len(tables["side by side"]) == len(names) * len(OURS)


def test_a_checkpoint_without_3d_convolutions_is_refused(tmp_path):
    path, _ = checkpoint_of(tmp_path, "p2sc2")

    with pytest.raises(ConfigError, match=r"has no 3D convolution to convert; only networks of"):
        kernels.trained_layers(path, "cpu", None)


def test_layers_are_those_that_are_asked_for():
    layers = kernels.random_layers(("stem", "64-64"), "cpu", None, seed=2)

    assert [layer.name for layer in layers] == ["64-64", "stem"]
    assert layers[1].convolution.stride == (1, 2, 2)
    assert layers[1].convolution(layers[1].input(0)).shape == (1, 64, 16, 32, 32)
    with pytest.raises(ConfigError, match=r"layers \['24-71'\]: there are 24-72, 64-64"):
        kernels.random_layers(("24-71",), "cpu", None, seed=2)


def test_side_by_side():
    def row(contestant, budget, error, *ratios):
        forward, mobilenet, reconstructed = ratios
        return {
            "kernels": "random",
            "layer": "a",
            "kernel": "1x1x3x3x3",
            "at_most": budget,
            "contestant": contestant,
            "parameters": budget - 1,
            "error": error,
            "factorise_seconds": 10 * error,
            "forward_ratio": forward,
            "mobilenet_ratio": mobilenet,
            "reconstructed_ratio": reconstructed,
        }

    rows = [
        row("nn.Conv3d", 9, 0.0, 1, None, None),
        row("psc m=1", 8, 0.1, 0.5, None, None),
        row("tensorly CP", 8, 0.2, 3.0, 2.5, 1.0),
        row("psc m=2, summed", 7, 0.3, 0.25, None, None),
        row("tensorly CP", 7, 0.4, None, None, None),
    ]
    first, second = side_by_side.side_by_side(rows)

    assert first == {
        "kernels": "random",
        "layer": "a",
        "kernel": "1x1x3x3x3",
        "psc": "m=1",
        "parameters": 7,
        "psc_error": 0.1,
        "CP_error": 0.2,
        "psc_seconds": 1.0,
        "CP_seconds": 2.0,
        "psc_forward": 0.5,
        "CP_forward": 2.5,
    }
    assert (second["psc"], second["CP_error"], second["CP_forward"]) == ("m=2, summed", 0.4, None)
