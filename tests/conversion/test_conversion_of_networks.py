"""Networks that others wrote: torchvision's and MONAI's; and what PyTorch does with the result."""

import os

import pytest
import torch
import torch.distributed as dist
from monai.networks.nets import BasicUNet, DynUNet, UNet
from torch import nn
from torchvision.models.video import mc3_18, r3d_18, s3d

from psc import convert, merge_linear


def awake(network):
    """The network, evaluating, with weights that keep the signal's size on its way."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
    return network.eval()


@torch.no_grad()
def difference(a, b, x):
    expected = b(x)
    return float((a(x) - expected).abs().max() / expected.abs().max())


def test_all_but_three_projections_of_a_whole_r3d_18_are_converted():
    with torch.device("meta"):
        network = r3d_18(num_classes=10)
    assert len(convert(network, 3, init="random").report.converted) == 17


@pytest.mark.parametrize(
    ("build", "include", "count", "size"),
    [
        (mc3_18, ["stem", "layer1.0"], 3, (4, 16, 16)),
        (s3d, None, 0, None),
        (r3d_18, ["stem", "layer1.1"], 3, (4, 16, 16)),
    ],
)
def test_torchvisions_video_networks(build, include, count, size):
    torch.manual_seed(0)
    network = awake(build(num_classes=4))
    if size is None:
        # S3D is separable already: nothing is left to convert, and that is said.
        report = convert(network).report
        assert not report.converted
        assert {row.reason for row in report.layers} == {"pointwise", "2D or 1D already"}
        return
    x = torch.randn(1, 3, *size)
    exact = convert(network, 3, width=None, include=include, example_input=x)
    assert len(exact.report.converted) == count
    assert difference(exact.model, network, x) < 1e-4
    near = convert(network, 1, include=include).model
    random = convert(network, 1, include=include, init="random").model
    assert difference(near, network, x) < difference(random, network, x)


def monai_unet():
    return UNet(3, 1, 2, channels=(4, 8, 8), strides=(2, 2), num_res_units=1)


def nnunet():
    sizes, strides = [[1, 3, 3], [3, 3, 3], [3, 3, 3]], [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    return DynUNet(3, 1, 2, sizes, strides, strides[1:], filters=[4, 6, 8], deep_supervision=True)


def basic_unet():
    return BasicUNet(3, 1, 2, features=(4, 4, 4, 8, 8, 4))


@pytest.mark.parametrize("build", [monai_unet, nnunet, basic_unet])
def test_monais_u_nets(build):
    torch.manual_seed(0)
    network = build().eval()
    x = torch.randn(1, 1, 32 if build is basic_unet else 16, 32, 32)
    done = convert(network, 2, width=None, example_input=x)
    cubic = [part for part in network.modules() if type(part) is nn.Conv3d]
    cubic = [part for part in cubic if min(part.kernel_size) > 1]
    assert len(done.report.converted) == len(cubic) > 4
    assert difference(done.model, network, x) < 1e-4
    assert not any(part in cubic for part in done.model.modules())
    back = merge_linear(done.model)
    assert difference(back, network, x) < 1e-4


def test_export_gives_the_same_program(odd, odd_input):
    model = convert(odd, 2).model.eval()
    program = torch.export.export(model, (odd_input,))
    assert torch.allclose(program.module()(odd_input), model(odd_input), atol=1e-6)


@pytest.fixture
def process_group(tmp_path):
    """Gloo with one process."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp_trains_a_converted_network(process_group, odd, odd_input):
    model = convert(odd, 2).model
    order = model.stem.channel_order.clone()
    parallel = nn.parallel.DistributedDataParallel(model)
    optimiser = torch.optim.SGD(parallel.parameters(), 0.1)
    before = [p.detach().clone() for p in model.parameters()]
    parallel(odd_input).square().mean().backward()
    optimiser.step()
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert torch.equal(model.stem.channel_order, order)
    with pytest.raises(ValueError, match="wrapped in DistributedDataParallel"):
        convert(parallel)
