"""Adam's parameter groups and the schedules."""

import pytest
import torch
from torch import nn

from psc.training.settings import OptimizerConfig, ScheduleConfig
from psc.training.task import build_optimizer, learning_rate_factor


def test_biases_learn_at_twice_the_rate_and_nothing_is_left_out():
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Conv3d(2, 1, 1, bias=False))
    config = OptimizerConfig(
        learning_rate=1e-3, betas=[0.99, 0.999], weight_decay=5e-6, bias_learning_rate_factor=2
    )
    optimizer = build_optimizer(network, config)
    weights, biases = optimizer.param_groups
    assert (weights["lr"], biases["lr"]) == (1e-3, 2e-3)
    assert weights["betas"] == (0.99, 0.999)
    assert weights["weight_decay"] == 5e-6
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in network.parameters()}
    assert {id(p) for p in biases["params"]} == {id(network[0].bias), id(network[1].bias)}


def test_the_fused_kernel_is_adam_to_rounding():
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4, 2, 1)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    config = OptimizerConfig(1e-2, [0.9, 0.99], 1e-8, 1e-3, 2.0)
    ours = build_optimizer(networks[0], config)
    assert ours.defaults["fused"]
    groups = [{**group, "params": []} for group in ours.param_groups]
    for name, parameter in networks[1].named_parameters():
        groups[name.endswith("bias")]["params"].append(parameter)
    plain = torch.optim.Adam([{**g, "fused": False, "foreach": False} for g in groups])
    for _ in range(20):
        x = torch.randn(2, 1, 5, 5, 5)
        for network, optimizer in zip(networks, (ours, plain), strict=True):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_inverse_is_caffes_inv():
    factor = learning_rate_factor(ScheduleConfig("inverse", gamma=1e-4, power=0.75), 100_000)
    assert factor(0) == 1
    assert factor(100_000) == pytest.approx(11**-0.75)


def test_cosine_ends_at_zero_and_constant_stays():
    cosine = learning_rate_factor(ScheduleConfig("cosine"), 100)
    assert [cosine(i) for i in (0, 50, 100, 150)] == pytest.approx([1, 0.5, 0, 0], abs=1e-12)
    constant = learning_rate_factor(ScheduleConfig("constant"), 100)
    assert constant(77) == 1


def test_the_schedule_reaches_the_optimizer():
    network = nn.Linear(1, 1)
    optimizer = build_optimizer(network, OptimizerConfig(learning_rate=1.0))
    factor = learning_rate_factor(ScheduleConfig("inverse", gamma=1.0, power=1.0), 10)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    rates = []
    for _ in range(3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1, 1 / 2, 1 / 3])
