"""Gradients do not depend on what freed memory held (docs/pytorch-findings.md)."""

import os
import subprocess
import sys

import pytest
import torch

PROGRAM = """
import itertools, sys, torch
from psc.block.convolution import conv3d

torch.set_num_threads(1)
lines = [tuple(k if a == axis else 1 for a in range(3)) for k in (3, 5, 7) for axis in range(3)]
planes = [(1, 3, 3), (3, 1, 3), (3, 3, 1), (3, 3, 3), (1, 1, 1), (3, 7, 7)]
sizes = [(1, 4, 5), (2, 3, 6), (3, 3, 6), (4, 3, 6), (5, 6, 3), (6, 7, 7), (8, 2, 3)]


def poison(value):
    counts = (1000, 5000, 20000, 60000, 200000, 600000)
    held = [torch.full((n,), value) for n in counts for _ in range(2)]
    del held


for kernel, size, channels in itertools.product(lines + planes, sizes, ((17, 12), (32, 64))):
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        found = []
        for value in (0.0, float("nan")):
            torch.manual_seed(0)
            layer = conv3d(*channels, kernel, padding=tuple(k // 2 for k in kernel))
            layer = layer.to(memory_format=layout)
            x = torch.randn(2, channels[0], *size).contiguous(memory_format=layout)
            x.requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[1] == "bf16"):
                poison(value)
                y = layer(x)
            g = torch.randn(y.shape).to(y)
            poison(value)
            found.append(torch.autograd.grad(y, (x, *layer.parameters()), g))
        if not all(torch.equal(a, b) for a, b in zip(*found)):
            print(kernel, size, channels, layout)
"""
KEPT = {
    "MALLOC_MMAP_MAX_": "0",  # freed memory is used again, as it is
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "1000000000",
    "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",  # AMX has other kernels
}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_no_kernel_of_the_networks_reads_memory_that_nobody_wrote(precision):
    if precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("no bf16 instructions here")
    command = [sys.executable, "-c", PROGRAM, precision]
    done = subprocess.run(command, env={**os.environ, **KEPT}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
