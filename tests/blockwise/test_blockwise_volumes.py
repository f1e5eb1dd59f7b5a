import pickle

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

from psc.errors import ConfigError, DataError
from psc.volumes.stores import fingerprint, open_volume

BOX = (slice(2, 7), slice(0, 9), slice(3, 11))


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(1, 255, (10, 12, 14)).astype(np.uint8)


def write_hdf5(folder, values):
    with h5py.File(folder / "volume.h5", "w") as file:
        file["volumes/raw"] = values[None]  # a channel axis of one
        file["volumes/raw"].attrs["resolution"] = (40.0, 4.0, 4.0)
    return folder / "volume.h5"


def write_zarr(folder, values, version=3, **options):
    path = folder / f"v{version}.zarr"
    array = zarr.create_array(
        str(path),
        shape=values.shape,
        chunks=(4, 5, 6),
        dtype=values.dtype,
        zarr_format=version,
        **options,
    )
    array[...] = values
    return path


def write_ome(folder, values, version="0.5"):
    path = folder / "ome.zarr"
    format = 3 if version == "0.5" else 2
    group = zarr.create_group(str(path), zarr_format=format)
    array = group.create_array(
        "s0", shape=(1, 1, *values.shape), chunks=(1, 1, 4, 5, 6), dtype="u1"
    )
    array[0, 0] = values
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    scale = {"type": "scale", "scale": [1, 1, 0.04, 0.004, 0.004]}
    multiscales = [
        {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": [scale]}]}
    ]
    described = {"multiscales": multiscales}
    group.attrs.update({"ome": described} if version == "0.5" else described)
    return path


def write_stack(folder, values, ending="png"):
    path = folder / f"slices-{ending}"
    path.mkdir()
    for z, plane in enumerate(values):
        Image.fromarray(plane).save(path / f"slice{z}.{ending}")
    return path


WRITERS = {
    "hdf5": (write_hdf5, (40.0, 4.0, 4.0)),
    "zarr v2": (lambda folder, values: write_zarr(folder, values, 2), None),
    "zarr v3": (write_zarr, None),
    "zarr v3 with shards": (lambda f, v: write_zarr(f, v, shards=(8, 10, 12)), None),
    "ome-zarr 0.4": (lambda folder, values: write_ome(folder, values, "0.4"), (40.0, 4.0, 4.0)),
    "ome-zarr 0.5": (write_ome, (40.0, 4.0, 4.0)),
    "png": (write_stack, None),
    "tiff": (lambda folder, values: write_stack(folder, values, "tif"), None),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_reads_boxes_of_the_same_voxels(kind, values, tmp_path):
    write, voxel_size = WRITERS[kind]
    volume = open_volume(write(tmp_path, values))
    assert volume.shape == values.shape
    assert volume.dtype == np.uint8
    assert volume.voxel_size == pytest.approx(voxel_size)
    assert np.array_equal(volume[BOX], values[BOX])
    assert np.array_equal(volume[(..., *BOX)], values[BOX])  # as psc.volumes.tiling asks
    other_process = pickle.loads(pickle.dumps(volume))
    assert np.array_equal(other_process[BOX], values[BOX])
    assert fingerprint(volume)["shape"] == [10, 12, 14]


def test_sixteen_bits_and_floats(tmp_path, values):
    deep = values.astype(np.uint16) * 200
    assert np.array_equal(open_volume(write_stack(tmp_path, deep))[BOX], deep[BOX])
    assert np.array_equal(open_volume(write_stack(tmp_path, deep, "tif"))[BOX], deep[BOX])
    real = values.astype(np.float32) / 255
    assert np.array_equal(open_volume(write_zarr(tmp_path, real))[BOX], real[BOX])


@pytest.mark.parametrize("version", [2, 3])
def test_a_missing_chunk_is_refused_or_filled(version, values, tmp_path):
    path = write_zarr(tmp_path, values, version, fill_value=9)
    (path / ("1.1.1" if version == 2 else "c/1/1/1")).unlink()
    elsewhere = (slice(0, 4), slice(0, 12), slice(0, 14))
    assert np.array_equal(open_volume(path)[elsewhere], values[elsewhere])
    with pytest.raises(DataError, match=r"1.1.1 is missing.*missing_chunks=fill.*9"):
        open_volume(path)[BOX]
    filled = values.copy()
    filled[4:8, 5:10, 6:12] = 9
    assert np.array_equal(open_volume(path, missing_chunks="fill")[BOX], filled[BOX])
    with pytest.raises(ConfigError, match="missing_chunks=guess: allowed are fill, refuse"):
        open_volume(path, missing_chunks="guess")


def test_a_damaged_chunk_is_told(values, tmp_path):
    path = write_zarr(tmp_path, values)
    (path / "c/1/1/1").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match="is damaged"):
        open_volume(path)[BOX]


def test_keys(values, tmp_path):
    path = tmp_path / "two.zarr"
    group = zarr.create_group(str(path))
    group.create_array("em", data=values)
    group.create_array("other", data=values[:4])
    with pytest.raises(DataError, match=r"input_key to one of .*em"):
        open_volume(path)
    with pytest.raises(DataError, match=r"no array 'raws'.*em"):
        open_volume(path, "raws")
    assert open_volume(path, "em").shape == values.shape
    assert open_volume(path / "em").shape == values.shape
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["em"] = values
    assert open_volume(tmp_path / "two.h5", "em").shape == values.shape
    with pytest.raises(DataError, match=r"no dataset of a known name; set input_key.*em"):
        open_volume(tmp_path / "two.h5")
    with pytest.raises(ConfigError, match="input_key=em"):
        open_volume(write_stack(tmp_path, values), "em")


def test_what_is_no_volume_is_refused(values, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_volume(tmp_path / "nothing.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither PNG nor TIFF"):
        open_volume(tmp_path / "empty")
    flat = zarr.create_array(str(tmp_path / "flat.zarr"), shape=(4, 4), dtype="u1")
    assert flat.ndim == 2
    with pytest.raises(DataError, match=r"expected shape \(D, H, W\), found \(4, 4\)"):
        open_volume(tmp_path / "flat.zarr")
    zarr.create_array(str(tmp_path / "two.zarr"), shape=(2, 4, 4, 4), dtype="u1")
    with pytest.raises(DataError, match="single-channel"):
        open_volume(tmp_path / "two.zarr")
    zarr.create_array(str(tmp_path / "bool.zarr"), shape=(4, 4, 4), dtype="bool")
    with pytest.raises(DataError, match="holds bool"):
        open_volume(tmp_path / "bool.zarr")
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="not readable as Zarr"):
        open_volume(tmp_path / "broken.zarr")
    stack = write_stack(tmp_path, values)
    Image.fromarray(values[0, :5]).save(stack / "slice4.png")
    with pytest.raises(DataError, match=r"slice4\.png: slice is \(5, 14\)"):
        open_volume(stack)[BOX]
    Image.new("RGB", (14, 12)).save(stack / "slice0.png")
    with pytest.raises(DataError, match="image mode is RGB"):
        open_volume(stack)


def test_fingerprints_tell_volumes_apart(values, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = fingerprint(open_volume(write_zarr(tmp_path / "a", values)))
    assert fingerprint(open_volume(write_zarr(tmp_path / "b", values))) == first
    values[5, 6, 7] += 1
    assert fingerprint(open_volume(write_hdf5(tmp_path, values))) != first
