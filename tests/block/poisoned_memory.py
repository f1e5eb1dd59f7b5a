"""Convolutions beside memory that holds other values: run by test_pytorch_findings.py.

Prints one line of JSON: how many shapes were tried, and those whose result or gradients depend on
what lay in memory before. An own process, as oneDNN and malloc read their settings when they start.
"""

import itertools
import json
import random
import sys

import torch
from torch import nn

from psc import make_unit
from psc.block.convolution import conv3d
from psc.networks import DenseNet, ResNet, UNet


def kernels():
    """(kernel, stride, padding) of every convolution in the nine networks and their 3D twins."""
    blocks = [make_unit(m=m, n=n) for m, n in ((1, 1), (2, 2), (2, 3))]
    sizes = {"initial_channels": 4, "layers_per_block": 1, "dense_blocks": 2}
    found = set()
    for unit in (make_unit("conv3d"), *blocks):
        for network in (
            UNet(unit, base_width=4, growth=1, depth=1, padding="same"),
            ResNet(unit, in_channels=3, classes=5, layers=18, base_width=4),
            DenseNet(unit, in_channels=1, classes=3, **sizes),
        ):
            for part in network.modules():
                if isinstance(part, nn.Conv3d):
                    found.add((part.kernel_size, part.stride, part.padding))
    return sorted(found)


def poison(value):
    """Leave freed memory behind that holds the value."""
    return [torch.full((n,), value) for n in (1000, 5000, 20000, 60000, 200000) for _ in range(2)]


def answers(layer, size, value, dtype, layout):
    """Result and gradients beside memory that holds the value."""
    torch.manual_seed(0)
    x = torch.randn(1 + size[0] % 2, layer.in_channels, *size).to(dtype).to(memory_format=layout)
    x.requires_grad_()
    poison(value)
    y = layer(x)
    direction = torch.randn(y.shape).to(y)
    poison(value)
    return [y.detach(), *torch.autograd.grad(y, [x, layer.weight], direction)]


def depends_on_memory(layer, size, dtype, layout):
    twice = [answers(layer, size, value, dtype, layout) for value in (0.0, float("nan"))]
    return not all(map(torch.equal, *twice))


def main(*dtypes):
    torch.set_num_threads(1)
    chosen, hit, tried = random.Random(0), [], 0
    layouts = (torch.contiguous_format, torch.channels_last_3d)
    for (kernel, stride, padding), name in itertools.product(kernels(), dtypes):
        dtype = getattr(torch, name)
        sizes = itertools.product((1, 2, 3, 4, 6), (1, 3, 6), (1, 2, 7))
        fitting = [
            size
            for size in sizes
            if all(s + 2 * p >= k for s, p, k in zip(size, padding, kernel, strict=True))
        ]
        for size in chosen.sample(fitting, 6):
            channels, filters = chosen.choice([(17, 12), (20, 12), (32, 64)])
            layout = chosen.choice(layouts)
            layer = conv3d(channels, filters, kernel, stride, padding, bias=False)
            layer.to(dtype=dtype, memory_format=layout)
            tried += 1
            if depends_on_memory(layer, size, dtype, layout):
                hit.append([name, kernel, stride, padding, channels, filters, size, str(layout)])
    # Not strided: that may write beyond its memory.
    layer = nn.Conv3d(17, 12, (5, 1, 1), padding=(2, 0, 0), bias=False).bfloat16()
    plain = [depends_on_memory(layer, (d, 6, 6), torch.bfloat16, layouts[0]) for d in (3, 4)]
    print(json.dumps({"tried": tried, "hit": hit, "plain is hit": any(plain)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
