"""Affinities of one slab of an EM volume by a trained network."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from psc.backbones.geometry import VolumeNetwork
from psc.config.schema import FibsemConfig
from psc.datasets.regions import Region
from psc.datasets.transforms import scale_intensity
from psc.inference import predict_volume, tile_sizes

Affinities = npt.NDArray[np.float32]


def predict_affinities(
    network: VolumeNetwork,
    region: Region,
    dataset: FibsemConfig,
    *,
    maximum_tile: int,
    batch_size: int,
    device: torch.device,
) -> Affinities:
    """Affinities of a slab, context read across its border, reflected beyond the volume.

    Args:
        network: on ``device``, in evaluation mode.
        region: what to predict.
        dataset: its ``intensity_range``.
        maximum_tile: largest tile in voxels.
        batch_size: tiles per call.
        device: where the network is.

    Returns:
        float32 (3, D, H, W) in [0, 1], of the region's shape.

    Raises:
        ConfigError: if no tile up to the maximum can cover the region.
    """
    tile_input, tile_output = tile_sizes(
        network, region.shape, maximum_tile, margin=network.spoilt_margin
    )
    low_high = (
        (dataset.intensity_range[0], dataset.intensity_range[1])
        if (dataset.intensity_range)
        else None
    )

    def predict(raw: Tensor) -> Tensor:
        return torch.sigmoid(network(raw))

    raw, start, stop = region.volume.raw, region.z_start, region.stop
    if not region.raw_context:
        raw, start, stop = raw[start:stop], 0, stop - start
    with tqdm(desc=f"predicting {region}", unit="tile") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return predict_volume(
            predict,
            raw,
            tile_input=tile_input,
            tile_output=tile_output,
            period=network.period,
            region=(slice(start, stop), slice(None), slice(None)),
            prepare=lambda tile: scale_intensity(tile, low_high),
            device=device,
            batch_size=batch_size,
            progress=progress,
        )
