"""Accounts of networks: parameters, multiply-adds and layers, beside what was published.

``network_account`` is what ``scripts/account.py`` prints of one network; ``paper_accounts`` are
those of the table in docs/networks.md and on the page: every backbone of the paper × every block.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from torch import nn

from psc.accounting import Account, ActivationMemory, Layer, account, activation_memory
from psc.block.convolution import AXES
from psc.config.checks import check_network
from psc.config.compose import CONFIG_DIRECTORY, from_plain, register, typed_node
from psc.config.schema import AccountConfig, TrainConfig
from psc.errors import CheckpointError, ConfigError
from psc.networks.build import forward_flops, network_on_meta, paper_input_shape
from psc.paper.published import NOT_SAID, RELATIONS, SIZES, Network, Relation
from psc.paper.text import aligned, billions, markdown_table
from psc.training.records import Record

FORMATS = ("text", "markdown", "json")

OTHER_FORM = "not compared: the network is not in a published form"

COLUMNS = (
    *("layer", "type", "kernel", "stride", "groups", "channels", "output"),
    *("parameters", "MACs"),
)

BLOCKS = ("3d", "p1sc1", "p2sc1", "p2sc2", "p2sc3", "p3sc2")

NETWORKS: tuple[Network, ...] = (
    *(("resnet34", block) for block in (*BLOCKS, "p2sc3_calibrated")),
    *(("densenet", block) for block in BLOCKS),
    ("densenet_bui", "3d"),
    *(("unet", block) for block in BLOCKS),
)
"""Rows of the table: the paper's backbones, and Bui et al.'s network as they published it."""

README_PART = "PARAMETERS"
"""What the markers call the table (``psc.paper.text.insert_between``)."""

NOTE = (
    "Multiply-adds (MACs; a FLOP count is twice that) are of one forward pass of one input of that "
    "size, biases not counted. “match” is equality at the rounding of the published number. Exact "
    "numbers are counts of network definitions that their authors released, except that of the "
    "U-Net with 3D, of which no file is public. The authors' `p3sc2` U-Net takes the decoder's M "
    "from the 648 channels of its coarsest level, ours from the channels that enter. Figures 5d "
    "and 6d of the paper, which may say more, exist only as images."
)

Accounts = Mapping[Network, Account]


@dataclass(frozen=True)
class Cost:
    """Of a network and the forward pass of one training sample."""

    parameters: int  # learnable ones
    # MACs; None where this code builds another network than the recorded one
    multiply_adds: int | None
    input_shape: tuple[int, ...] | None = None  # (1, C, D, H, W) of the sample; None likewise

    @property
    def flops(self) -> int | None:
        """Two per multiply-add."""
        return None if self.multiply_adds is None else 2 * self.multiply_adds

    def training_flops(self, samples: int | None) -> int | None:
        """Three forward passes for each sample: gradients of input and weights cost two."""
        return None if self.flops is None or samples is None else 3 * self.flops * samples


_KNOWN: dict[str, Cost] = {}  # counting takes most of the time of a table


def network_cost(config: TrainConfig) -> Cost:
    """The cost of a configuration's network, counted once on the meta device."""
    key = repr((config.backbone, config.block, config.recipe))
    if key not in _KNOWN:
        network = network_on_meta(config.backbone, config.block)
        shape = config.recipe.sample_shape(network)
        parameters = sum(p.numel() for p in network.parameters())
        _KNOWN[key] = Cost(parameters, forward_flops(network, shape) // 2, shape)
    return _KNOWN[key]


def recorded_cost(record: Record) -> Cost:
    """The cost of a record's network, built again; its parameters only, if it is another now."""
    try:
        cost = network_cost(from_plain(record.config, Path(record.run)))
    except (CheckpointError, ConfigError):
        cost = None
    if cost is None or cost.parameters != record.parameters:
        return Cost(record.parameters, None)
    return cost


def compose_account(overrides: Sequence[str] = ()) -> AccountConfig:
    """Compose configs/account.yaml as ``python scripts/account.py *overrides`` would."""
    register()
    # Within a program of Hydra's its own composition is used: there can be one only.
    running = GlobalHydra.instance().is_initialized()
    with (
        nullcontext()
        if running
        else initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3")
    ):
        return to_account(hydra_compose("account", overrides=list(overrides)))


def to_account(config: DictConfig) -> AccountConfig:
    """The resolved dataclass of a composed configuration, checked."""
    typed = typed_node(config)
    assert isinstance(typed, AccountConfig)
    check_network(typed.backbone, typed.block)
    if typed.format not in FORMATS:
        raise ConfigError(f"format={typed.format}: allowed are {', '.join(FORMATS)}")
    if typed.batch_size < 1:
        raise ConfigError(f"batch_size={typed.batch_size}: must be at least 1")
    size = typed.input_size
    sizes = size if isinstance(size, list) else [1 if size is None else size]
    if len(sizes) not in (1, AXES) or any(type(one) is not int or one < 1 for one in sizes):
        raise ConfigError(
            f"input_size={size}: allowed are one size, [D, H, W], or null for the paper's; sizes "
            "are whole numbers from 1 on"
        )
    if typed.into is not None and not typed.table:
        raise ConfigError(f"into={typed.into} needs table=true: only the table has a place there")
    if typed.into is not None and not Path(typed.into).is_file():
        raise ConfigError(
            f"into={typed.into} is not a file; name the one to change: docs/networks.md"
        )
    return typed


def network_account(config: AccountConfig) -> str:
    """The account of a configured network, in the format that the configuration asks for."""
    network = network_on_meta(config.backbone, config.block)
    shape = input_shape(config, network)
    result = account(network, shape)
    try:
        memory = activation_memory(network, shape)
    except ConfigError:  # it can compute that input but not train on it
        memory = None
    comparison = compare_with_published(config, result.parameters)
    if config.format == "json":
        return _as_json(config, result, memory, comparison)
    title = f"{config.backbone.name} {config.block.name}"
    grid = [COLUMNS, *(_row(layer) for layer in result.layers)]
    facts = list(_facts(result, memory, comparison))
    if config.format == "markdown":
        lines = [f"- {name}: {text}" for name, text in facts]
        return "\n".join([f"# {title}", "", markdown_table(grid), "", *lines])
    width = max(len(name) for name, _ in facts) + 2
    lines = [f"{name + ':':{width}}{text}" for name, text in facts]
    return "\n".join([title, "", aligned(grid, right=2), "", *lines])


def input_shape(config: AccountConfig, network: nn.Module) -> tuple[int, ...]:
    """(N, C, D, H, W) of the configured input, or of the paper's."""
    _, channels, *sizes = paper_input_shape(config.backbone, network)
    if config.input_size is not None:
        given = config.input_size
        sizes = given if isinstance(given, list) else [given]
        sizes = sizes * (AXES // len(sizes))
    return (config.batch_size, channels, *sizes)


@dataclass(frozen=True)
class Comparison:
    """A number of ours beside the published one."""

    published: str | None  # as printed; None if nothing was
    verdict: str  # ``Size.verdict``, ``Relation.verdict`` or ``NOT_SAID``
    source: str | None  # of what was published


def compare(network: Network, parameters: int) -> Comparison:
    """Compare a network's size with what was published about it, else with what is said of it."""
    if (size := SIZES.get(network)) is not None:
        return Comparison(str(size), size.verdict(parameters), size.source)
    for relation in RELATIONS:
        if relation.network == network:
            verdict = relation.verdict(parameters, count_parameters(relation.other))
            return Comparison(str(relation), verdict, relation.source)
    return Comparison(None, NOT_SAID, None)


def compare_with_published(config: AccountConfig, parameters: int) -> Comparison:
    """What was published about the network; nothing where it was changed on the command line."""
    network = (config.backbone.name, config.block.name)
    for group, name in zip(("backbone", "block"), network, strict=True):
        if not (CONFIG_DIRECTORY / group / f"{name}.yaml").is_file():
            return Comparison(None, OTHER_FORM, None)
    named = published_form(network)
    if (named.backbone, named.block) != (config.backbone, config.block):
        return Comparison(None, OTHER_FORM, None)
    return compare(network, parameters)


def published_form(network: Network) -> AccountConfig:
    """The configuration of a backbone × block as its files have it."""
    backbone, block = network
    return AccountConfig(named_config("backbone", backbone), named_config("block", block))


@cache
def named_config(group: str, name: str) -> Any:
    """``configs/<group>/<name>.yaml``, of "backbone" or "block"."""
    return getattr(compose_account([f"{group}={name}"]), group)


@cache
def count_parameters(network: Network) -> int:
    """Parameters of our network of that backbone and block."""
    return sum(p.numel() for p in built(network)[0].parameters())


def built(network: Network) -> tuple[nn.Module, tuple[int, ...]]:
    """Our network as its configuration files have it, on the meta device, and the paper's input."""
    config = published_form(network)
    module = network_on_meta(config.backbone, config.block)
    return module, paper_input_shape(config.backbone, module)


def _row(layer: Layer) -> tuple[str, ...]:
    same = layer.in_channels == layer.out_channels
    channels = f"{layer.in_channels}" if same else f"{layer.in_channels}→{layer.out_channels}"
    groups = "–" if layer.groups is None else str(layer.groups)
    shown = "–" if layer.in_channels is None else channels
    counted = f"{layer.parameters:,}", f"{layer.multiply_adds:,}"
    window = _times(layer.kernel), _times(layer.stride), groups
    return (layer.name, layer.kind, *window, shown, _times(layer.output_shape), *counted)


def _times(sizes: tuple[int, ...] | None) -> str:
    return "–" if sizes is None else "×".join(map(str, sizes))


def _facts(
    result: Account, memory: ActivationMemory | None, comparison: Comparison
) -> Iterator[tuple[str, str]]:
    """Totals with their names and units, and the comparison."""
    counted = "the same" if result.counted_flops == result.flops else f"{result.counted_flops:,}"
    field = result.receptive_field
    source = f" ({comparison.source})" if comparison.source else ""
    yield "input", f"{_times(result.input_shape)} (batch, channels, D, H, W)"
    yield "output", _times(result.output_shape)
    yield "parameters", f"{result.parameters:,} learnable, {result.buffers:,} in buffers"
    yield "published", f"{comparison.published or 'no number'}{source}"
    yield "verdict", comparison.verdict
    macs = result.multiply_adds
    yield "multiply-adds (MACs)", f"{macs:,} = {billions(macs)}"
    yield "FLOPs = 2·MACs", f"{result.flops:,}; counted by torch: {counted}"
    yield "receptive field", "unknown" if field is None else f"{_times(field)} (D, H, W)"
    if memory is None:
        yield "training", "too small an input for batch norm"
    else:
        saved, largest = (f"{size / 2**20:,.1f} MiB" for size in (memory.saved, memory.largest))
        yield "saved for backward", f"{saved} of activations in float32"
        yield "largest tensor", largest


def _as_json(
    config: AccountConfig, result: Account, memory: ActivationMemory | None, comparison: Comparison
) -> str:
    numbers = asdict(result)
    layers = numbers.pop("layers")
    content: dict[str, Any] = {
        "backbone": asdict(config.backbone),
        "block": asdict(config.block),
        **numbers,
        "multiply_adds": result.multiply_adds,
        "flops": result.flops,
        "activation_bytes": None if memory is None else asdict(memory),
        "comparison": asdict(comparison),
        "layers": layers,
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def paper_accounts() -> dict[Network, Account]:
    """The accounts of all ``NETWORKS``, at the paper's inputs."""
    return {network: account(*built(network)) for network in NETWORKS}


def verdicts(accounts: Accounts) -> list[tuple[Relation, str]]:
    """What the paper says of one network's size against another's, and whether ours bear it out."""
    return [
        (r, r.verdict(accounts[r.network].parameters, accounts[r.other].parameters))
        for r in RELATIONS
        if r.network in accounts and r.other in accounts
    ]


def shown_input(result: Account) -> str:
    """1 × 132³."""
    _, channels, size, *others = result.input_shape
    assert set(others) == {size}
    return f"{channels} × {size}³"


def parameter_table(accounts: Accounts) -> str:
    """The table, and the relations that the paper states, as Markdown."""
    header = ("backbone", "block", "input", "parameters", "MACs", "published", "verdict")
    sizes: list[tuple[str, ...]] = [header]
    relations = [("the paper compares", "here")]
    for network, result in accounts.items():
        comparison = compare(network, result.parameters)
        counted = f"{result.parameters:,}", billions(result.multiply_adds)
        names = (f"`{name}`" for name in network)
        published = comparison.published or "–", comparison.verdict
        sizes.append((*names, shown_input(result), *counted, *published))
    for relation, verdict in verdicts(accounts):
        words = f"{' '.join(relation.network)}: {relation} ({relation.source})"
        relations.append((words, verdict))
    return "\n\n".join((markdown_table(sizes), NOTE, markdown_table(relations)))
