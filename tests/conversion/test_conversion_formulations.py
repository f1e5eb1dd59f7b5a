"""What convert puts into networks, folded and plain: one result, names and behaviour."""

import copy
import io
import itertools

import pytest
import torch
from torch import nn

from psc import convert, merge_linear
from psc.conversion import SeparableConv3d, SeparableRun3d
from psc.conversion.layers import Geometry, ParallelStreams
from psc.errors import ConfigError

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]

FOLDABLE = [
    {"kernel_size": (3, 3, 3), "padding": (1, 1, 1)},
    {"kernel_size": (3, 7, 5), "stride": (1, 2, 3), "padding": (1, 3, 2)},
    {"kernel_size": (2, 4, 3), "stride": (3, 1, 2), "padding": (0, 1, 2)},
    {"kernel_size": (2, 3, 3), "padding": (4, 0, 3), "bias": False},  # more than the kernel's reach
    {"kernel_size": (3, 5, 7), "padding": "same"},
    {"kernel_size": (3, 2, 3), "padding": "valid"},
    {"kernel_size": (1, 3, 3), "stride": (2, 1, 1), "padding": (1, 1, 1)},  # a line of one tap
]
NOT_FOLDABLE = [
    {"kernel_size": (3, 4, 3), "padding": "same"},  # one more voxel on one side
    {"kernel_size": (3, 3, 3), "padding": (1, 1, 1), "dilation": (1, 2, 1)},
    {"kernel_size": (3, 3, 3), "padding": (1, 1, 1), "padding_mode": "reflect"},
    {"kernel_size": (3, 3, 3), "groups": 2},
]


def blocks_of(network):
    return [part for part in network.modules() if isinstance(part, ParallelStreams)]


def in_formulation(network, formulation):
    """A copy of a converted network."""
    network = copy.deepcopy(network)
    for block in blocks_of(network):
        block.formulation = formulation
    return network


def shuffled(block):
    """The block with its channels in an order that nothing else gives."""
    if block.channel_order is not None:
        block.channel_order.copy_(torch.randperm(len(block.channel_order)))
    return block


def results(network, x):
    """Result, and gradients of input and parameters, for a random direction."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = network(x)
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y)
    return [y, *torch.autograd.grad((y * direction).sum(), [x, *network.parameters()])]


def check_folded_equals_plain(network, x, *, tolerance=1e-10):
    plain = results(in_formulation(network, "plain"), x)
    folded = results(in_formulation(network, "folded"), x)
    for ours, theirs in zip(folded, plain, strict=True):
        assert ours.dtype == theirs.dtype
        scale = theirs.double().abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * max(scale, 1e-3))
    assert folded[0].is_contiguous() or not x.is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("m", "merge"), [(1, "sum"), (2, "concatenate"), (3, "concatenate"), (3, "sum")]
)
@pytest.mark.parametrize("options", FOLDABLE + NOT_FOLDABLE, ids=str)
def test_layers_of_every_geometry(options, m, merge, layout):
    torch.manual_seed(m)
    layer = SeparableConv3d(4, 8, widths=(3,) * m, merge=merge, dtype=torch.float64, **options)
    shuffled(layer)
    x = torch.randn(2, 4, 6, 9, 8, dtype=torch.float64).to(memory_format=layout)
    layer.formulation = "folded"
    assert all(stream.folds(x) == (options in FOLDABLE) for stream in layer.streams)
    check_folded_equals_plain(layer, x)


class OrderMatters(nn.Module):
    """Treats the three axes differently, and no voxel alone."""

    def forward(self, x):
        return torch.softmax(x, -1).cumsum(-2) + x.flip(-3)


ACTIVATIONS = {
    "relu": nn.ReLU,
    "in place": lambda: nn.ReLU(inplace=True),
    "another in place": lambda: nn.Hardswish(inplace=True),
    "learnt": nn.PReLU,
    "over a volume": lambda: nn.Sequential(
        nn.InstanceNorm3d(3, affine=True), nn.SiLU(inplace=True)
    ),
    "by axis": OrderMatters,
}


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("build", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_any_module_may_stand_between(build, m):
    torch.manual_seed(0)
    options = {"widths": (3,) * m, "activation": build, "dtype": torch.float64}
    layer = SeparableConv3d(2, 6, (3, 5, 3), stride=(1, 2, 1), padding=(1, 2, 0), **options)
    run = SeparableRun3d(2, 6, [Geometry((3, 3, 3)), Geometry((2, 3, 1), (1, 1, 2))], **options)
    x = torch.randn(2, 2, 7, 8, 9, dtype=torch.float64)
    for block in (layer, run):
        check_folded_equals_plain(shuffled(block), x)


@pytest.mark.parametrize(("m", "merge"), list(itertools.product((1, 2, 3), ("concatenate", "sum"))))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_of_layers(m, merge, layout):
    torch.manual_seed(0)
    layers = [
        Geometry((3, 3, 3), (2, 1, 2), (1, 1, 0)),
        Geometry((3, 1, 2), (1, 1, 1), (0, 1, 1)),
        Geometry((1, 3, 3), (1, 2, 1), (0, 1, 1)),
    ]
    block = SeparableRun3d(3, 7, layers, widths=(4,) * m, merge=merge, dtype=torch.float64)
    x = torch.randn(2, 3, 9, 8, 11, dtype=torch.float64).to(memory_format=layout)
    check_folded_equals_plain(shuffled(block), x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("merge", ["concatenate", "sum"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_a_network_with_every_option(odd, odd_input, m, merge, layout):
    network = convert(odd.double(), m, init="random", merge=merge).model
    check_folded_equals_plain(network, odd_input.double().to(memory_format=layout), tolerance=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("m", [1, 2])
def test_half_precision(m, dtype):
    torch.manual_seed(0)
    layer = SeparableConv3d(8, 8, (3, 3, 3), padding=(1, 1, 1), widths=(6,) * m, dtype=dtype)
    x = torch.randn(1, 8, 5, 6, 7).to(dtype)
    check_folded_equals_plain(shuffled(layer), x, tolerance=8 * torch.finfo(dtype).eps)
    assert not any(stream.folds(x) for stream in layer.streams)  # by itself: plain


def test_autocast_trains_in_either_formulation():
    torch.manual_seed(0)
    layer = SeparableConv3d(4, 4, (3, 3, 3), padding=(1, 1, 1), widths=(6, 6))
    x = torch.randn(1, 4, 9, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        check_folded_equals_plain(layer, x, tolerance=0.05)


@pytest.mark.parametrize("m", [1, 2])
def test_volumes_without_a_batch_are_computed_plainly(m):
    torch.manual_seed(0)
    layer = SeparableConv3d(3, 4, (3, 3, 3), padding=(1, 1, 1), widths=(6,) * m)
    layer.formulation = "folded"
    x = torch.randn(3, 9, 8, 8)
    torch.testing.assert_close(layer(x), layer(x[None])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("m", "merge"), [(1, "concatenate"), (2, "sum")])
def test_the_layout_of_the_result_is_that_of_the_input(channels, m, merge):
    """Networks that ``view`` a result rely on it."""
    layer = SeparableConv3d(channels, 4, (3, 3, 3), widths=(3,) * m, merge=merge)
    layer.formulation = "folded"
    x = torch.randn(2, channels, 8, 9, 7)
    assert layer(x).is_contiguous()
    assert layer(x).view(2, -1).shape == (2, 4 * 6 * 7 * 5)
    last = layer(x.to(memory_format=torch.channels_last_3d))
    assert last.is_contiguous(memory_format=torch.channels_last_3d)


def test_an_activation_in_place_may_follow():
    torch.manual_seed(0)
    for m, layout in itertools.product((1, 2), LAYOUTS):
        layer = SeparableConv3d(3, 4, (3, 3, 3), widths=(3,) * m, dtype=torch.float64)
        x = torch.randn(1, 3, 8, 9, 7, dtype=torch.float64).to(memory_format=layout)
        check_folded_equals_plain(nn.Sequential(layer, nn.ReLU(inplace=True)), x)


@pytest.mark.parametrize("build", [nn.ReLU, None])
def test_hooks_see_what_they_see_of_plain_layers(build):
    layer = SeparableConv3d(2, 5, (3, 5, 1), widths=(3, 4, 2), activation=build)
    x = torch.randn(2, 2, 8, 9, 7)

    def seen(formulation):
        block, records = in_formulation(layer, formulation), []
        for name, part in block.named_modules():
            part.register_forward_hook(
                lambda _, inputs, y, name=name: records.append((name, len(inputs), inputs[0], y))
            )
        block(x)
        return records

    for ours, theirs in zip(seen("folded"), seen("plain"), strict=True):
        assert ours[:2] == theirs[:2]
        torch.testing.assert_close(ours[2:], theirs[2:], rtol=1e-4, atol=1e-5)


def test_parameters_have_the_names_and_the_start_of_plain_convolutions():
    options = {"widths": (3, 2), "padding": (1, 1, 1), "activation": nn.PReLU}
    torch.manual_seed(0)
    layer = SeparableConv3d(2, 5, (3, 3, 3), **options)
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
    run = SeparableRun3d(2, 4, [Geometry((3, 3, 3))] * 2, widths=(3,))
    assert list(run.state_dict()) == [
        "streams.0.plane_1.weight",
        "streams.0.plane_2.weight",
        "streams.0.line.weight",
        "streams.0.line.bias",
    ]


def test_the_formulation_is_set_for_all_streams_and_kept_in_copies():
    layer = SeparableConv3d(2, 6, (3, 3, 3), widths=(3, 3, 3))
    assert layer.formulation == "auto"
    layer.formulation = "plain"
    assert [stream.formulation for stream in layer.streams] == ["plain"] * 3
    assert copy.deepcopy(layer).formulation == "plain"
    with pytest.raises(ConfigError, match="one of auto, plain, folded; got 'fast'"):
        layer.formulation = "fast"


def test_what_a_user_puts_in_the_place_of_a_convolution_is_computed():
    torch.manual_seed(0)
    layer = SeparableConv3d(2, 4, (3, 3, 3), padding=(1, 1, 1), widths=(3, 3))
    other = nn.Conv3d(2, 3, (3, 1, 3), padding=(1, 0, 1), bias=False)
    other.load_state_dict(layer.streams[1].plane.state_dict())
    x = torch.randn(1, 2, 6, 7, 8)
    layer.formulation = "folded"
    expected = layer(x)
    layer.streams[1].plane = other
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("merge", ["concatenate", "sum"])
def test_merging_gives_what_the_folded_network_computes(odd, odd_input, merge):
    folded = in_formulation(convert(odd, 2, merge=merge, sweeps=2).model.eval(), "folded")
    expected = merge_linear(folded)(odd_input)
    assert (folded(odd_input) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.fixture
def converted():
    """As it comes from convert, folding where it chooses to."""
    torch.manual_seed(0)
    layers = [nn.Conv3d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv3d(5, 4, 3, stride=(1, 2, 1))]
    return convert(nn.Sequential(*layers), 2, activation=nn.ReLU).model


@pytest.fixture
def volume():
    return torch.randn(2, 2, 7, 13, 12, generator=torch.Generator().manual_seed(1))


def test_by_itself_a_network_folds_on_the_cpu(converted, volume):
    assert all(stream.folds(volume) for stream in converted[0].streams)
    expected = in_formulation(converted, "plain")(volume)
    torch.testing.assert_close(converted(volume), expected, rtol=1e-4, atol=1e-5)


def test_an_exported_program_is_plain_and_takes_other_sizes(converted, volume):
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

    plain, folded = (in_formulation(converted, f) for f in ("plain", "folded"))
    for ours, theirs in zip(answers(folded), answers(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
