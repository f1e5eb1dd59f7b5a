"""What a recorded network costs: its forward pass, counted on the network built again."""

from dataclasses import dataclass
from pathlib import Path

from psc.build import build_network_on_meta, forward_flops, sample_shape
from psc.config.plain import from_plain
from psc.errors import CheckpointError, ConfigError
from psc.results import Record


@dataclass(frozen=True)
class ForwardCost:
    """Cost of one forward pass of one training sample.

    Attributes:
        input_shape: (1, C, D, H, W) of the sample.
        flops: two per multiply-add.
    """

    input_shape: tuple[int, ...]
    flops: int

    @property
    def multiply_adds(self) -> int:
        """MACs."""
        return self.flops // 2


def forward_cost(record: Record) -> ForwardCost | None:
    """Count the forward pass of a record's network; without memory, time or its weights.

    Returns:
        The cost; None if this version of the code builds another network from that configuration
        (the numbers of parameters differ), or none at all.
    """
    try:
        config = from_plain(record.config, Path(record.run))
        network = build_network_on_meta(config.backbone, config.block)
    except (CheckpointError, ConfigError):
        return None
    if sum(p.numel() for p in network.parameters()) != record.parameters:
        return None
    shape = sample_shape(config.recipe, network)
    return ForwardCost(shape, forward_flops(network, shape))
