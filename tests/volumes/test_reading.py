"""Every kind of volume reads the same voxels; folders of slices are one whole series or refused."""

import errno
import hashlib
import os
import pickle

import h5py
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from psc.errors import ConfigError, DataError
from psc.volumes.reading import fingerprint, open_volume

BOX = (slice(2, 7), slice(0, 9), slice(3, 11))


@pytest.fixture
def values():
    return np.random.default_rng(0).integers(1, 255, (10, 12, 14)).astype(np.uint8)


def write_hdf5(folder, values):
    with h5py.File(folder / "volume.h5", "w") as file:
        file["volumes/raw"] = values[None]  # a channel axis of one
    return folder / "volume.h5"


def write_zarr(folder, values, version=3, **options):
    path = folder / f"v{version}.zarr"
    options = {"chunks": (4, 5, 6), "zarr_format": version, **options}
    zarr.create_array(str(path), data=values, **options)
    return path


def write_stack(folder, values, ending="png", name="slice{}", first=0):
    path = folder / f"slices-{ending}"
    path.mkdir(exist_ok=True)
    for z, plane in enumerate(values, start=first):
        Image.fromarray(plane).save(path / f"{name.format(z)}.{ending}")
    return path


WRITERS = {
    "hdf5": write_hdf5,
    "zarr v2": lambda folder, values: write_zarr(folder, values, 2),
    "zarr v3": write_zarr,
    "zarr v3 with shards": lambda f, v: write_zarr(f, v, shards=(8, 10, 12)),
    "zarr v2 in nested folders": lambda f, v: write_zarr(
        f, v, 2, chunk_key_encoding={"name": "v2", "separator": "/"}
    ),
    "png": write_stack,
    "tiff": lambda folder, values: write_stack(folder, values, "tif"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_reads_boxes_of_the_same_voxels(kind, values, tmp_path):
    volume = open_volume(WRITERS[kind](tmp_path, values))
    assert volume.shape == values.shape
    assert volume.dtype == np.uint8
    assert np.array_equal(volume[BOX], values[BOX])
    assert np.array_equal(volume[(..., *BOX)], values[BOX])  # as psc.volumes.tiling asks
    assert np.array_equal(volume[...], values)
    other_process = pickle.loads(pickle.dumps(volume))
    assert np.array_equal(other_process[BOX], values[BOX])
    assert fingerprint(volume)["shape"] == [10, 12, 14]
    assert fingerprint(volume) == fingerprint(values)


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
    assert open_volume(path, missing_chunks="fill").check() == 1
    with pytest.raises(DataError, match=r"1.1.1 is missing"):
        open_volume(path).check()
    with pytest.raises(ConfigError, match="missing_chunks=guess: allowed are fill, refuse"):
        open_volume(path, missing_chunks="guess")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kept", [0, 5, 20, 100, -1])
def test_a_truncated_chunk_of_blosc_is_told(values, tmp_path, version, kept):
    """Blosc itself reads what is not there as whatever lies in memory."""
    codec = numcodecs.Blosc() if version == 2 else zarr.codecs.BloscCodec()
    path = write_zarr(tmp_path, values, version, compressors=codec)
    chunk = path / ("1.1.1" if version == 2 else "c/1/1/1")
    assert np.array_equal(open_volume(path)[...], values)
    chunk.write_bytes(chunk.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"1.1.1 is truncated; copy it again"):
        open_volume(path)[BOX]


@pytest.mark.parametrize("missing", ["refuse", "fill"])
def test_an_empty_shard_is_told(values, tmp_path, missing):
    """zarr itself takes it for one that was left out, and fills it."""
    path = write_zarr(tmp_path, values, chunks=(2, 5, 3), shards=(4, 5, 6))
    (path / "c/1/1/1").write_bytes(b"")
    with pytest.raises(DataError, match=r"1.1.1 is truncated; copy it again"):
        open_volume(path, missing_chunks=missing)[BOX]


def test_a_damaged_chunk_is_told(values, tmp_path):
    path = write_zarr(tmp_path, values)
    (path / "c/1/1/1").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match="is damaged"):
        open_volume(path)[BOX]


def test_what_is_no_volume_is_refused(values, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        open_volume(tmp_path / "nothing.zarr")
    for dtype, message in (("bool", "holds bool"), ("complex64", "not numbers")):
        path = tmp_path / f"{dtype}.zarr"
        zarr.create_array(str(path), shape=(4, 4, 4), dtype=dtype)
        with pytest.raises(DataError, match=message):
            open_volume(path)
    (tmp_path / "broken.zarr").mkdir()
    (tmp_path / "broken.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="not readable as Zarr"):
        open_volume(tmp_path / "broken.zarr")
    with pytest.raises(ConfigError, match="input_key=em"):
        open_volume(write_stack(tmp_path, values), "em")


def test_fingerprints_tell_volumes_apart(values, tmp_path):
    first = fingerprint(open_volume(write_zarr(tmp_path, values)))
    values[5, 6, 7] += 1
    assert fingerprint(open_volume(write_hdf5(tmp_path, values))) != first


@pytest.mark.parametrize("ending", ["png", "tif", "tiff", "PNG"])
class TestSlices:
    """One rule for every kind of image."""

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_are_stacked_in_natural_order(self, tmp_path, ending, dtype):
        top = np.iinfo(dtype).max
        stack = np.random.default_rng(0).integers(0, top, (12, 5, 7), dtype, endpoint=True)
        folder = write_stack(tmp_path, stack, ending, first=5)  # 5 … 16: not 10 before 5
        volume = open_volume(folder)
        assert volume.dtype == dtype
        assert np.array_equal(volume[...], stack)
        content = b"".join((folder / f"slice{z}.{ending}").read_bytes() for z in range(5, 17))
        assert volume.file_record() == {
            "name": f"slices-{ending}/*.{ending}",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def test_leave_out_what_systems_put_beside_them(self, tmp_path, ending, values):
        folder = write_stack(tmp_path, values, ending)
        (folder / f"._slice0.{ending}").write_bytes(b"left by a Mac")
        (folder / f"@eaDir/slice0.{ending}").mkdir(parents=True)
        (folder / "Thumbs.db").write_bytes(b"left by Windows")
        (folder / "readme.txt").write_text("…")
        assert np.array_equal(open_volume(folder)[...], values)

    @pytest.mark.parametrize(
        ("name", "present", "said"),
        [
            ("s_{:04d}", [*range(11), *range(12, 20)], r"between s_0010\.\w+ and s_0012\."),
            ("{}", [1, 2, 4], r"between 2\.\w+ and 4\."),
            ("{:03d}_8nm", [1, 2, 3, 5], r"between 003_8nm\.\w+ and 005_8nm\."),  # 8 is no number
            ("em2_{}_of_20", [7, 8, 11], r"between em2_8_of_20\.\w+ and em2_11_of_20\."),
            ("z{}", [0, 2, 4, 5], r"between z0\.\w+ and z2\."),
        ],
    )
    def test_that_are_missing_are_told(self, tmp_path, ending, name, present, said):
        for z in present:
            write_stack(tmp_path, np.zeros((1, 3, 3), np.uint8), ending, name, z)
        with pytest.raises(DataError, match=f"slices are missing {said}"):
            open_volume(tmp_path / f"slices-{ending}")

    @pytest.mark.parametrize("step", [2, 10])
    def test_of_a_constant_step_are_no_gap(self, tmp_path, ending, step):
        for z in range(0, 5 * step, step):
            folder = write_stack(tmp_path, np.zeros((1, 3, 3), np.uint8), ending, "s{}", z)
        assert open_volume(folder).shape == (5, 3, 3)

    @pytest.mark.parametrize("other", ["overview", "mask_001", "slice_003 (1)", "slice_3"])
    def test_of_two_series_are_not_mixed(self, tmp_path, ending, other):
        folder = write_stack(tmp_path, np.zeros((4, 3, 3), np.uint8), ending, "slice_{:03d}")
        write_stack(tmp_path, np.zeros((1, 3, 3), np.uint8), ending, other)
        with pytest.raises(DataError, match=r"more than one series|are the same") as e:
            open_volume(folder)
        assert other in str(e.value)

    def test_that_differ_are_told(self, tmp_path, ending, values):
        folder = write_stack(tmp_path, values, ending)
        for wrong in (values[0, :5], values[0].astype(np.uint16)):
            Image.fromarray(wrong).save(folder / f"slice4.{ending}")
            with pytest.raises(DataError, match=rf"slice4\.{ending}: slice is .*, but slice0"):
                open_volume(folder)[BOX]

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "P"])
    def test_that_are_not_grey_are_refused(self, tmp_path, ending, mode):
        (tmp_path / "em").mkdir()
        Image.new(mode, (4, 4)).save(tmp_path / "em" / f"1.{ending}")
        with pytest.raises(DataError, match=rf"1\.{ending}: image mode is {mode} .*grey"):
            open_volume(tmp_path / "em")

    @pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
    def test_that_are_damaged_are_told(self, tmp_path, ending, damage):
        noise = np.random.default_rng(0).integers(0, 255, (1, 60, 60), dtype=np.uint8)
        path = write_stack(tmp_path, noise, ending) / f"slice0.{ending}"
        content = {"truncated": path.read_bytes()[:1500], "text": b"<html>404", "empty": b""}
        path.write_bytes(content[damage])
        with pytest.raises(DataError, match=r"is not a readable image .*copy it again"):
            open_volume(path.parent)

    def test_that_may_not_be_read_are_not_called_damaged(self, tmp_path, ending, monkeypatch):
        def refuse(*_args, **_keywords):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        folder = write_stack(tmp_path, np.zeros((2, 3, 3), np.uint8), ending)
        monkeypatch.setattr(Image, "open", refuse)
        with pytest.raises(DataError, match=r"cannot be read: Permission denied$"):
            open_volume(folder)

    def test_may_be_larger_than_pillow_likes(self, tmp_path, ending, monkeypatch, values):
        folder = write_stack(tmp_path, values, ending)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        assert np.array_equal(open_volume(folder)[...], values)
        assert Image.MAX_IMAGE_PIXELS == 10


def test_folders_without_one_kind_of_slices_say_what_they_hold(tmp_path, values):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"neither PNG nor TIFF slices, but notes\.txt;"):
        open_volume(tmp_path)
    mixed = write_stack(tmp_path, values)
    Image.fromarray(values[0]).save(mixed / "slice0.tif")
    with pytest.raises(DataError, match="both PNG and TIFF"):
        open_volume(mixed)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "int8", "int16", "int32", "uint32", "float32", "float64"]
)
def test_tiff_is_read_as_tifffile_reads_it_or_refused(
    tmp_path, dtype, photometric, compression, byteorder
):
    """Where white is zero, by any number of bits, grey values are what they look like."""
    dtype = np.dtype(dtype)
    stored = (np.random.default_rng(0).random((8, 9)) * 200 - 100 * (dtype.kind != "u")).astype(
        dtype
    )
    options = {"compression": compression, "byteorder": byteorder, "photometric": photometric}
    tifffile.imwrite(tmp_path / "1.tif", stored, **options)
    expected = tifffile.imread(tmp_path / "1.tif")
    if photometric == "miniswhite" and dtype.kind == "u":
        expected = np.iinfo(dtype).max - expected
    try:
        volume = open_volume(tmp_path)
    except DataError:
        # Pillow does not know them, or reads them wrongly
        assert dtype.name not in ("uint8", "uint16") or (photometric, byteorder) == (
            "miniswhite",
            ">",
        )
        return
    assert np.array_equal(volume[...][0], expected)


def test_pages_of_a_tiff_are_no_slices(tmp_path, values):
    tifffile.imwrite(tmp_path / "1.tif", values)
    with pytest.raises(DataError, match="with 10 pages, but a slice must be"):
        open_volume(tmp_path)
