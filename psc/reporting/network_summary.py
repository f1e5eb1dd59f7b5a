"""One network's account in words and numbers, with what was published about it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache

from torch import nn

from psc.accounting import Account, ActivationMemory, Layer, account, activation_memory
from psc.build import build_network_on_meta, paper_input_shape
from psc.config.compose import CONFIG_DIRECTORY
from psc.config.schema import BackboneConfig, BlockConfig, SummaryConfig
from psc.config.summary import compose_summary
from psc.convolutions import AXES
from psc.errors import ConfigError
from psc.published import Comparison, Network, compare

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
