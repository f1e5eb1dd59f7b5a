"""The report's numbers against independent counts."""

import json

import torch
from torch.utils.flop_counter import FlopCounterMode

from psc import convert
from psc.decomposition.streams import relative_error


def counted(network, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return counter.get_total_flops() // 2


def test_parameters_and_multiply_adds_are_those_of_both_networks(odd, odd_input):
    done = convert(odd, 2, exclude="stem", example_input=odd_input)
    assert done.report.parameters == tuple(
        sum(p.numel() for p in network.parameters()) for network in (odd, done.model)
    )
    assert done.report.multiply_adds == (counted(odd, odd_input), counted(done.model, odd_input))
    rows = done.report.layers
    for i in range(2):
        changed = done.report.parameters[i] - sum(row.parameters[i] for row in rows)
        assert changed == sum(p.numel() for p in odd.norm.parameters())
        assert sum(row.multiply_adds[i] for row in rows) == done.report.multiply_adds[i]


def test_errors_are_those_of_the_kernels(odd):
    done = convert(odd, 2)
    for row in done.report.converted:
        weight = odd.get_submodule(row.name).weight
        # Independent of the module's own composition: the impulse responses of its streams.
        impulse = done.model.get_submodule(row.name)
        approximation = response(impulse, weight)
        error = relative_error((weight - approximation).square().sum(), weight)
        assert abs(row.relative_error - error.item()) < 1e-5, row.name


def response(module, weight):
    """The kernel of a separable module, tap by tap, from what each stream makes of one voxel."""
    outputs = []
    group_in = weight.shape[1]
    for s in range(len(module.widths)):
        (plane,), line = module.planes(s), module.line(s)
        taps = torch.zeros(line.out_channels, *weight.shape[1:])
        per_group, width = line.out_channels // module.groups, line.weight.shape[1]
        for o in range(line.out_channels):
            g = o // per_group
            planes = plane.weight[g * width : (g + 1) * width]
            taps[o] = (line.weight[o][:, None] * planes).sum(0)
        outputs.append(taps)
        assert taps.shape[1] == group_in
    return torch.cat(outputs)[module.channel_order].detach()


def test_the_report_is_a_table_and_json(odd, odd_input):
    report = convert(odd, 2, exclude="stem", example_input=odd_input).report
    lines = str(report).splitlines()
    assert lines[0] == "P2SC1, concatenate, init=svd"
    assert lines[1].split() == ["layer", "kernel", "channels", "M", "error", "parameters", "MACs"]
    assert len(lines) == 2 + 10 + 1
    assert "kept: in exclude" in lines[2]
    assert "kept: 2D or 1D already" in lines[3]
    assert "kept: pointwise" in lines[-2]
    assert lines[-1].startswith("total, 7 of 10 converted")
    read = json.loads(json.dumps(report.to_dict()))
    assert read["layers"][2]["name"] == "grouped"
    assert read["layers"][2]["status"] == "converted"
    assert read["parameters"] == list(report.parameters)
    assert convert(odd).report.multiply_adds is None


def test_on_the_meta_device_there_is_a_count_but_no_error(odd):
    report = convert(odd.to("meta"), 2, init="random").report
    assert {row.relative_error for row in report.layers} == {None}
    assert report.parameters[1] < report.parameters[0]
