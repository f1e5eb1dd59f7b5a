"""Accounts against counts by hand and torch's counter."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from psc import create, make_unit
from psc.accounting import account, activation_memory
from psc.errors import ConfigError
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet

BLOCKS = {
    "3d": make_unit("conv3d"),
    "p2sc2": make_unit(m=2, n=2),
}


def on_meta(network, block, **options):
    with torch.device("meta"):
        return network(BLOCKS[block], **options)


def test_layers_by_hand():
    network = nn.Sequential(
        nn.Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2), groups=2),
        nn.BatchNorm3d(6),
        nn.ReLU(),
        nn.ConvTranspose3d(6, 9, 2, 2, groups=3, bias=False),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(9, 5),
    )
    result = account(network, (2, 4, 3, 7, 9))
    conv, norm, transposed, linear = result.layers
    assert (conv.name, conv.kind, conv.kernel, conv.stride) == ("0", "Conv3d", (1, 3, 3), (1, 2, 2))
    assert (conv.in_channels, conv.out_channels, conv.groups) == (4, 6, 2)
    assert conv.output_shape == (2, 6, 3, 3, 4)
    assert conv.parameters == 6 * 2 * 9 + 6
    assert conv.multiply_adds == 6 * 2 * 9 * 2 * 3 * 3 * 4
    assert (norm.kind, norm.kernel, norm.parameters, norm.multiply_adds) == (
        "BatchNorm3d",
        None,
        12,
        0,
    )
    assert transposed.multiply_adds == 6 * 3 * 8 * 2 * 3 * 3 * 4  # positions of its input
    assert transposed.output_shape == (2, 9, 6, 6, 8)
    assert (linear.in_channels, linear.out_channels, linear.multiply_adds) == (9, 5, 2 * 45)
    assert result.buffers == 6 + 6 + 1
    assert result.output_shape == (2, 5)
    assert result.flops == result.counted_flops


def test_counted_flops_are_those_of_a_real_forward_pass():
    network = UNet(BLOCKS["p2sc2"], base_width=2, growth=2, depth=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(2, 1, 20, 20, 20))
    result = account(network, (2, 1, 20, 20, 20))
    assert result.counted_flops == result.flops == counter.get_total_flops()


class Twice(nn.Module):
    """Calls one layer twice, shares a weight, never calls another layer."""

    def __init__(self):
        super().__init__()
        self.layer, self.tied, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.tied.weight = self.layer.weight

    def forward(self, x):
        return self.tied(self.layer(self.layer(x)))


def test_shared_parameters_count_once_and_calls_every_time():
    result = account(Twice(), (5, 4))
    layer, tied, idle = result.layers
    assert (layer.parameters, layer.multiply_adds) == (16 + 4, 2 * 5 * 16)
    assert (tied.parameters, tied.multiply_adds) == (4, 5 * 16)
    assert (idle.parameters, idle.multiply_adds, idle.output_shape) == (15, 0, None)
    assert result.parameters == 16 + 4 + 4 + 15
    assert result.flops == result.counted_flops


class Attention(nn.Module):
    """Attention of two heads of 4 channels, by hand or fused."""

    def __init__(self, fused):
        super().__init__()
        self.qkv, self.fused = nn.Linear(8, 24, bias=False), fused

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return torch.softmax(q @ k.mT / 2, -1) @ v


class OfItself(nn.Module):
    """PyTorch's own attention of an input to itself; in evaluation mode it has a fused path."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, x, x)


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


OF_ATTENTION = 2 * 2 * 2 * 10 * 10 * 4  # products, batch, heads, queries, keys, channels


@pytest.mark.parametrize(
    ("module", "linear"),
    [
        (Attention(fused=False), 3 * 8 * 8),
        (Attention(fused=True), 3 * 8 * 8),
        (OfItself(nn.MultiheadAttention(8, 2, batch_first=True)), 4 * 8 * 8),
        (encoder(), 4 * 8 * 8 + 2 * 8 * 16),
    ],
)
@pytest.mark.parametrize("real", [False, True])
def test_attention_is_counted_fused_or_not(module, linear, real):
    given = torch.zeros(2, 10, 8) if real else (2, 10, 8)
    result = account(module, given)
    assert result.multiply_adds == 2 * 10 * linear + OF_ATTENTION
    assert result.flops == result.counted_flops
    assert result.elsewhere >= OF_ATTENTION
    assert result.uncounted == ()
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("module", "given", "name"),
    [
        (nn.Bilinear(8, 4, 3), (torch.ones(2, 8), torch.ones(2, 4)), "aten::_trilinear"),
        (nn.LSTM(8, 4, batch_first=True), torch.ones(2, 10, 8), "aten::mkldnn_rnn_layer"),
    ],
)
def test_what_is_not_counted_is_named(module, given, name):
    if "mkldnn" in name and not torch.backends.mkldnn.is_available():
        pytest.skip("computed as matrix products here, which are counted")
    assert name in account(module, given).uncounted


@dataclass
class Outputs:
    """As networks of other libraries return them."""

    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]
    loss: None = None


class Distribution:
    """As the latent space of an autoencoder: tensors are attributes."""

    def __init__(self, mean):
        self.mean, self.deterministic = mean, False


Named = namedtuple("Named", "y skip")

RESULTS = [
    (lambda y: [y, y[..., ::2]], 2),
    (lambda y: (y, (y[..., ::2], None)), 2),
    (lambda y: {"out": y, "aux": [y[..., ::2]], "text": "x"}, 2),
    (lambda y: OrderedDict(out=y), 1),
    (lambda y: Named(y, y[..., ::2]), 2),
    (lambda y: Outputs(y, (y[..., ::2], y[:, :1])), 3),
    (lambda y: {"latent": Distribution(y)}, 1),
    (lambda y: [y, y], 1),  # the same twice
    (lambda _: None, 0),
]


class Returns(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.conv, self.form = nn.Conv3d(1, 2, 3), form

    def forward(self, x):
        return self.form(self.conv(x))


@pytest.mark.parametrize(("form", "count"), RESULTS)
def test_a_result_may_be_anything_that_holds_tensors(form, count):
    network = Returns(form)
    result = account(network, (1, 1, 4, 4, 6))
    assert len(result.output_shapes) == count
    assert result.output_shape == ((1, 2, 2, 2, 4) if count else None)
    assert result.multiply_adds == 2 * 27 * 16
    assert activation_memory(network, (1, 1, 4, 4, 6)).saved == 4 * 4 * 4 * 6


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv3d(1, 0, 3), nn.Conv3d(0, 2, 1)), (1, 1, 4, 4, 4)),
        (nn.Sequential(nn.Linear(3, 0), nn.Linear(0, 2)), (5, 3)),
        (nn.ConvTranspose3d(1, 0, 2), (1, 1, 4, 4, 4)),
        (nn.Sequential(nn.Conv2d(1, 0, 3), nn.ReLU(), nn.Conv2d(0, 1, 1)), (1, 1, 4, 4)),
        (nn.Embedding(0, 3), (0,)),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_layers_of_size_zero_cost_nothing(module, shape):
    result = account(module, shape if shape[0] else torch.zeros(0, dtype=torch.long))
    assert result.multiply_adds == 0
    assert result.parameters == sum(p.numel() for p in module.parameters())


class Several(nn.Module):
    """Takes several arguments, reads a value, and calls a layer without any argument."""

    def __init__(self):
        super().__init__()
        self.table, self.linear = Table(), nn.Linear(4, 3)

    def forward(self, x, steps, *, scale=1):
        return self.linear(x + self.table()) * scale * (2 if steps.max().item() > 1 else 1)


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(5, 4))

    def forward(self):
        return self.rows


def test_an_input_may_be_given_in_place_of_its_shape():
    x, steps = torch.zeros(2, 5, 4), torch.tensor([3])
    for given in ((x, steps), {"x": x, "steps": steps, "scale": 2}):
        result = account(Several(), given)
        assert (result.input_shape, result.output_shape) == ((2, 5, 4), (2, 5, 3))
        assert result.multiply_adds == 2 * 5 * 12
        assert activation_memory(Several(), given).saved > 0
    module = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2))
    module.kept = [module(torch.ones(2, 1, 5, 5, 5))]  # with its history, as MONAI's DynUNet does
    module[1].reset_running_stats()
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.ones(2, 1, 5, 5, 5)
    assert activation_memory(module, x) == activation_memory(module, (2, 1, 5, 5, 5))
    assert account(module, x) == account(module, (2, 1, 5, 5, 5))
    assert all(torch.equal(kept[name], value) for name, value in module.state_dict().items())


class Reads(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.place = function, [torch.ones(3)]

    def forward(self, x):
        return self.function(self, x)


@pytest.mark.parametrize(
    ("module", "advice"),
    [
        (Reads(lambda _, x: x * x.max().item()), "give an input in place of its shape"),
        (Reads(lambda _, x: x[x > 0]), "give an input in place of its shape"),
        (Reads(lambda _, x: x if x.sum() > 0 else -x), "give an input in place of its shape"),
        (Reads(lambda _, x: x.numpy()), "give an input in place of its shape"),
        (nn.Bilinear(3, 3, 1), "all arguments as a tuple"),
        (Reads(lambda _, x: x.reshape(7)), "change the shape"),
        (nn.LazyLinear(3), "run it once on data first"),
    ],
)
def test_the_remedy_is_one_that_works(module, advice):
    for count in (account, activation_memory):
        with pytest.raises(ConfigError, match=advice):
            count(module, (2, 3))


def test_the_module_is_not_changed():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2)).double()
    before = {name: (id(t), t.clone()) for name, t in network.state_dict(keep_vars=True).items()}
    hooks = len(network[0]._forward_hooks)
    memory = activation_memory(network, (2, 1, 5, 5, 5))
    account(network, (2, 1, 5, 5, 5))
    after = network.state_dict(keep_vars=True)
    assert all(id(after[name]) == identity for name, (identity, _) in before.items())
    assert all(torch.equal(after[name], value) for name, (_, value) in before.items())
    assert network.training
    assert len(network[0]._forward_hooks) == hooks
    assert memory == activation_memory(network.float(), (2, 1, 5, 5, 5))  # always of float32


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 2, 8, 8, 8), r"\(1, 2, 8, 8, 8\) in evaluation mode \(.*channel"),
        ((1, 1, 2, 8, 8), r"\(1, 1, 2, 8, 8\)"),
        ((1, 1, 0, 8, 8), "at least 1"),
        ((), "at least 1"),
    ],
)
def test_a_shape_that_the_module_cannot_take_is_refused(shape, message):
    with pytest.raises(ConfigError, match=message):
        account(nn.Sequential(nn.Conv3d(1, 2, 3)), shape)


def test_a_networks_own_refusal_is_kept():
    with pytest.raises(ConfigError, match="nearest valid sizes: 124"):
        account(on_meta(UNet, "3d"), (1, 1, 131, 131, 131))


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (on_meta(UNet, "3d", base_width=1, depth=1), (1, 1, 20, 20, 20), (18, 18, 18)),
        (on_meta(ResNet, "3d", base_width=1), (1, 3, 8, 16, 16), (225, 451, 451)),
        (nn.Conv3d(1, 1, 3), (1, 1, 3, 3, 3), None),
    ],
)
def test_receptive_field_is_what_the_module_says(module, shape, expected):
    assert account(module, shape).receptive_field == expected


def test_an_input_costs_what_its_shape_does():
    """On a CPU short strided axes are computed whole, which is no work that anybody asked for."""
    network, shape = create("resnet18_p2sc2", base_width=4).eval(), (1, 3, 8, 16, 16)
    by_shape, by_input = account(network, shape), account(network, torch.rand(shape))
    assert (by_input.multiply_adds, by_input.elsewhere) == (by_shape.multiply_adds, 0)
    assert 2 * by_shape.multiply_adds == by_shape.counted_flops == by_input.counted_flops
