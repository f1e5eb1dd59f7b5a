"""Generated malformed volumes: each is read as what it holds, or refused in our words."""

import contextlib
import json
import shutil

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from psc.em.data import read_volume
from psc.errors import PSCError
from psc.volumes.reading import open_volume, sample

RAW = np.random.default_rng(0).integers(0, 255, (6, 7, 8)).astype(np.uint8)
SCALE = {"type": "scale", "scale": [30, 8, 8]}
OME = {
    "ome": {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"],
                "datasets": [{"path": "0", "coordinateTransformations": [SCALE]}],
            }
        ],
    }
}


def hdf5(folder):
    with h5py.File(folder / "em.h5", "w") as file:
        file.create_dataset("volumes/raw", data=RAW, chunks=(3, 7, 8), compression="gzip")
        file["volumes/raw"].attrs["resolution"] = (30, 8, 8)
        file["volumes/labels/neuron_ids"] = RAW.astype(np.uint64)
    return folder / "em.h5"


def zarr_folder(folder, version):
    path = folder / "em.zarr"
    attributes = OME if version == 3 else OME["ome"]
    group = zarr.open_group(str(path), mode="w", zarr_format=version, attributes=attributes)
    group.create_array("0", data=RAW, chunks=(3, 7, 8))
    return path


def slices(folder, ending):
    (folder / "em").mkdir()
    for z, plane in enumerate(RAW):
        if ending == "png":
            Image.fromarray(plane).save(folder / "em" / f"{z}.png")
        else:
            tifffile.imwrite(folder / "em" / f"{z}.tif", plane)
    return folder / "em"


STORES = {
    "hdf5": hdf5,
    "zarr 2": lambda folder: zarr_folder(folder, 2),
    "zarr 3": lambda folder: zarr_folder(folder, 3),
    "png": lambda folder: slices(folder, "png"),
    "tiff": lambda folder: slices(folder, "tif"),
}


def damaged(path, rng):
    """Change one file of a store, or its presence; what was done, in words."""
    files = sorted(p for p in [path, *path.rglob("*")] if p.is_file())
    victim = files[rng.integers(len(files))]
    content = bytearray(victim.read_bytes())
    kind = rng.choice(["truncated", "bits flipped", "emptied", "gone", "a folder", "other bytes"])
    if kind == "truncated":
        victim.write_bytes(content[: rng.integers(len(content))])
    elif kind == "bits flipped":
        for _ in range(int(rng.integers(1, 9))):
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        victim.write_bytes(content)
    elif kind == "emptied":
        victim.write_bytes(b"")
    elif kind == "other bytes":
        victim.write_bytes(rng.bytes(len(content)))
    else:
        victim.unlink()
        if kind == "a folder":
            victim.mkdir()
    return f"{victim.name} {kind}"


def mutated(value, rng):
    """A JSON document with one of its parts replaced by something that does not belong there."""
    odd = [None, -1, 0, 3.5, "nm", "", [], {}, [1, 2], {"name": "x"}, [None] * 3, 1e400, True]
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[rng.integers(len(keys))]
        return (
            value | {key: mutated(value[key], rng)}
            if isinstance(value, dict)
            else [*value[:key], mutated(value[key], rng), *value[key + 1 :]]
        )
    return odd[rng.integers(len(odd))]


def read(path):
    """All that is read of a volume, or None where it is refused in our words."""
    with contextlib.suppress(PSCError):
        volume = open_volume(path)
        list(sample(volume))
        return volume[...], volume.voxel_size
    return None


@pytest.mark.parametrize("store", STORES)
def test_damage_is_told_or_harmless(tmp_path, store):
    """A flipped bit in values that nothing checks may change them; it never changes their shape."""
    rng = np.random.default_rng(1)
    whole = STORES[store](tmp_path)
    refused = 0
    for number in range(40):
        copy = tmp_path / f"{number}"
        shutil.copytree(whole, copy) if whole.is_dir() else shutil.copyfile(whole, copy)
        done = damaged(copy, rng)
        found = read(copy)
        refused += found is None
        if found is not None and "flipped" not in done and "other bytes" not in done:
            # Metadata may be gone and the rest be whole, but for the last slice of a series.
            values = found[0]
            assert np.array_equal(values, RAW[: len(values)]) or values.shape != RAW.shape, done
            assert found[1] in (None, (30, 8, 8)), done
        with contextlib.suppress(PSCError):
            read_volume(copy)
    assert refused > 10


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", [2, 3])
def test_metadata_that_are_none_are_refused(tmp_path, version):
    rng = np.random.default_rng(version)
    whole = zarr_folder(tmp_path, version)
    documents = sorted(p for p in whole.rglob("*") if p.name in ("zarr.json", ".zattrs", ".zarray"))
    told = 0
    for number in range(120):
        copy = tmp_path / f"{number}.zarr"
        shutil.copytree(whole, copy)
        victim = copy / documents[rng.integers(len(documents))].relative_to(whole)
        victim.write_text(json.dumps(mutated(json.loads(victim.read_text()), rng)))
        found = read(copy)
        told += found is None or found[1] is None
        if found is not None and found[0].shape == RAW.shape and found[0].dtype == RAW.dtype:
            assert np.array_equal(found[0], RAW) or not found[0].any(), victim.read_text()
    assert told > 30


@pytest.mark.parametrize("number", range(40))
def test_attributes_of_any_type(tmp_path, number):
    rng = np.random.default_rng(number)
    odd = [
        8,
        (8, 8),
        "8 nm",
        b"nm",
        np.nan,
        [np.inf] * 3,
        [0, 0, 0],
        (8, 8, 8),
        [[8, 8, 8]],
        ["a"] * 3,
        h5py.Empty("f4"),
        np.zeros((0,)),
        "[1, 2",
        '["z", "y", "x"]',
        '["x", "x", "x"]',
        True,
    ]
    names = ("resolution", "offset", "units", "axis_names", "axistags", "voxel_size", "multiscales")
    path = tmp_path / "em.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = RAW
        for name in rng.choice(names, 3, replace=False):
            file["raw"].attrs[name] = odd[rng.integers(len(odd))]
    found = read(path)
    assert found is None or np.array_equal(found[0], RAW)
