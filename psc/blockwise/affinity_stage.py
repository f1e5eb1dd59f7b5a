"""First stage: affinities of every block, by a network that sees context around it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from psc.blockwise.grid import Block, Box
from psc.blockwise.stores import StoredArray, quantised
from psc.blockwise.volumes import LazyVolume
from psc.datasets.transforms import scale_intensity
from psc.errors import DataError
from psc.inference import predict_volume
from psc.tiling import Size3

__all__ = ["AffinityStage", "LoadedNetwork", "NetworkAffinities"]

_Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in memory.

    Attributes:
        predict: (N, 1, d, h, w) on ``device`` → affinities (N, 3, d', h', w') in [0, 1].
        device: where it is.
    """

    predict: Callable[[Tensor], Tensor]
    device: torch.device


@dataclass(frozen=True)
class NetworkAffinities:
    """Affinities of any box of a volume, from a network.

    Attributes:
        raw: grey values.
        load: gives the network; called once for every box, so it must remember what it loaded.
        tile_input: see ``psc.inference.predict_volume``, as all that follow.
        tile_output: likewise.
        period: likewise.
        intensity_range: grey values that become 0 and 1; None = by the dtype.
        batch_size: tiles at once.
    """

    raw: LazyVolume
    load: Callable[[], LoadedNetwork]
    tile_input: Size3
    tile_output: Size3
    period: int
    intensity_range: tuple[float, float] | None = None
    batch_size: int = 1

    def __call__(self, box: Box) -> _Float32:
        """Affinities float32 (3, D, H, W) of a box that starts at multiples of the period."""
        network = self.load()
        return predict_volume(
            network.predict,
            self.raw,
            tile_input=self.tile_input,
            tile_output=self.tile_output,
            period=self.period,
            region=box,
            prepare=self._prepare,
            device=network.device,
            batch_size=self.batch_size,
        )

    def _prepare(self, tile: npt.NDArray[Any]) -> _Float32:
        return scale_intensity(tile, self.intensity_range)


@dataclass(frozen=True)
class AffinityStage:
    """Writes the affinities of a block, as 0..255.

    Attributes:
        affinities_of: float32 (3, D, H, W) in [0, 1] of a box.
        target: uint8 (3, D, H, W).
    """

    affinities_of: Callable[[Box], _Float32]
    target: StoredArray

    def __call__(self, block: Block) -> dict[str, int]:
        """See ``psc.blockwise.engine.Work``.

        Raises:
            DataError: the network gives no three affinities in [0, 1] for each voxel.
        """
        affinities = self.affinities_of(block.core)
        lowest, highest = affinities.min(), affinities.max()
        if affinities.shape != (3, *block.shape) or not (lowest >= 0 and highest <= 1):
            raise DataError(
                f"{block}: expected affinities (3, {', '.join(map(str, block.shape))}) in [0, 1],"
                f" the network gave {affinities.shape} from {lowest:g} to {highest:g}; look for NaN"
                " in its weights and in the volume"
            )
        self.target.write(block.core, quantised(affinities))
        return {}
