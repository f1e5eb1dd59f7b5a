"""A trained affinity network on an EM volume of any size: neurons, block by block."""

import json
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from psc.blockwise.engine import open_engine
from psc.blockwise.grid import Box, Grid, block_size
from psc.blockwise.pipeline import BlockwiseOptions, segment_blockwise
from psc.config.schema import SegmentConfig, TrainConfig, UNetConfig
from psc.em.affinities import NEAREST
from psc.em.settings import AffinityRecipeConfig, FibsemConfig
from psc.em.testing import prediction_tiles
from psc.errors import CheckpointError, ConfigError, DataError
from psc.machine import claim_gpu
from psc.networks.geometry import VolumeNetwork
from psc.training.checkpoints import Checkpoint, read_checkpoint
from psc.training.hardware import BF16, arithmetic, inference_device, prediction_precision
from psc.training.records import read_record
from psc.volumes.intensity import Range, scale_intensity, settled_range
from psc.volumes.metadata import Size3
from psc.volumes.reading import Volume, fingerprint, open_volume, sample
from psc.volumes.tiling import predict_volume

log = logging.getLogger(__name__)

_Triple = tuple[float, float, float]

Loaded = tuple[Callable[[Tensor], Tensor], torch.device]
"""A network in memory: (N, 1, d, h, w) on the device → affinities (N, 3, …) in [0, 1]."""


@dataclass(frozen=True)
class NetworkAffinities:
    """Affinities of any box of a volume, from a network; see ``psc.volumes.tiling``."""

    raw: Volume
    load: Callable[[], Loaded]  # called once for every box: it must remember its network
    tile_input: Size3
    tile_output: Size3
    period: int
    intensity_range: Range | None = None  # grey values that become 0 and 1; None = by the dtype
    batch_size: int = 1

    def __call__(self, box: Box) -> npt.NDArray[np.float32]:
        """Affinities float32 (3, D, H, W) of a box that starts at multiples of the period."""
        predict, device = self.load()
        return predict_volume(
            predict,
            self.raw,
            tile_input=self.tile_input,
            tile_output=self.tile_output,
            period=self.period,
            region=box,
            prepare=lambda tile: scale_intensity(tile, self.intensity_range),
            device=device,
            batch_size=self.batch_size,
        )


@lru_cache(maxsize=1)
def _loaded(path: Path, accelerator: str, precision: str) -> Loaded:
    """The network of a checkpoint with the sigmoid behind it, loaded once in each process."""
    if multiprocessing.parent_process() is not None:
        claim_gpu()  # one of several processes on this machine
    device = inference_device(accelerator)
    network = read_checkpoint(path).network()
    assert isinstance(network, VolumeNetwork)
    tiled = network.to(device).eval().unpadded()

    def predict(raw: Tensor) -> Tensor:
        with arithmetic(precision, device):
            return torch.sigmoid(tiled(raw)[:, : len(NEAREST)].float())

    return predict, device


def segment_neurons(config: SegmentConfig, checkpoint: Checkpoint) -> Path:
    """Segment an EM volume into a folder; see ``psc.blockwise.pipeline`` for what is written."""
    trained = checkpoint.config
    _check_network(trained, checkpoint.path)
    trained = replace(trained, segmentation=trained.segmentation.changed(config.segmentation))
    options = BlockwiseOptions(
        segmentation=trained.segmentation,
        threshold=_threshold(config, checkpoint),
        context=config.context,
        levels=config.levels,
    )
    device = inference_device(config.accelerator)
    precision = prediction_precision(config.precision, trained.trainer.precision, device)
    volume = open_volume(
        Path(config.input),
        config.input_key,
        missing_chunks=config.missing_chunks,  # type: ignore[arg-type]  # open_volume checks it
    )
    voxel_size = _voxel_size(config, volume, _trained_voxel_size(checkpoint))
    affinities = _affinities(config, checkpoint, trained, volume, precision)
    core = block_size(
        volume.shape, _block(config.block_size), affinities.tile_output, affinities.period
    )
    grid = Grid(volume.shape, core)
    log.info(
        "%s: %s voxels in %d blocks of %s, tiles of %s",
        config.input,
        " × ".join(map(str, volume.shape)),
        len(grid),
        " × ".join(map(str, core)),
        " × ".join(map(str, affinities.tile_input)),
    )
    source = {
        "input": fingerprint(volume),
        "weights": checkpoint.digest,
        "missing_chunks": config.missing_chunks,
        "intensity_range": affinities.intensity_range,
        "tile_input": affinities.tile_input,
        **({"precision": precision} if precision == BF16 else {}),
    }
    with open_engine(config.workers, config.address, progress=config.progress) as engine:
        result = segment_blockwise(
            affinities,
            source,
            grid,
            options,
            Path(config.output),
            engine=engine,
            voxel_size=voxel_size,
            offset=volume.offset,
            facts={
                "input": str(Path(config.input).expanduser().absolute()),
                "input_key": config.input_key,
                "checkpoint": str(checkpoint.path.resolve()),
                "network": f"{trained.backbone.name}, {trained.block.name}",
                "threshold": options.threshold,
                "intensity_range": affinities.intensity_range or f"the range of {volume.dtype}",
                "voxel_size": voxel_size or "unknown",
            },
            overwrite=config.overwrite,
        )
    log.info(
        "written to %s: %d segments of %d fragments at threshold %g",
        result.folder,
        result.counts["segments"],
        result.counts["fragments"],
        options.threshold,
    )
    return result.folder


def _check_network(trained: TrainConfig, path: Path) -> None:
    """Refuse a network that does not give the affinities that its recipe says."""
    backbone, recipe = trained.backbone, trained.recipe
    assert isinstance(backbone, UNetConfig)  # psc.config.checks
    assert isinstance(recipe, AffinityRecipeConfig)
    if backbone.out_channels != len(recipe.offsets) or backbone.in_channels != 1:
        raise CheckpointError(
            f"{path}: its network turns {backbone.in_channels} channels into"
            f" {backbone.out_channels}; neurons need one channel of grey values and the"
            f" {len(recipe.offsets)} affinities of recipe.offsets={recipe.offsets}"
        )


def _threshold(config: SegmentConfig, checkpoint: Checkpoint) -> float:
    """As set, else as the checkpoint's run chose it on its validation part."""
    path = checkpoint.path.resolve()
    if config.threshold is not None:
        return config.threshold
    if "threshold" in checkpoint.told:
        return float(checkpoint.told["threshold"])
    try:
        record = read_record(path.parent.parent)
        threshold = record.metrics["threshold"]
    except (DataError, KeyError):
        raise ConfigError(
            f"threshold=null: beside {path} there is no finished run that chose one; set"
            " threshold=…, a score 1 - affinity such as 0.4"
        ) from None
    if "conversion" in record.data or checkpoint.conversion is None:
        log.info("threshold %g, as the run of the checkpoint chose it", threshold)
    else:
        log.warning(
            "threshold %g, as the run chose it for the network before its conversion; evaluate.py "
            "chooses one for %s",
            threshold,
            path,
        )
    return float(threshold)


def _affinities(
    config: SegmentConfig,
    checkpoint: Checkpoint,
    trained: TrainConfig,
    volume: Volume,
    precision: str,
) -> NetworkAffinities:
    """The network with the very tiles that it would predict the whole volume in."""
    assert isinstance(trained.dataset, FibsemConfig)  # psc.config.checks
    network = checkpoint.network()  # here: a wrong one is refused at once
    assert isinstance(network, VolumeNetwork)
    tiled, tile_input, tile_output = prediction_tiles(network, volume.shape, trained)
    intensity_range, note = settled_range(
        sample(volume),
        config.intensity_range,
        trained.dataset.intensity_range or json.loads(checkpoint.told.get("grey_range", "null")),
        where=config.input,
        setting="intensity_range",
    )
    if note:
        log.warning("%s", note)
    return NetworkAffinities(
        volume,
        partial(_loaded, checkpoint.path.resolve(), config.accelerator, precision),
        tile_input,
        tile_output,
        tiled.period,
        intensity_range,
        trained.segmentation.batch_size,
    )


def _block(block: Any) -> Size3:
    sizes = [block] * 3 if isinstance(block, int) else block
    if not isinstance(sizes, Sequence) or len(sizes) != 3 or not all(type(n) is int for n in sizes):
        raise ConfigError(f"block_size={block}: give a number of voxels, or three of them [z,y,x]")
    return sizes[0], sizes[1], sizes[2]


def _trained_voxel_size(checkpoint: Checkpoint) -> Sequence[float] | None:
    """(z, y, x) in nm; None where neither the file nor its configuration says it."""
    assert isinstance(checkpoint.config.dataset, FibsemConfig)  # psc.config.checks
    told: list[float] | None = json.loads(checkpoint.told.get("voxel_size", "null"))
    return told or checkpoint.config.dataset.voxel_size


def _voxel_size(
    config: SegmentConfig, volume: Volume, trained: Sequence[float] | None
) -> _Triple | None:
    """As set, else as the file says; a guess is said, and one that the network did not learn."""
    for note in volume.notes:
        log.warning("%s; another one is named by input_key=…", note)
    size: Sequence[float] | None = config.voxel_size
    found = volume.voxel_size
    if size is None:
        if found is None:
            why = volume.voxel_size_source
            log.warning("voxel size unknown: %s; voxel_size=[z,y,x] in nm says it", why)
        size = found
    elif len(size) != 3 or not min(size) > 0:
        raise ConfigError(f"voxel_size={size}: give three positive numbers of nm [z,y,x]")
    elif found is not None and tuple(size) != found:
        log.warning("voxel_size=%s nm, though the input says %s nm", size, list(found))
    if trained and not (size and np.allclose(size, trained, rtol=0.02)):
        log.warning(
            "the network was trained on voxels of %s nm, these are of %s: expect worse, or "
            "resample the volume",
            " × ".join(f"{length:g}" for length in trained),
            "unknown size" if size is None else " × ".join(f"{length:g}" for length in size),
        )
    return None if size is None else (size[0], size[1], size[2])
