"""Segmentations on disk: HDF5 in CREMI's layout, with resolution and provenance."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from psc.errors import DataError
from psc.files import replacing
from psc.volumes.containers import HDF5
from psc.volumes.metadata import Size3, Triple, size3
from psc.volumes.reading import Volume

RAW = "volumes/raw"
TRUTH = "volumes/labels/neuron_ids"
SEGMENTATION = "volumes/labels/segmentation"
FRAGMENTS = "volumes/labels/fragments"
BASELINE = "volumes/labels/baseline_segmentation"
AFFINITIES = "volumes/affinities"


@contextmanager
def replacing_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to fill in memory, which then replaces ``path``.

    Not on the disk at once: once HDF5 finds it full, the process ends in a segmentation fault.
    """
    with replacing(path) as partial:
        with h5py.File(partial, "w", driver="core", backing_store=False) as file:
            yield file
            file.flush()
            image = file.id.get_file_image()
        partial.write_bytes(image)


def write_volumes(
    path: Path,
    volumes: Mapping[str, npt.NDArray[Any]],
    *,
    voxel_size: Triple | None,
    offset: tuple[int, int, int],
    provenance: Mapping[str, str | int | float | bool],
    origin: Triple | None = None,
) -> None:
    """Write volumes into one HDF5 file; an existing one is replaced once the new one is complete.

    Arrays are (D, H, W) or (C, D, H, W) by dataset name, affinities stored as float16 (steps of
    0.0005 near 1). ``voxel_size`` (nm, None where unknown) becomes every dataset's ``resolution``;
    ``offset``, the first voxel within the source volume, whose own lies at ``origin`` in nm,
    becomes ``offset`` in nm where the voxel size is known (CREMI's convention), and always
    ``offset_voxels``. ``provenance`` become attributes of the file.
    """
    with replacing_hdf5(path) as file:
        file.attrs.update(provenance)
        for name, values in volumes.items():
            stored = values.astype(np.float16) if name == AFFINITIES else values
            dataset = file.create_dataset(
                name, data=stored, chunks=True, compression="gzip", compression_opts=1
            )
            dataset.attrs["offset_voxels"] = offset
            if voxel_size is not None:
                dataset.attrs["resolution"] = voxel_size
                start = np.add(origin or (0, 0, 0), np.multiply(offset, voxel_size))
                dataset.attrs["offset"] = start.astype(float)


def read_volumes(
    path: Path, *names: str, optional: Collection[str] = ()
) -> tuple[dict[str, npt.NDArray[Any]], Volume, Size3]:
    """Volumes by dataset name, raw itself, which knows the rest, and where they begin in its file.

    ``optional``: those of them that need not be there.
    """
    file = HDF5(path)
    found = [name for name in names if name not in optional or file.look(name) is not None]
    sources = {name: file.open(name) for name in found}
    raw = Volume(sources[RAW])
    said = raw.attribute("offset_voxels")
    offset = np.asarray((0, 0, 0) if said is None else said)
    if offset.shape != (3,) or offset.dtype.kind not in "iu":
        raise DataError(
            f"{path}: attribute 'offset_voxels' must be three whole numbers (z, y, x), found"
            f" {offset!r}; evaluate the checkpoint again"
        )
    return {name: source.values() for name, source in sources.items()}, raw, size3(offset)
