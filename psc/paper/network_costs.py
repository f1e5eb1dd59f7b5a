"""Parameters and multiply-adds of a row's network."""

from dataclasses import dataclass, field

from psc.build import build_network_on_meta, forward_flops, sample_shape
from psc.config.schema import TrainConfig

__all__ = ["COSTS", "Cost", "Costs"]


@dataclass(frozen=True)
class Cost:
    """Of a network.

    Attributes:
        parameters: learnable ones.
        multiply_adds: MACs of the forward pass of one training sample; None where this version of
            the code builds another network than the recorded one.
    """

    parameters: int
    multiply_adds: int | None


@dataclass
class Costs:
    """Costs of networks, each counted once; on the meta device, without memory or arithmetic."""

    known: dict[str, Cost] = field(default_factory=dict)

    def of(self, config: TrainConfig) -> Cost:
        """The cost of a configuration's network and training sample."""
        key = repr((config.backbone, config.block, config.recipe))
        if key not in self.known:
            network = build_network_on_meta(config.backbone, config.block)
            flops = forward_flops(network, sample_shape(config.recipe, network))
            parameters = sum(p.numel() for p in network.parameters())
            self.known[key] = Cost(parameters, flops // 2)
        return self.known[key]


COSTS = Costs()
"""Those of this process."""
