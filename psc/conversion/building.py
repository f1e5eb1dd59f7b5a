"""The blocks that a planned conversion puts into a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from psc.conversion.factors import Initialisation, separable_layer
from psc.conversion.parallel_streams import ParallelStreams
from psc.conversion.run_factors import separable_run
from psc.conversion.runs import Run
from psc.conversion.widths import Width, layer_widths, run_width
from psc.errors import ConfigError
from psc.streams import Merge


@dataclass(frozen=True)
class BlockOptions:
    """What ``psc.convert`` is told of the blocks; see there."""

    m: int
    init: Initialisation
    width: Width
    maximum_width: int | None
    merge: Merge
    sweeps: int
    activation: Callable[[], nn.Module] | None

    def block_for(self, name: str, layer: nn.Conv3d) -> ParallelStreams:
        """P_mSC_1 in place of one layer.

        Raises:
            ConfigError: for an impossible width, or weights that are not finite.
        """
        widths = layer_widths(
            name,
            layer,
            self.m,
            self.merge,
            self.width,
            maximum=self.maximum_width,
            linear=self.activation is None,
        )
        return separable_layer(
            layer,
            widths,
            init=self.init,
            merge=self.merge,
            sweeps=self.sweeps,
            activation=self.activation,
        )

    def block_for_run(self, run: Run, layers: Mapping[str, nn.Conv3d]) -> ParallelStreams:
        """P_mSC_n in place of several layers.

        Raises:
            ConfigError: as ``block_for``, naming the layers.
        """
        parts = [layers[name] for name in run.layers]
        try:
            width = run_width(run.layers, parts, self.m, self.width, maximum=self.maximum_width)
            return separable_run(
                parts,
                run.links,
                (width,) * self.m,
                init=self.init,
                merge=self.merge,
                sweeps=self.sweeps,
                activation=self.activation,
            )
        except ConfigError as error:
            raise ConfigError(f"{' → '.join(run.layers)}: {error}") from error


def in_no_run(layers: Mapping[str, nn.Conv3d], runs: Sequence[Run]) -> dict[str, nn.Conv3d]:
    """The layers that get a block of their own."""
    taken = {name for run in runs for name in run.layers}
    return {name: layer for name, layer in layers.items() if name not in taken}
