"""Networks written otherwise than torchvision's: what public bug reports of such tools taught."""

import copy
import itertools
import json

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet, SegResNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from psc import convert
from psc.conversion import SeparableConv3d, calibrate, match_features
from psc.conversion.watching import undoing
from psc.errors import ConfigError


def conv(c_in=2, c_out=2, **options):
    return nn.Conv3d(c_in, c_out, 3, padding=1, **options)


def volume(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def difference(a, b, x):
    expected = b(x)
    return float((a(x) - expected).norm() / expected.norm())


# One convolution in several places.


class ConvNormReLU(nn.Module):
    """As nnU-Net writes it: the same modules as attributes and in a Sequential, called once."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv = conv(c_in, c_out)
        self.norm = nn.InstanceNorm3d(c_out, affine=True)
        self.nonlin = nn.LeakyReLU(inplace=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, self.nonlin)

    def forward(self, x):
        return self.all_modules(x)


class Holds(nn.Module):
    """Layers under names of its own, and what its forward pass does with them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def decoder_holds_the_encoder():
    encoder = nn.Sequential(conv(), nn.ReLU())
    decoder = Holds(lambda self, x: self.own(x), encoder=encoder, own=conv())
    return Holds(lambda self, x: self.decoder(self.encoder(x)), encoder=encoder, decoder=decoder)


def called_under_two_names():
    shared = conv()
    return Holds(lambda self, x: self.second(self.first(x).relu()), first=shared, second=shared)


def in_lists_and_dictionaries():
    layers = nn.ModuleList([conv(), conv()])
    by_name = nn.ModuleDict({"a": layers[0], "b": layers[1]})
    return Holds(lambda self, x: self.parts["b"](self.list[0](x)), list=layers, parts=by_name)


def in_a_plain_list():
    layer = conv()
    return Holds(lambda self, x: self.plain[0](x), layer=layer, plain=[layer])


def block_in_three_places():
    block = ConvNormReLU(2, 2)
    return nn.Sequential(block, nn.Sequential(block), Holds(lambda self, x: self.b(x), b=block))


def with_its_own_network():
    network = nn.Sequential(conv(), conv())
    return Holds(lambda self, x: self.net(x), net=network, first=network[0], last=network[-1])


PLACES = {
    "nnU-Net": (lambda: nn.Sequential(ConvNormReLU(2, 4), ConvNormReLU(4, 2)), 2),
    "decoder": (decoder_holds_the_encoder, 2),
    "two names": (called_under_two_names, 1),
    "containers": (in_lists_and_dictionaries, 2),
    "plain list": (in_a_plain_list, 1),
    "three places": (block_in_three_places, 1),
    "shortcuts": (with_its_own_network, 2),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(("build", "count"), PLACES.values(), ids=PLACES)
def test_a_convolution_in_several_places_is_replaced_in_all(build, count, inplace):
    torch.manual_seed(0)
    network, x = build().eval(), volume(1, 2, 5, 5, 5)
    if build is in_a_plain_list and inplace:  # nobody can put something in there
        with pytest.raises(ConfigError, match=r"layer: called otherwise .* in a second place"):
            convert(network, width=None, example_input=x, inplace=True)
        return
    done = convert(copy.deepcopy(network), width=None, example_input=x, inplace=inplace)
    assert len(done.report.converted) == count
    assert difference(done.model, network, x) < 1e-5
    assert not any(
        isinstance(part, nn.Conv3d) and min(part.kernel_size) > 1 for part in done.model.modules()
    )
    # Where there was one module there is one.
    theirs = [name for name, _ in network.named_modules(remove_duplicate=False)]
    for a in theirs:
        for b in theirs:
            one = network.get_submodule(a) is network.get_submodule(b)
            assert (done.model.get_submodule(a) is done.model.get_submodule(b)) is one
    assert convert(network, width=None).report.plan == done.report.plan  # no example needed
    kept = done.model.state_dict()
    again = convert(network, **done.report.plan).model
    again.load_state_dict(kept)
    assert difference(again, done.model, x) == 0


def test_nnunets_blocks_become_one_by_any_of_their_names():
    torch.manual_seed(0)
    network = nn.Sequential(ConvNormReLU(2, 4), ConvNormReLU(4, 2)).eval()
    x = volume(1, 2, 6, 6, 6)
    done = convert(network, 2, 2, example_input=x)
    assert done.report.runs == (("0.conv", "0.norm", "0.nonlin", "1.conv"),)
    assert done.model[0].all_modules[0] is done.model[0].conv
    named = [["0.all_modules.0", "0.norm", "0.all_modules.2", "1.all_modules.0"]]
    given = convert(network, 2, 2, example_input=x, runs=named)
    assert given.report == done.report
    assert difference(given.model, done.model, x) == 0
    (row,) = convert(network, include="*.all_modules.0", exclude="1").report.converted
    assert row.name == "0.conv"


# Attributes of a layer that others read.


class Reads(nn.Module):
    """Two convolutions that may become one, and a look at either of them."""

    def __init__(self, look, bias=True):
        super().__init__()
        self.first, self.act, self.second = conv(bias=bias), nn.ReLU(), conv(bias=bias)
        self.first.role, self.look = "stem", look

    def forward(self, x):
        for layer in (self.first, self.second):
            x = self.look(layer, x)
        return self.second(self.act(self.first(x)))


LOOKS = {
    "dtype": lambda layer, x: x.to(layer.weight.dtype),
    "device": lambda layer, x: x.to(device=layer.weight.device),
    "like": lambda layer, x: x.to(layer.weight).type_as(layer.weight),
    "shape": lambda layer, x: x * layer.weight.shape[0] / layer.weight.size(1),
    "new": lambda layer, x: x + layer.weight.new_zeros(()) + torch.zeros_like(layer.weight).sum(),
    "learns": lambda layer, x: x * (layer.weight.requires_grad and layer.weight.ndim == 5),
    "bias": lambda layer, x: x if layer.bias is None else x.to(layer.bias.dtype),
    "arguments": lambda layer, x: x * layer.stride[0] * layer.in_channels + layer.transposed,
    "padding": lambda layer, x: F.pad(x, [0] * 6) if layer.padding == (1, 1, 1) else None,
    "own": lambda layer, x: x if getattr(layer, "role", "stem") == "stem" else None,
}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_attributes_of_a_layer_may_be_read_before_and_after(look, bias, n):
    torch.manual_seed(0)
    network, x = Reads(look, bias), volume(1, 2, 5, 5, 5)
    done = convert(network, 1, n, width=None if n == 1 else 20, example_input=x)
    assert len(done.report.converted) == 3 - n
    if n == 1:
        assert difference(done.model, network, x) < 1e-5
    for model in (done.model, done.model.double()):
        for name in ("first", "second"):
            ours, theirs = getattr(model, name), getattr(network, name)
            assert ours.weight.shape == theirs.weight.shape
            assert ours.weight.dtype == next(model.parameters()).dtype
            assert (ours.bias is None) == (theirs.bias is None)
            assert ours.weight.isnan().all()  # nobody computes with them unseen
        model(x.to(next(model.parameters()).dtype))
    assert "first.weight" not in dict(done.model.named_parameters())
    assert not [name for name in done.model.state_dict() if name.endswith("_like")]
    if not bias and look is not LOOKS["bias"]:
        return  # exported as with a bias
    example = (x.double(),)
    program = torch.export.export(done.model, example)
    assert torch.allclose(program.module()(*example), done.model(*example))


def private(layer, x):
    return F.pad(x, layer._reversed_padding_repeated_twice)[..., 1:-1, 1:-1, 1:-1]


def own_method(layer, x):
    return layer._conv_forward(x, layer.weight, layer.bias)


def needs_a_class(layer, x):
    if not isinstance(layer, nn.Conv3d | nn.Identity):
        raise TypeError("no convolution")
    return x


@pytest.mark.parametrize("look", [private, needs_a_class])
@pytest.mark.parametrize("inplace", [False, True])
def test_layers_that_a_network_cannot_do_without_are_named_or_skipped(look, inplace):
    torch.manual_seed(0)
    network = nn.Sequential(conv(), Holds(lambda self, x: look(self.own, self.own(x)), own=conv()))
    x = volume(1, 2, 5, 5, 5)
    options = {"width": None, "example_input": {"input": x}, "inplace": inplace}
    with pytest.raises(ConfigError, match=r"1 layer cannot.*\n  1\.own: .* does not run without"):
        convert(network, **options)
    assert all(type(part) is nn.Conv3d for part in (network[0], network[1].own))
    expected = network(x).detach()
    done = convert(copy.deepcopy(network), unsupported="skip", **options)
    assert [row.status for row in done.report.layers] == ["converted", "skipped"]
    assert type(done.model[1].own) is nn.Conv3d
    assert torch.allclose(done.model(x), expected, atol=1e-5)


def test_a_weight_that_is_computed_with_elsewhere_is_named():
    network = Holds(lambda self, x: own_method(self.own, x), own=conv())
    with pytest.raises(ConfigError, match=r"own: its parameters are also used outside"):
        convert(network, example_input=volume(1, 2, 4, 4, 4))


def test_an_example_that_the_network_itself_cannot_take_is_said():
    with pytest.raises(ConfigError, match=r"Conv3d itself does not run on example_input: Runtime"):
        convert(conv(), example_input=volume(1, 3, 4, 4, 4))


# One activation for all, and activations that are functions.


def chain(act, n=2):
    """n convolutions with ``act`` after each, and a norm before it after the first."""

    def forward(self, x):
        x = act(self, self.norm(self.convs[0](act(self, x))))
        for layer in self.convs[1:]:
            x = act(self, layer(x))
        return x

    torch.manual_seed(0)
    sizes = [2, *range(4, 4 + n)]
    convs = nn.ModuleList(conv(a, b) for a, b in itertools.pairwise(sizes))
    shared = {name: build() for name, build in MODULES.items()}
    return Holds(forward, convs=convs, norm=nn.InstanceNorm3d(4, affine=True), **shared)


MODULES = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.1),
    "gelu": nn.GELU,
    "swish": lambda: Holds(lambda _, x: x * torch.sigmoid(x)),
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "prelu": nn.PReLU,
    "softmax": lambda: nn.Softmax(1),
}
STAYING = {
    "a module for all": lambda self, x: self.relu(x),
    "LeakyReLU": lambda self, x: self.leaky(x),
    "GELU": lambda self, x: self.gelu(x),
    "of its own class": lambda self, x: self.swish(x),
    "F.relu": lambda _, x: F.relu(x),
    "in place": lambda _, x: F.leaky_relu(x, 0.2, inplace=True),
    "method": lambda _, x: x.relu_(),
    "silu": lambda _, x: F.silu(x),
    "hardswish": lambda _, x: F.hardswish(x),
    "scaled": lambda _, x: torch.relu(x).contiguous() * 0.5,
    "empty": lambda self, x: nn.Sequential()(F.softplus(x)),
}


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("act", STAYING.values(), ids=STAYING)
def test_an_activation_that_stays_is_passed_unharmed(act, n):
    network, x = chain(act, n).eval(), volume(2, 2, 5, 6, 7)
    done = convert(network, 1, n, width=12, example_input=x)
    (names,) = done.report.runs
    assert names[0] == "convs.0"
    assert names[1] == "norm"
    assert sum(name.startswith("(") for name in names) >= n - 1
    # The same as if each had a module of its own that goes: the affine map is in the block, and
    # nothing changes it between.
    block = done.model.convs[0]
    assert torch.equal(x, volume(2, 2, 5, 6, 7))  # though the network changes its input
    entering = act(network, x.clone())
    alone = copy.deepcopy(block)
    alone.paired = False
    expected = act(network, alone(entering))
    assert torch.allclose(done.model(x.clone()), expected, rtol=1e-4, atol=1e-5)
    # Again without the example, from what was reported.
    again = convert(network, **json.loads(json.dumps(done.report.plan))).model
    again.load_state_dict(done.model.state_dict())
    assert torch.equal(again(x.clone()), done.model(x.clone()))


def test_it_trains_as_if_nothing_stood_between():
    network, x = chain(STAYING["F.relu"]).eval(), volume(2, 2, 5, 6, 7)
    model = convert(network, 2, 2, example_input=x).model
    alone = copy.deepcopy(model.convs[0])
    alone.paired = False
    model(x).square().sum().backward()
    F.relu(alone(F.relu(x))).square().sum().backward()
    for ours, theirs in zip(model.convs[0].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), model(x), atol=1e-6)
    program = torch.export.export(model, (x,))
    assert torch.allclose(program.module()(x), model(x), atol=1e-6)


def test_what_stays_is_corrected_and_matched_too():
    network, x = chain(STAYING["a module for all"]).eval(), volume(2, 2, 5, 6, 7)
    done = convert(network, 2, 2, example_input=x)
    kept = copy.deepcopy(done)
    calibrate(network, done, x)
    ends = ("convs.1", x)

    def error(model):
        results = []
        for each in (network, model):
            handle = each.get_submodule(ends[0]).register_forward_hook(
                lambda *given: results.append(given[2])
            )
            with torch.no_grad():
                each(x)
            handle.remove()
        return float((results[1] - results[0]).norm())

    assert error(done.model) < error(kept.model)
    losses = match_features(network, done, [x], steps=20, learning_rate=1e-2)
    assert losses[-1] < losses[0]


REFUSED = {
    "tanh": (lambda _, x: torch.tanh(x), "tanh must go, as a module of PyTorch"),
    "a shared Tanh": (lambda self, x: self.tanh(x), "tanh must go, .* that is used here only"),
    "a shared ELU": (lambda self, x: self.elu(x), "elu must go"),
    "a shared PReLU": (lambda self, x: self.prelu(x), "prelu has parameters and is called 3 times"),
    "softmax": (lambda self, x: self.softmax(x), "softmax must go"),
    "flipped": (lambda _, x: x.flip(2), "flip must go"),
    "resampled": (lambda _, x: F.interpolate(x, [5, 6, 7]), "upsample_nearest3d must go"),
    "clamped": (lambda _, x: F.relu6(x), "hardtanh must go|relu6 must go"),
    "pooled": (lambda _, x: F.max_pool3d(x, 1), "max_pool3d_with_indices, which is no conv"),
    "normalised": (
        lambda _, x: F.layer_norm(x, x.shape[2:]),
        "native_layer_norm, which is no conv",
    ),
    "joined": (lambda _, x: x + x.mean(), "its result is used 2 times: mean, add"),
    "by hand": (lambda _, x: x * torch.sigmoid(x), "its result is used 2 times: sigmoid, mul"),
    "of data": (lambda _, x: x * torch.ones(1), "it goes into mul, which is no convolution"),
}


@pytest.mark.parametrize(("act", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_stay_is_named(act, reason):
    network, x = chain(act).eval(), volume(2, 2, 5, 6, 7)
    with pytest.raises(ConfigError, match=rf"(?s)no 2 of the 2 .*convs\.0: [^\n]*({reason})"):
        convert(network, 1, 2, example_input=x)
    given = [["convs.0", "norm", "convs.1"]]
    with pytest.raises(ConfigError, match=rf"data go from convs\.0 not on: .*({reason})"):
        convert(network, 1, 2, example_input=x, runs=given)
    assert len(convert(network, 1, 1, example_input=x).report.converted) == 2


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.relu, 1),
        (F.leaky_relu, 1 / 1.01),
        (lambda z: F.gelu(z, approximate="tanh"), 1),
        (lambda z: 2 * z + 1, 1 / 4),
        (lambda z: z.clone(), None),
    ],
)
def test_the_number_that_undoes_an_activation(function, expected):
    assert undoing([function], 4) == (
        None if expected is None else pytest.approx(expected, rel=1e-5)
    )


@pytest.mark.parametrize("function", [torch.abs, torch.cos, F.elu, F.mish, lambda z: z * 0])
def test_there_is_none_for_others(function):
    with pytest.raises(ValueError, match=r"^$"):
        undoing([function], 4)


class TemporalShift(nn.Module):
    """An eighth of the channels comes one step earlier, an eighth later (Lin et al., 2019)."""

    def forward(self, x):
        fold, y = x.shape[1] // 8, x.clone()
        y[:, :fold, :-1], y[:, :fold, -1] = x[:, :fold, 1:], 0
        y[:, fold : 2 * fold, 1:], y[:, fold : 2 * fold, 0] = x[:, fold : 2 * fold, :-1], 0
        return y


@pytest.mark.parametrize("mixing", [TemporalShift(), nn.ChannelShuffle(4)])
@pytest.mark.parametrize(("middle", "out"), [(8, 8), (8, 4), (4, 8)])
def test_what_mixes_channels_by_their_number_does_not_pass_for_nothing(mixing, middle, out):
    network = nn.Sequential(nn.Conv3d(3, middle, 3), mixing, nn.Conv3d(middle, out, 3)).eval()
    with pytest.raises(ConfigError, match="must go, as a module of PyTorch"):
        convert(network, m=1, n=2, width=50, example_input=torch.randn(1, 3, 8, 8, 8))


MONAI = {
    "DynUNet": (lambda: DynUNet(3, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 6, 8]), 16, 5),
    "SegResNet": (lambda: SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,)), 8, 3),
}


@pytest.mark.parametrize(("build", "size", "pairs"), MONAI.values(), ids=MONAI)
def test_monais_networks_with_one_activation_per_block(build, size, pairs):
    torch.manual_seed(0)
    network, x = build().eval(), volume(1, 1, size, size, size)
    done = convert(network, 2, 2, example_input=x)
    assert len(done.report.runs) == pairs
    assert sum(part.n == 2 for part in done.model.modules() if isinstance(part, SeparableConv3d))
    assert done.model(x).shape == network(x).shape
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    assert done.report.multiply_adds[0] == counter.get_total_flops() // 2


def test_attention_is_in_the_report():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.attention = conv(2, 4), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            tokens = self.conv(x).flatten(2).mT
            return self.attention(tokens, tokens, tokens)[0]

    done = convert(Attends(), 1, example_input=volume(1, 2, 3, 3, 3))
    before, after = done.report.elsewhere
    assert before == after == 27 * (4 * 4 * 4) + 2 * 27 * 27 * 4
    assert done.report.multiply_adds[0] == 27 * 27 * 2 * 4 + before
    assert f"attention, say): {before:,}" in str(done.report)
