"""What convert puts into networks: names, layouts, and programs made of it."""

import copy
import io

import pytest
import torch
from torch import nn

from psc import convert, merge_linear
from psc.conversion import SeparableConv3d
from psc.conversion.layers import Geometry


def results(network, x):
    """Result, and gradients of input and parameters, for a random direction."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = network(x)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y)
    return [y, *torch.autograd.grad((y * direction).sum(), [x, *network.parameters()])]


def single(c_in, c_out, *, padding=(0, 0, 0), **options):
    """The module for one layer of 3×3×3."""
    return SeparableConv3d(c_in, c_out, [Geometry((3, 3, 3), padding=padding)], **options)


@pytest.mark.parametrize("m", [1, 2])
def test_volumes_without_a_batch(m):
    torch.manual_seed(0)
    layer = single(3, 4, padding=(1, 1, 1), widths=(6,) * m)
    x = torch.randn(3, 9, 8, 8)
    torch.testing.assert_close(layer(x), layer(x[None])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("m", "merge"), [(1, "concatenate"), (2, "sum")])
def test_the_layout_of_the_result_is_that_of_the_input(channels, m, merge):
    """Networks that ``view`` a result rely on it."""
    layer = single(channels, 4, widths=(3,) * m, merge=merge)
    x = torch.randn(2, channels, 8, 9, 7)
    assert layer(x).is_contiguous()
    assert layer(x).view(2, -1).shape == (2, 4 * 6 * 7 * 5)
    last = layer(x.to(memory_format=torch.channels_last_3d))
    assert last.is_contiguous(memory_format=torch.channels_last_3d)


def test_parameters_have_the_names_and_the_start_of_plain_convolutions():
    options = {"widths": (3, 2), "padding": (1, 1, 1), "activation": nn.PReLU}
    torch.manual_seed(0)
    layer = single(2, 5, **options)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    convolutions = {
        "streams.0.plane": nn.Conv3d(2, 3, (1, 3, 3), bias=False),
        "streams.0.line": nn.Conv3d(3, 3, (3, 1, 1)),
        "streams.1.plane": nn.Conv3d(2, 2, (3, 1, 3), bias=False),
        "streams.1.line": nn.Conv3d(2, 2, (1, 3, 1)),
    }
    assert torch.equal(torch.get_rng_state(), after)
    state = layer.state_dict()
    expected = {f"{n}.{k}": v for n, c in convolutions.items() for k, v in c.state_dict().items()}
    others = {"channel_order", "streams.0.activation.weight", "streams.1.activation.weight"}
    assert state.keys() == expected.keys() | others
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    run = SeparableConv3d(2, 4, [Geometry((3, 3, 3))] * 2, widths=(3,))
    assert list(run.state_dict()) == [
        "streams.0.plane_1.weight",
        "streams.0.plane_2.weight",
        "streams.0.line.weight",
        "streams.0.line.bias",
    ]


def test_what_a_user_puts_in_the_place_of_a_convolution_is_computed():
    torch.manual_seed(0)
    layer = single(2, 4, padding=(1, 1, 1), widths=(3, 3))
    other = nn.Conv3d(2, 3, (3, 1, 3), padding=(1, 0, 1), bias=False)
    other.load_state_dict(layer.streams[1].plane.state_dict())
    x = torch.randn(1, 2, 6, 7, 8)
    expected = layer(x)
    layer.streams[1].plane = other
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("merge", ["concatenate", "sum"])
def test_merging_gives_what_the_network_computes(odd, odd_input, merge):
    network = convert(odd, 2, merge=merge, sweeps=2).model.eval()
    expected = merge_linear(network)(odd_input)
    assert (network(odd_input) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.fixture
def converted():
    """As it comes from convert."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv3d(5, 4, 3, stride=(1, 2, 1))]
    return convert(nn.Sequential(*layers), 2, activation=nn.ReLU).model


@pytest.fixture
def volume():
    return torch.randn(2, 2, 7, 13, 12, generator=torch.Generator().manual_seed(1))


def test_an_exported_program_takes_other_sizes(converted, volume):
    size = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
    program = torch.export.export(converted, (volume,), dynamic_shapes=(size,))
    called = [str(node.target) for node in program.graph.nodes if "conv" in str(node.target)]
    assert len(called) == 8
    assert all("conv3d" in name for name in called)
    larger = torch.randn(3, 2, 9, 13, 12)
    torch.testing.assert_close(program.module()(larger), converted(larger), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_a_traced_program_can_be_saved_and_takes_other_sizes(converted, volume):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(converted, volume), buffer)
    buffer.seek(0)
    larger = torch.randn(3, 2, 9, 13, 12)
    traced = torch.jit.load(buffer)
    torch.testing.assert_close(traced(larger), converted(larger), rtol=1e-4, atol=1e-5)


def test_fx_traces_it(converted, volume):
    traced = torch.fx.symbolic_trace(converted)
    torch.testing.assert_close(traced(volume), converted(volume), rtol=1e-4, atol=1e-5)


def test_compiled_it_learns_as_before(converted, volume):
    compiled = torch.compile(converted, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(results(compiled, volume), results(converted, volume), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
def test_transforms_of_functions_go_through_it(converted, volume):
    """Gradients per sample and directional derivatives, against the plain network's."""

    def answers(network):
        parameters = {name: p.detach() for name, p in network.named_parameters()}

        def loss(parameters, x):
            return torch.func.functional_call(network, parameters, (x[None],)).square().mean()

        gradient = torch.func.grad(loss)
        per_sample = torch.func.vmap(gradient, in_dims=(None, 0))(parameters, volume)
        tangents = {name: torch.ones_like(p) for name, p in parameters.items()}
        direction = (tangents, torch.ones_like(volume[0]))
        _, slope = torch.func.jvp(loss, (parameters, volume[0]), direction)
        return [*per_sample.values(), slope]

    plain = copy.deepcopy(converted)
    for part in plain.modules():
        if isinstance(part, nn.Conv3d):
            part.__class__ = nn.Conv3d
    for ours, theirs in zip(answers(converted), answers(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
