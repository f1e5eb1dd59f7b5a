"""A trained affinity network on an EM volume of any size: neurons, block by block."""

import json
import logging
import math
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from torch import Tensor

from psc.blockwise.engine import DESCRIPTION, open_engine
from psc.blockwise.grid import Grid, block_size
from psc.blockwise.pipeline import BlockwiseOptions, segment_blockwise
from psc.config.schema import SegmentConfig, TrainConfig, UNetConfig
from psc.em.settings import AffinityRecipeConfig, FibsemConfig
from psc.em.testing import Loaded, NetworkAffinities, nearest_affinities
from psc.errors import CheckpointError, ConfigError, DataError
from psc.machine import claim_gpu
from psc.networks.geometry import VolumeNetwork
from psc.training.checkpoints import Checkpoint, read_checkpoint
from psc.training.hardware import BF16, arithmetic, inference_device, prediction_precision
from psc.training.records import read_record
from psc.training.settings import sizes
from psc.volumes.intensity import settled_range
from psc.volumes.metadata import Triple, in_nm
from psc.volumes.reading import Volume, fingerprint, open_volume, sample
from psc.volumes.tiling import size_triple

log = logging.getLogger(__name__)

_GRAPH_BYTES, _MUCH = 0.42, 4e9  # for each voxel (experiments/speed); what a block takes


@lru_cache(maxsize=1)
def _loaded(path: Path, accelerator: str, precision: str) -> Loaded:
    """The network of a checkpoint with the sigmoid behind it, loaded once in each process."""
    if multiprocessing.parent_process() is not None:
        claim_gpu()  # one of several processes on this machine
    device = inference_device(accelerator)
    network = read_checkpoint(path).network()
    assert isinstance(network, VolumeNetwork)
    nearest = nearest_affinities(network.to(device).eval())

    def predict(raw: Tensor) -> Tensor:
        with arithmetic(precision, device):
            return nearest(raw)

    return predict, device


def segment_neurons(config: SegmentConfig, checkpoint: Checkpoint) -> Path:
    """Segment an EM volume into a folder; see ``psc.blockwise.pipeline`` for what is written."""
    trained = checkpoint.config
    _check_network(trained, checkpoint.path)
    if config.segmentation.thresholds is not None:
        raise ConfigError("segmentation.thresholds: a volume is segmented at one, threshold=…")
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
    assert isinstance(trained.dataset, FibsemConfig)  # psc.config.checks
    told_size, told_range = (
        json.loads(checkpoint.told.get(key, "null")) for key in ("voxel_size", "grey_range")
    )
    voxel_size = _voxel_size(config, volume, told_size or trained.dataset.voxel_size)
    network = checkpoint.network()  # here: a wrong one is refused at once
    assert isinstance(network, VolumeNetwork)
    intensity_range, note = settled_range(
        sample(volume),
        config.intensity_range,
        trained.dataset.intensity_range or told_range,
        where=config.input,
        setting="intensity_range",
    )
    if note:
        log.warning("%s", note)
    affinities = NetworkAffinities.of(
        *(network, volume, volume.shape, trained),
        load=partial(_loaded, checkpoint.path.resolve(), config.accelerator, precision),
        intensity_range=intensity_range,
    )
    wanted = size_triple(config.block_size, "block_size")
    core = block_size(volume.shape, wanted, affinities.tile_output, affinities.period)
    grid = Grid(volume.shape, core)
    log.info(
        "%s: %s voxels in %d blocks of %s, tiles of %s",
        config.input,
        " × ".join(map(str, volume.shape)),
        len(grid),
        " × ".join(map(str, core)),
        " × ".join(map(str, affinities.tile_input)),
    )
    if (graph := _GRAPH_BYTES * math.prod(volume.shape)) > _MUCH:
        log.warning(
            "%s: the graph of so many voxels takes some %.0f GB of one process at the end, and is"
            " refused beyond some 3,700³ voxels; where that is too much, segment parts",
            *(config.input, graph / 1e9),
        )
    filled = volume.check()
    _warn_of_a_rewritten(volume, Path(config.output))
    source = {
        "input": fingerprint(volume),
        "weights": checkpoint.digest,
        "missing_chunks": filled or "refuse",  # where none is missing both are the same
        "intensity_range": intensity_range,
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
                "intensity_range": intensity_range or f"the range of {volume.dtype}",
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


def _warn_of_a_rewritten(volume: Volume, folder: Path) -> None:
    """A fingerprint is of a few boxes; a copy is newer, too, and is what it was."""
    begun = folder / DESCRIPTION
    if not begun.is_file():
        return
    newest = max(volume.files(), key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime > begun.stat().st_mtime:
        log.warning(
            "%s was written after %s had been begun: if voxels have changed, what is done there is"
            " of the old ones; remove %s to begin again",
            *(newest, folder, folder),
        )


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


def _voxel_size(
    config: SegmentConfig, volume: Volume, trained: Sequence[float] | None
) -> Triple | None:
    """As set, else as the file says; a guess is said, and one that the network did not learn."""
    for note in volume.notes:
        log.warning("%s; another one is named by input_key=…", note)
    sizes(config, "voxel_size", "nm [z,y,x]")
    size: Sequence[float] | None = config.voxel_size
    found = volume.voxel_size
    if size is None:
        if found is None:
            why = volume.voxel_size_source
            log.warning("voxel size unknown: %s; voxel_size=[z,y,x] in nm says it", why)
        size = found
    elif found is not None and tuple(size) != found:
        log.warning("voxel_size=%s nm, though the input says %s nm", size, list(found))
    if trained and not (size and np.allclose(size, trained, rtol=0.02)):
        log.warning(
            "the network was trained on voxels of %s, these are of %s: expect worse, or resample "
            "the volume",
            in_nm(trained),
            in_nm(size),
        )
    return None if size is None else (size[0], size[1], size[2])
