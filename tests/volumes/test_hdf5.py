import gzip
import re
import zipfile

import h5py
import numpy as np
import pytest

from psc.errors import DataError
from psc.volumes.reading import attribute_vector, datasets_in, find_key, list_datasets, read_array


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as h5:
        h5.attrs["synthetic"] = True
        h5.create_dataset("a/raw", data=rng.integers(0, 255, (30, 40, 50)), compression="gzip")
        h5["a/raw"].attrs["resolution"] = (40, 4, 4)
        h5["text"] = "no numbers"
        h5["nothing"] = h5py.Empty("f4")
    return path


def test_values_attributes_and_key_are_read(file):
    array = read_array(file, "a/raw")
    np.testing.assert_array_equal(
        array.values, np.random.default_rng(0).integers(0, 255, (30, 40, 50))
    )
    assert array.key == "a/raw"
    assert tuple(array.attributes["resolution"]) == (40, 4, 4)
    assert array.file_attributes["synthetic"]


def test_big_endian_values_become_native(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["raw"] = np.arange(8, dtype=">u2").reshape(2, 2, 2)
    values = read_array(tmp_path / "x.h5", "raw").values
    assert values.dtype == np.dtype(np.uint16)
    assert values.dtype.isnative
    assert values[1, 1, 1] == 7


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        (gzip.compress(b"\x89HDF\r\n\x1a\n" + bytes(100), mtime=0), "gzip"),
        (b"BZh91AY" + bytes(50), "bzip2"),
        (b"\xfd7zXZ\x00" + bytes(50), "xz"),
        (b"\x93NUMPY\x01\x00" + bytes(50), ".npy"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        (b"II*\x00" + bytes(50), "TIFF"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "web page"),
        (b"  <!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS"),
        (b"", "empty"),
        (b"\x01\x02\x03\x04 something else", "01 02 03 04"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, meaning):
    path = tmp_path / "data.h5"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(meaning)) as caught:
        read_array(path, "raw")
    assert str(path) in str(caught.value)


def test_npz_is_named(tmp_path):
    np.savez(tmp_path / "data.npz", raw=np.zeros(3))
    assert zipfile.is_zipfile(tmp_path / "data.npz")
    with pytest.raises(DataError, match="npz"):
        read_array(tmp_path / "data.npz", "raw")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_array(tmp_path / "none.h5", "raw")
    with pytest.raises(DataError, match="is a folder"):
        read_array(tmp_path, "raw")


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_truncated_file(file, kept):
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="truncated, damaged or unreadable") as caught:
        read_array(file, "a/raw")
    assert f"{int(kept * len(content))} bytes" in str(caught.value)


def test_damaged_chunk(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    file.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        read_array(file, "a/raw")


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("volumes/raw", "does not exist"),
        ("a", "is a group"),
        ("text", "not numbers"),
        ("nothing", "not numbers"),
    ],
)
def test_wrong_key_lists_what_is_there(file, key, problem):
    with pytest.raises(DataError, match=problem) as caught:
        read_array(file, key)
    assert repr(key) in str(caught.value)
    assert "a/raw (30, 40, 50)" in str(caught.value)


def test_a_long_listing_is_cut(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        for i in range(40):
            h5[f"d{i:02}"] = np.zeros(1)
    listing = list_datasets(tmp_path / "x.h5")
    assert "d29 (1,)" in listing
    assert "d30" not in listing
    assert "10 more" in listing


def test_empty_file_says_so(tmp_path):
    h5py.File(tmp_path / "x.h5", "w").close()
    with pytest.raises(DataError, match="holds no dataset"):
        read_array(tmp_path / "x.h5", "raw")


def test_find_key(file):
    assert set(datasets_in(file)) == {"a/raw", "text", "nothing"}
    assert find_key(file, ("raw", "a/raw"), "raw_key") == "a/raw"
    assert find_key(file, ("raw",), "raw_key") is None
    with pytest.raises(DataError, match="a/raw and text could be meant; set raw_key"):
        find_key(file, ("a/raw", "text"), "raw_key")


def test_attribute_vector():
    assert attribute_vector({"resolution": np.array([40, 4, 4])}, "resolution", "f") == (40, 4, 4)
    assert attribute_vector({}, "resolution", "f") is None


@pytest.mark.parametrize("value", [8, (8, 8), (8, 8, 0), (8, -8, 8), "8 nm", (8, 8, np.nan)])
def test_attribute_vector_refuses(value):
    with pytest.raises(DataError, match="f: attribute 'resolution' must be three positive"):
        attribute_vector({"resolution": value}, "resolution", "f")
