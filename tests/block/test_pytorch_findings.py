"""What docs/pytorch-findings.md says of PyTorch still holds, and is not met by our convolutions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from psc.block.convolution import conv3d

KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "1000000000",
}
"""glibc hands out freed memory again, as it was left."""


def error(found, exact):
    return ((found - exact).norm() / exact.norm()).item()


def test_instance_norm_of_one_volume_misreads_a_gradient_with_channels_last():
    """Once this fails, PyTorch reads it: train networks with instance norms in channels last."""
    torch.manual_seed(0)
    norm, g = nn.InstanceNorm3d(4), torch.randn(1, 4, 6, 7, 8)
    x = torch.randn(1, 4, 6, 7, 8, requires_grad=True)
    (right,) = torch.autograd.grad(norm(x), x, g)
    last = g.contiguous(memory_format=torch.channels_last_3d)
    assert error(torch.autograd.grad(norm(x), x, last)[0], right) > 1


@pytest.mark.parametrize("norm", [nn.InstanceNorm3d, nn.BatchNorm3d])
@pytest.mark.parametrize("size", [(2, 10, 12), (9, 1, 12), (12, 12, 12)])
def test_a_norm_before_and_behind_our_convolutions_is_given_strides_that_it_reads(norm, size):
    torch.manual_seed(0)
    layers = []
    for kernel in ((1, 3, 3), (5, 1, 1), (3, 1, 3), (1, 5, 1), (1, 1, 1)):
        padding = tuple(k // 2 for k in kernel)
        layers += [norm(6, affine=True), nn.Tanh(), conv3d(6, 6, kernel, padding=padding)]
    network = nn.Sequential(*layers, norm(6))
    x, g = torch.randn(1, 6, *size), torch.randn(1, 6, *size)
    parameters = list(network.parameters())
    found = torch.autograd.grad(network(x), parameters, g)
    network.double()
    exact = torch.autograd.grad(network(x.double()), list(network.parameters()), g.double())
    most = max(e.norm() for e in exact)
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours.double() - theirs).norm() < 1e-4 * most


@pytest.mark.parametrize("isa", ["AVX512_CORE_BF16", "DEFAULT"])
def test_nothing_depends_on_what_lay_in_memory(isa):
    """Every kernel of the nine networks over short and long axes, in a process of its own."""
    older = isa != "DEFAULT"
    if older and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        pytest.skip("no AVX-512 here")
    dtypes = ["bfloat16"] if older else ["bfloat16", "float32"]
    script = Path(__file__).with_name("poisoned_memory.py")
    done = subprocess.run(
        [sys.executable, str(script), *dtypes],
        env={**os.environ, **KEPT, "ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tried"] > 100
    assert found["hit"] == []
    if older:
        assert found["plain is hit"], "PyTorch's own is right now: docs/pytorch-findings.md, 2"


@pytest.mark.parametrize("depth", [5, 6, 7])
def test_large_strided_kernels_on_few_slices_learn(depth):
    """PyTorch's own weight gradient is anything up to 1e34."""
    torch.manual_seed(0)
    layer = conv3d(16, 8, 7, 2, 3)
    x = torch.randn(1, 16, depth, 8, 8)
    y = layer(x)
    direction = torch.randn_like(y)
    (ours,) = torch.autograd.grad(y, layer.weight, direction)
    layer.double()
    exact = torch.autograd.grad(layer(x.double()), layer.weight, direction.double())[0]
    assert error(ours.double(), exact) < 1e-5


KERNELS = [(1, 3, 3), (3, 1, 3), (5, 1, 1), (1, 5, 1), (1, 1, 5), (1, 1, 1)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(16, 16, 16), (24, 30, 30)], ids=["small", "large"])
def test_small_volumes_and_lines_are_given_to_onednn(kernel, size, monkeypatch):
    """Of what we ask PyTorch for, on one thread, it gives all to oneDNN; of nn.Conv3d's, less."""
    asked = []
    convolve = F.conv3d

    def conv3d_that_tells(x, weight, bias, stride, padding, dilation, groups=1):
        select = torch._C._select_conv_backend
        backend = select(x, weight, bias, stride, padding, dilation, False, [0, 0, 0], groups)
        asked.append(str(backend).rsplit(".")[-1])
        return convolve(x, weight, bias, stride, padding, dilation, groups)

    layer = conv3d(32, 8, kernel, padding=tuple(k // 2 for k in kernel))
    x = torch.randn(1, 32, *size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = layer.double()(x.double())
        layer.float()
        monkeypatch.setattr(F, "conv3d", conv3d_that_tells)
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-5)
        assert asked == ["Mkldnn"]
        nn.Conv3d._conv_forward(layer, x, layer.weight, layer.bias)
        small = size == (16, 16, 16)
        if small or kernel[1:] == (1, 1):
            assert asked[1] == "Slow3d", (
                "PyTorch gives it to oneDNN itself: docs/pytorch-findings.md, 5"
            )
    finally:
        torch.set_num_threads(threads)
