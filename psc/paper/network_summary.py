"""One network's account in words and numbers, with what was published about it."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch import nn

from psc.accounting import Account, ActivationMemory, Layer, account, activation_memory
from psc.block.stream import AXES
from psc.config.checks import check_backbone, check_block
from psc.config.compose import CONFIG_DIRECTORY, register
from psc.config.schema import BackboneConfig, BlockConfig, SummaryConfig
from psc.errors import ConfigError
from psc.networks.build import build_network_on_meta, paper_input_shape
from psc.paper.published import RELATIONS, Comparison, Network, compare

# ----------------------------------------
# The configuration of scripts/summary.py: a backbone and a block, without data or training.


FORMATS = ("text", "markdown", "json")


def compose_summary(overrides: Sequence[str] = ()) -> SummaryConfig:
    """Compose configs/summary.yaml as ``python scripts/summary.py *overrides`` would.

    Raises:
        ConfigError: if a value cannot work.
        hydra.errors.HydraException: for an unknown group, choice or key.
    """
    register()
    # Within a program of Hydra's its own composition is used: there can be one only.
    running = GlobalHydra.instance().is_initialized()
    with (
        nullcontext()
        if running
        else initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3")
    ):
        return to_summary(hydra_compose("summary", overrides=list(overrides)))


def to_summary(config: DictConfig) -> SummaryConfig:
    """The resolved dataclass of a composed configuration, checked.

    Raises:
        ConfigError: if a value cannot work.
    """
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, SummaryConfig)
    check_block(typed.block)
    check_backbone(typed.backbone, typed.block)
    if typed.format not in FORMATS:
        raise ConfigError(f"format={typed.format}: allowed are {', '.join(FORMATS)}")
    if typed.batch_size < 1:
        raise ConfigError(f"batch_size={typed.batch_size}: must be at least 1")
    if not _is_size(typed.input_size):
        raise ConfigError(
            f"input_size={typed.input_size}: allowed are one size, [D, H, W], or null for the "
            "paper's; sizes are whole numbers from 1 on"
        )
    if typed.into is not None and not typed.table:
        raise ConfigError(f"into={typed.into} needs table=true: only the table has a place there")
    if typed.into is not None and not Path(typed.into).is_file():
        raise ConfigError(f"into={typed.into} is not a file; name the one to change: README.md")
    return typed


def _is_size(value: Any) -> bool:
    if value is None:
        return True
    sizes = value if isinstance(value, list) else [value]
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    return whole and len(sizes) in (1, AXES) and min(sizes) >= 1


OTHER_FORM = "not compared: the network is not in a published form"

GIGA = 10**9
MEBIBYTE = 2**20

COLUMNS = (
    "layer",
    "type",
    "kernel",
    "stride",
    "groups",
    "channels",
    "output",
    "parameters",
    "MACs",
)


def network_summary(config: SummaryConfig) -> str:
    """The account of a configured network, in the format that the configuration asks for.

    Raises:
        ConfigError: if the network cannot be built, or cannot take that input.
    """
    network = build_network_on_meta(config.backbone, config.block)
    shape = input_shape(config, network)
    result = account(network, shape)
    memory = _memory(network, shape)
    comparison = compare_with_published(config, result.parameters)
    if config.format == "json":
        return _as_json(config, result, memory, comparison)
    title = f"{config.backbone.name} {config.block.name}"
    rows = [_row(layer) for layer in result.layers]
    facts = _facts(result, memory, comparison)
    if config.format == "markdown":
        lines = [f"# {title}", "", markdown_table(COLUMNS, rows), ""]
        return "\n".join(lines + [f"- {name}: {text}" for name, text in facts])
    width = max(len(name) for name, _ in facts) + 2
    lines = [title, "", _aligned([COLUMNS, *rows]), ""]
    return "\n".join(lines + [f"{name + ':':{width}}{text}" for name, text in facts])


def input_shape(config: SummaryConfig, network: nn.Module) -> tuple[int, ...]:
    """(N, C, D, H, W) of the configured input, or of the paper's."""
    _, channels, *sizes = paper_input_shape(config.backbone, network)
    if config.input_size is not None:
        given = config.input_size
        sizes = given if isinstance(given, list) else [given]
        sizes = sizes * (AXES // len(sizes))
    return (config.batch_size, channels, *sizes)


def compare_with_published(config: SummaryConfig, parameters: int) -> Comparison:
    """What was published about the network, if it is one that something could be published about.

    A network whose backbone or block was changed on the command line is not compared.
    """
    network = (config.backbone.name, config.block.name)
    for group, name in zip(("backbone", "block"), network, strict=True):
        if not (CONFIG_DIRECTORY / group / f"{name}.yaml").is_file():
            return Comparison(None, OTHER_FORM, None)
    named = published_form(network)
    if (named.backbone, named.block) != (config.backbone, config.block):
        return Comparison(None, OTHER_FORM, None)
    return compare(network, parameters, count_parameters)


def published_form(network: Network) -> SummaryConfig:
    """The configuration of a backbone × block as its files have it."""
    backbone, block = network
    return SummaryConfig(backbone=_backbone(backbone), block=_block(block))


@cache
def _backbone(name: str) -> BackboneConfig:
    return compose_summary([f"backbone={name}"]).backbone


@cache
def _block(name: str) -> BlockConfig:
    return compose_summary([f"block={name}"]).block


@cache
def count_parameters(network: Network) -> int:
    """Parameters of our network of that backbone and block."""
    config = published_form(network)
    built = build_network_on_meta(config.backbone, config.block)
    return sum(parameter.numel() for parameter in built.parameters())


def markdown_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Cells as a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def billions(count: int) -> str:
    """150,430,000,000 as 150.4 G."""
    return f"{count / GIGA:.1f} G"


def _aligned(lines: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(
            cell.rjust(width) if i >= len(widths) - 2 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def _row(layer: Layer) -> tuple[str, ...]:
    channels = (
        str(layer.in_channels)
        if layer.in_channels == layer.out_channels
        else f"{layer.in_channels}→{layer.out_channels}"
    )
    return (
        layer.name,
        layer.kind,
        _times(layer.kernel),
        _times(layer.stride),
        "–" if layer.groups is None else str(layer.groups),
        "–" if layer.in_channels is None else channels,
        _times(layer.output_shape),
        f"{layer.parameters:,}",
        f"{layer.multiply_adds:,}",
    )


def _times(sizes: tuple[int, ...] | None) -> str:
    return "–" if sizes is None else "×".join(map(str, sizes))


def _memory(network: nn.Module, shape: tuple[int, ...]) -> ActivationMemory | None:
    """Activation memory; None where the network can compute that input but not train on it."""
    try:
        return activation_memory(network, shape)
    except ConfigError:
        return None


def _facts(
    result: Account, memory: ActivationMemory | None, comparison: Comparison
) -> list[tuple[str, str]]:
    """Totals with their names and units, and the comparison."""
    counted = "the same" if result.counted_flops == result.flops else f"{result.counted_flops:,}"
    field = result.receptive_field
    published = comparison.published or "no number"
    if comparison.source:
        published += f" ({comparison.source})"
    facts = [
        ("input", f"{_times(result.input_shape)} (batch, channels, D, H, W)"),
        ("output", _times(result.output_shape)),
        ("parameters", f"{result.parameters:,} learnable, {result.buffers:,} in buffers"),
        ("published", published),
        ("verdict", comparison.verdict),
        ("multiply-adds (MACs)", f"{result.multiply_adds:,} = {billions(result.multiply_adds)}"),
        ("FLOPs = 2·MACs", f"{result.flops:,}; counted by torch: {counted}"),
        ("receptive field", "unknown" if field is None else f"{_times(field)} (D, H, W)"),
    ]
    if memory is None:
        return [*facts, ("training", "too small an input for batch norm")]
    return [
        *facts,
        ("saved for backward", f"{_mebibytes(memory.saved)} of activations in float32"),
        ("largest tensor", _mebibytes(memory.largest)),
    ]


def _mebibytes(count: int) -> str:
    return f"{count / MEBIBYTE:,.1f} MiB"


def _as_json(
    config: SummaryConfig,
    result: Account,
    memory: ActivationMemory | None,
    comparison: Comparison,
) -> str:
    numbers = asdict(result)
    layers = numbers.pop("layers")
    return json.dumps(
        {
            "backbone": asdict(config.backbone),
            "block": asdict(config.block),
            **numbers,
            "multiply_adds": result.multiply_adds,
            "flops": result.flops,
            "activation_bytes": None if memory is None else asdict(memory),
            "comparison": asdict(comparison),
            "layers": layers,
        },
        indent=2,
        ensure_ascii=False,
    )


# ----------------------------------------
# The README's table: every backbone of the paper × every block, beside what was published.


COLUMNS_PARAMETER_TABLE = (
    "backbone",
    "block",
    "input",
    "parameters",
    "MACs",
    "published",
    "verdict",
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
"""What the README's markers call the table (``psc.paper.style``)."""

NOTE = (
    "Multiply-adds (MACs; a FLOP count is twice that) are of one forward pass of one input of that "
    "size, biases not counted. “match” is equality at the rounding of the published number. Exact "
    "numbers are counts of network definitions that their authors released, except that of the "
    "U-Net with 3D, of which no file is public. The authors' `p3sc2` U-Net takes the decoder's M "
    "from the 648 channels of its coarsest level, ours from the channels that enter. Figures 5d "
    "and 6d of the paper, which may say more, exist only as images."
)


def paper_accounts() -> dict[Network, Account]:
    """The accounts of all networks of the table, at the paper's inputs."""
    accounts = {}
    for network in NETWORKS:
        config = published_form(network)
        built = build_network_on_meta(config.backbone, config.block)
        accounts[network] = account(built, input_shape(config, built))
    return accounts


def parameter_table(accounts: Mapping[Network, Account]) -> str:
    """The table, and the relations that the paper states, as Markdown.

    Args:
        accounts: of all ``NETWORKS``.
    """

    def count(network: Network) -> int:
        return accounts[network].parameters

    rows = []
    for network, result in accounts.items():
        comparison = compare(network, result.parameters, count)
        rows.append(
            (
                *(f"`{name}`" for name in network),
                _input(result),
                f"{result.parameters:,}",
                billions(result.multiply_adds),
                comparison.published or "–",
                comparison.verdict,
            )
        )
    relations = [
        (
            f"{' '.join(relation.network)}: {relation} ({relation.source})",
            relation.verdict(count(relation.network), count(relation.other)),
        )
        for relation in RELATIONS
    ]
    return "\n\n".join(
        (
            markdown_table(COLUMNS_PARAMETER_TABLE, rows),
            NOTE,
            markdown_table(("the paper compares", "here"), relations),
        )
    )


def _input(result: Account) -> str:
    """1 × 132³."""
    _, channels, size, *others = result.input_shape
    assert set(others) == {size}
    return f"{channels} × {size}³"
