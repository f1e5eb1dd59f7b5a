"""What an evaluation leaves (``psc.em.testing``) as layers to look at."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from psc.em.bodies import body_errors
from psc.errors import ConfigError, DataError
from psc.paper.compare import data_name
from psc.paper.measures import measures_of
from psc.training.provenance import code_version
from psc.training.records import FILE_NAME, Record, read_record
from psc.viewing.neuroglancer import (
    AFFINITIES,
    BASELINE,
    FRAGMENTS,
    RAW,
    SEGMENTATION,
    TRUTH,
    Layer,
    LayerKind,
    Scene,
)
from psc.volumes import output, stores
from psc.volumes.reading import attribute_vector, datasets_in, read_array
from psc.volumes.stores import ZarrVolume, open_volume
from psc.volumes.tiling import Size3

# ----------------------------------------
# What scripts/segment.py writes (``psc.blockwise.pipeline``) as layers to look at.
#
# Voxels stay on disk, and are read where somebody looks: the volume may be larger than memory.


_SUMMARY, _FINEST = "summary.json", "0"


def is_blockwise_output(folder: Path) -> bool:
    """Whether a folder holds what scripts/segment.py writes, finished or not."""
    return any((folder / name).exists() for name in (stores.AFFINITIES, stores.SEGMENTATION))


def open_blockwise_output(folder: Path, raw: Path | None, raw_key: str | None) -> Scene:
    """Open an output without reading its voxels.

    Args:
        folder: of the output.
        raw: the volume that was segmented, as its ``input`` was; None to do without.
        raw_key: the dataset within it, where it is not recognised.

    Raises:
        DataError: the output is unfinished or damaged, or ``raw`` is of another shape.
        ConfigError: as ``psc.volumes.stores.open_volume``.
    """
    try:
        summary = json.loads((folder / _SUMMARY).read_text())
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not finished (it has no {_SUMMARY}); start the same scripts/segment.py"
            " again, it goes on where it was"
        ) from None
    except ValueError as error:
        raise DataError(f"{folder / _SUMMARY} is damaged ({error}); segment again") from error
    layers: dict[str, Layer] = {}
    if raw is not None:
        layers[RAW] = Layer(RAW, "grey", open_volume(raw, raw_key))
    layers[AFFINITIES] = Layer(
        AFFINITIES, "affinities", _StoredAffinities(_array(folder, stores.AFFINITIES))
    )
    layers[FRAGMENTS] = Layer(FRAGMENTS, "labels", _array(folder, stores.FRAGMENTS))
    layers[SEGMENTATION] = Layer(SEGMENTATION, "labels", _array(folder, stores.SEGMENTATION))
    shape = layers[SEGMENTATION].voxels.shape
    if raw is not None and layers[RAW].voxels.shape != shape:
        raise ConfigError(
            f"raw={raw} has {layers[RAW].voxels.shape} voxels and {folder} {shape}; give the volume"
            " that was segmented"
        )
    return Scene(
        title=folder.resolve().name,
        path=folder,
        layers=layers,
        voxel_size=ZarrVolume(folder / stores.SEGMENTATION, missing_chunks="fill").voxel_size,
        facts={name: str(value) for name, value in summary.items()},
    )


class _Stored:
    """An array of the output; an unreadable chunk says which file it is of."""

    def __init__(self, path: Path, array: Any) -> None:
        self._path, self._array = path, array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        try:
            return np.asarray(self._array[index])
        except Exception as error:  # codecs raise what they like
            raise DataError(
                f"{self._path} is damaged at {index} ({error}); segment again with overwrite=true"
            ) from error


class _StoredAffinities:
    """Stored 0..255 as affinities in [0, 1]."""

    dtype = np.dtype(np.float32)

    def __init__(self, stored: _Stored) -> None:
        self._stored, self.shape = stored, stored.shape

    def __getitem__(self, index: Any, /) -> npt.NDArray[np.float32]:
        return stores.dequantised(self._stored[index])


def _array(folder: Path, name: str) -> _Stored:
    path = folder / name / _FINEST
    try:
        array = zarr.open_array(str(path), mode="r")
    except Exception as error:  # zarr has a dozen ways to say it
        raise DataError(
            f"{path} is missing or damaged ({error}); segment again with overwrite=true"
        ) from error
    return _Stored(path, array)


_LAYERS: Mapping[str, tuple[str, LayerKind]] = {
    RAW: (output.RAW, "grey"),
    AFFINITIES: (output.AFFINITIES, "affinities"),
    FRAGMENTS: (output.FRAGMENTS, "labels"),
    SEGMENTATION: (output.SEGMENTATION, "labels"),
    BASELINE: (output.BASELINE, "labels"),
    TRUTH: (output.TRUTH, "labels"),
}
_REQUIRED = (RAW, SEGMENTATION, TRUTH)


def evaluation_folder(run: Path) -> Path:
    """The folder with test-<i>.h5: a run's own evaluation, or ``run`` itself.

    Raises:
        DataError: the run has none, or labels no neurons.
    """
    for folder in (run, run / "evaluation"):
        if any(folder.glob("test-*.h5")):
            return folder
    if (run / FILE_NAME).is_file() and not measures_of(record := read_record(run)).segmentations:
        raise DataError(
            f"{run} is a run of {measures_of(record).title.lower()}; only segmentations of neurons"
            f" are shown here. What it left is in {run / 'evaluation'}"
        )
    raise DataError(
        f"{run} holds neither test-*.h5 nor evaluation/test-*.h5 nor segmentation.zarr; wait for"
        " the run to finish, or evaluate one of its checkpoints: python evaluate.py"
        f" checkpoint={run}/checkpoints/best.ckpt"
    )


def open_evaluation(folder: Path, region: int) -> Scene:
    """Read one test region of an evaluation into memory.

    Args:
        folder: as ``evaluation_folder`` gives it; its record is there or one folder up.
        region: number i of test-<i>.h5.

    Raises:
        ConfigError: there is no such region.
        DataError: the file or the record is missing, damaged or incomplete.
    """
    path = folder / f"test-{region}.h5"
    if not path.is_file():
        numbers = sorted(
            int(match[1])
            for p in folder.iterdir()
            if (match := re.match(r"test-(\d+)\.h5$", p.name))
        )
        raise ConfigError(
            f"region={region}: {folder} has the test regions {', '.join(map(str, numbers))}"
        )
    record = read_record(folder if (folder / FILE_NAME).is_file() else folder.parent)
    present = datasets_in(path)
    arrays = {
        name: read_array(path, key)
        for name, (key, _) in _LAYERS.items()
        if key in present or name in _REQUIRED
    }
    attributes = arrays[RAW].attributes
    offset = _offset(attributes, path)
    truth, segmentation = arrays[TRUTH].values, arrays[SEGMENTATION].values
    layers = {name: Layer(name, _LAYERS[name][1], a.values) for name, a in arrays.items()}
    voxel_size = attribute_vector(attributes, "resolution", f"{path}: {output.RAW}")
    Scene(record.run, path, layers, voxel_size, offset)  # refuses what does not fit together
    return Scene(
        title=record.run,
        path=path,
        layers=layers,
        voxel_size=voxel_size,
        offset=offset,
        errors=tuple(body_errors(truth, segmentation, offset=offset)),
        scores=_scores(record),
        facts=_facts(record, arrays[RAW].file_attributes),
    )


def _offset(attributes: Mapping[str, Any], path: Path) -> Size3:
    value = np.asarray(attributes.get("offset_voxels", (0, 0, 0)))
    if value.shape != (3,) or value.dtype.kind not in "iu":
        raise DataError(
            f"{path}: attribute 'offset_voxels' must be three whole numbers (z, y, x), found"
            f" {value!r}; evaluate the checkpoint again"
        )
    z, y, x = (int(number) for number in value)
    return z, y, x


def _scores(record: Record) -> dict[str, dict[str, float]]:
    """Test scores of the network and of what needs none, with the thresholds behind them."""
    measures = measures_of(record)
    floor = record.metrics["baseline"]
    return {
        name: {score.label: float(metrics["test"][score.key]) for score in measures.scores}
        | {"threshold": float(metrics["threshold"])}
        for name, metrics in (("network", record.metrics), (measures.floor_name, floor))
    }


def _facts(record: Record, attributes: Mapping[str, Any]) -> dict[str, str]:
    files = [f"{file['name']} (sha256 {file['sha256'][:12]}…)" for file in record.data["files"]]
    return {
        "run": record.run,
        "data": data_name(record),
        "test region": str(attributes.get("region", "unknown")),
        "regions scored": str(len(record.data.get("splits", {}).get("test", [0]))),
        "files": ", ".join(files) or "none: synthetic",
        "checkpoint": str(attributes.get("checkpoint", "unknown")),
        "network": f"{record.config['backbone']['name']}, {record.config['block']['name']}:"
        f" {record.parameters:,} parameters, {record.iterations:,} iterations, seed {record.seed}",
        "code": code_version(record.git),
        "hardware": str(record.hardware["device"]),
        "finished": record.finished,
    }
