"""What is shown of a segmentation: its layers, where they lie, and where to look first.

Axes are z, y, x as everywhere. A scene comes from an evaluation (``psc.em.testing``), which is read
into memory, or from an output of scripts/segment.py (``psc.blockwise.pipeline``), whose voxels stay
on disk and are read where somebody looks: the volume may be larger than memory.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from psc.blockwise import images
from psc.em.bodies import BodyError, body_errors
from psc.errors import ConfigError, DataError, PSCError
from psc.paper.measures import data_name, measures_of
from psc.training.provenance import code_version
from psc.training.records import FILE_NAME, Record, read_record
from psc.volumes import output
from psc.volumes.containers import Zarr
from psc.volumes.metadata import Size3
from psc.volumes.reading import Volume, fingerprint, open_volume

RAW = "raw"
AFFINITIES = "affinities"
FRAGMENTS = "fragments"
SEGMENTATION = "segmentation"
BASELINE = "no network"
TRUTH = "ground truth"

LayerKind = Literal["grey", "affinities", "labels"]
ErrorKind = Literal["split", "merge"]

_LAYERS: Mapping[str, tuple[str, LayerKind]] = {
    RAW: (output.RAW, "grey"),
    AFFINITIES: (output.AFFINITIES, "affinities"),
    FRAGMENTS: (output.FRAGMENTS, "labels"),
    SEGMENTATION: (output.SEGMENTATION, "labels"),
    BASELINE: (output.BASELINE, "labels"),
    TRUTH: (output.TRUTH, "labels"),
}
_SUMMARY, _DESCRIPTION, _FINEST = "summary.json", "blockwise.json", "0"

log = logging.getLogger(__name__)


class Voxels(Protocol):
    """An array in memory or on disk; slices along all axes, without steps, read a box."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102
    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class Layer:
    """One volume."""

    name: str  # one of the names above
    # "grey" values of any real dtype; "affinities" in [0, 1], channels z, y, x; "labels"
    kind: LayerKind
    voxels: Voxels  # (D, H, W), of affinities (3, D, H, W)

    @property
    def in_memory(self) -> npt.NDArray[Any] | None:
        """The voxels, unless they are on disk and perhaps larger than memory."""
        return self.voxels if isinstance(self.voxels, np.ndarray) else None


@dataclass(frozen=True, eq=False)
class Scene:
    """Volumes of one place; one without layers, or with layers that do not fit, is refused."""

    title: str  # what it is, in a few words
    path: Path  # where it was read
    layers: Mapping[str, Layer]  # by name, in the order in which they are shown
    voxel_size: tuple[float, float, float] | None  # nm (z, y, x); None where it is unknown
    offset: Size3 = (0, 0, 0)  # first voxel of the layers within their source volume (z, y, x)
    # splits and merges, the worst first; none without a ground truth. Locations are voxels of the
    # source volume.
    errors: tuple[BodyError, ...] = ()
    # rows of a table: name, then score by column
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)  # where it comes from, by name

    def __post_init__(self) -> None:
        if not self.layers:
            raise DataError(f"{self.path} holds no volume to show")
        for name, layer in self.layers.items():
            leading = (3,) if layer.kind == "affinities" else ()
            if layer.voxels.shape != (*leading, *self.shape) or 0 in self.shape:
                shapes = ", ".join(f"{n} {one.voxels.shape}" for n, one in self.layers.items())
                raise DataError(
                    f"{self.path}: {name} does not cover the same voxels as the others ({shapes});"
                    " they were not written together: evaluate the checkpoint again"
                )

    @property
    def shape(self) -> Size3:
        """Voxels along z, y, x."""
        z, y, x = next(iter(self.layers.values())).voxels.shape[-3:]
        return z, y, x

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """All of it, as an index."""
        z, y, x = self.shape
        return slice(0, z), slice(0, y), slice(0, x)

    @property
    def start(self) -> Size3:
        """The voxel to look at first, within the layers: the worst error, else the middle."""
        if self.errors:
            return self.within(self.errors[0].location)
        z, y, x = (size // 2 for size in self.shape)
        return z, y, x

    @property
    def pixel(self) -> tuple[float, float, float]:
        """Extent of a voxel; 1 where it is unknown."""
        return self.voxel_size or (1.0, 1.0, 1.0)

    def within(self, location: Size3) -> Size3:
        """A voxel of the source volume as an index into the layers."""
        z, y, x = (a - b for a, b in zip(location, self.offset, strict=True))
        return z, y, x

    def worst(self, kind: ErrorKind, count: int | None = None) -> tuple[BodyError, ...]:
        """The worst errors of one kind; all of them without a count."""
        return tuple(error for error in self.errors if error.kind == kind)[:count]

    def bits(self, kind: ErrorKind) -> float:
        """VI split or VI merge of this place: the sum over all its errors of that kind."""
        return sum(error.bits for error in self.worst(kind))


def evaluation_folder(run: Path) -> Path:
    """The folder with test-<i>.h5: a run's own evaluation, or ``run`` itself."""
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
    """Read test-<region>.h5 of an evaluation into memory; its record is there or one folder up."""
    path = folder / f"test-{region}.h5"
    if not path.is_file():
        found = (re.fullmatch(r"test-(\d+)\.h5", p.name) for p in folder.iterdir())
        numbers = sorted(int(match[1]) for match in found if match)
        raise ConfigError(
            f"region={region}: {folder} has the test regions {', '.join(map(str, numbers))}"
        )
    record = read_record(folder if (folder / FILE_NAME).is_file() else folder.parent)
    keys = {key: (name, kind) for name, (key, kind) in _LAYERS.items()}
    optional = (output.AFFINITIES, output.FRAGMENTS, output.BASELINE)
    arrays, raw, offset = output.read_volumes(path, *keys, optional=optional)
    layers = {keys[key][0]: Layer(*keys[key], values) for key, values in arrays.items()}
    scene = Scene(record.run, path, layers, raw.voxel_size, offset)  # refuses what does not fit
    errors = body_errors(arrays[output.TRUTH], arrays[output.SEGMENTATION], offset=offset)
    scores, facts = _scores(record), _facts(record, raw)
    return replace(scene, errors=tuple(errors), scores=scores, facts=facts)


def _scores(record: Record) -> dict[str, dict[str, float]]:
    """Test scores of the network and of what needs none, with the thresholds behind them."""
    measures = measures_of(record)
    parts = {"network": record.metrics, measures.floor_name: record.metrics["baseline"]}
    return {
        name: {score.label: float(part["test"][score.key]) for score in measures.scores}
        | {"threshold": float(part["threshold"])}
        for name, part in parts.items()
    }


def _facts(record: Record, raw: Volume) -> dict[str, str]:
    files = [f"{file['name']} (sha256 {file['sha256'][:12]}…)" for file in record.data["files"]]
    return {
        "run": record.run,
        "data": data_name(record),
        "test region": str(raw.attribute("region") or "unknown"),
        "regions scored": str(len(record.data.get("splits", {}).get("test", [0]))),
        "files": ", ".join(files) or "none: synthetic",
        "checkpoint": str(raw.attribute("checkpoint") or "unknown"),
        "network": f"{record.config['backbone']['name']}, {record.config['block']['name']}:"
        f" {record.parameters:,} parameters, {record.iterations:,} iterations, seed {record.seed}",
        "code": code_version(record.git),
        "hardware": str(record.hardware["device"]),
        "finished": record.finished,
    }


def is_blockwise_output(folder: Path) -> bool:
    """Whether a folder holds what scripts/segment.py writes, finished or not."""
    return any((folder / name).exists() for name in (images.AFFINITIES, images.SEGMENTATION))


def open_blockwise_output(folder: Path, raw: Path | None, raw_key: str | None) -> Scene:
    """Open an output without reading its voxels; ``raw``: else where it says that it was."""
    try:
        summary = json.loads((folder / _SUMMARY).read_text())
        stages = json.loads((folder / _DESCRIPTION).read_text())["stages"]
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not finished (it has no {_SUMMARY}); start the same scripts/segment.py"
            " again, it goes on where it was"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{folder / _SUMMARY} is damaged ({error}); segment again") from error
    if not isinstance(summary, dict):
        raise DataError(f"{folder / _SUMMARY} is damaged (it holds no names); segment again")
    if raw is None:
        grey = _segmented_volume(summary, stages)
    else:
        grey = open_volume(raw, raw_key, missing_chunks="fill", setting="raw_key")
    fragments, segments = (
        open_volume(folder / name, labels=True, missing_chunks="fill")
        for name in (images.FRAGMENTS, images.SEGMENTATION)
    )
    layers = [
        *([] if grey is None else [Layer(RAW, "grey", grey)]),
        Layer(AFFINITIES, "affinities", _Affinities(folder / images.AFFINITIES)),
        Layer(FRAGMENTS, "labels", fragments),
        Layer(SEGMENTATION, "labels", segments),
    ]
    if grey is not None and grey.shape != segments.shape:
        raise ConfigError(
            f"raw={raw} has {grey.shape} voxels and {folder} {segments.shape}; give the volume that"
            " was segmented"
        )
    return Scene(
        title=folder.resolve().name,
        path=folder,
        layers={layer.name: layer for layer in layers},
        voxel_size=segments.voxel_size,
        facts={name: str(value) for name, value in summary.items()},
    )


def _segmented_volume(summary: dict[str, Any], stages: list[dict[str, Any]]) -> Volume | None:
    """The input, where it still lies at its place and is what it was."""
    if "input" not in summary:  # of a network in memory, or of earlier code
        return None
    path = Path(str(summary["input"]))
    try:
        grey = open_volume(path, summary.get("input_key"), missing_chunks="fill")
        if fingerprint(grey) == stages[0]["options"].get("input"):
            return grey
        why = "has changed since"
    except (PSCError, LookupError, TypeError, AttributeError) as error:  # JSON of any content
        why = f"cannot be read any more ({error})"
    log.warning("%s was segmented, but %s: shown without it; raw=… names another place", path, why)
    return None


class _Affinities:
    """Stored 0..255 as affinities in [0, 1], read where somebody looks."""

    def __init__(self, store: Path) -> None:
        self._source = Zarr(store, "fill").open(_FINEST)
        self.shape, self.dtype = self._source.shape, np.dtype(np.float32)

    def __getitem__(self, index: Any, /) -> npt.NDArray[np.float32]:
        """All three of a box: slices along the last three axes."""
        box = zip(index[-3:], self.shape[1:], strict=True)
        parts = (slice(*part.indices(size)[:2]) for part, size in box)
        return images.dequantised(self._source.read((slice(0, 3), *parts)))
