"""HDF5 and Zarr: what is found by its name, through links too, and what is said of the rest."""

import errno
import gzip
import os
import re
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
import zarr

from psc.em.data import read_volume
from psc.errors import DataError
from psc.volumes.containers import HDF5, Zarr
from psc.volumes.reading import open_volume

RAW = np.random.default_rng(0).integers(0, 255, (10, 12, 14)).astype(np.uint8)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as h5:
        h5.create_dataset("a/raw", data=np.tile(RAW, (3, 3, 3)), compression="gzip")
        h5["text"] = "no numbers"
        h5["nothing"] = h5py.Empty("f4")
    return path


def test_big_endian_values_become_native(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["raw"] = np.arange(8, dtype=">u2").reshape(2, 2, 2)
    volume = open_volume(tmp_path / "x.h5")
    assert volume.dtype == volume[...].dtype == np.dtype(np.uint16)
    assert volume[...].dtype.isnative
    assert volume[...][1, 1, 1] == 7


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        (gzip.compress(b"\x89HDF\r\n\x1a\n" + bytes(100), mtime=0), "gzip"),
        (b"BZh91AY" + bytes(50), "bzip2"),
        (b"\xfd7zXZ\x00" + bytes(50), "xz"),
        (b"\x93NUMPY\x01\x00" + bytes(50), ".npy"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        (b"II*\x00" + bytes(50), "TIFF"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML document"),
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
        open_volume(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [open_volume, read_volume])
def test_n5_is_named_with_what_makes_a_zarr_of_it(tmp_path, read):
    """Its attributes as zarr 2.18 writes them; the remedy was tried there."""
    for name, place in (("em.n5", "."), ("em.n5", "raw"), ("other", "."), ("em.n5", "raw/s0")):
        (tmp_path / name / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "attributes.json").write_text('{"n5": "2.0.0"}')
        with pytest.raises(DataError, match=rf"{name} is N5, .*zarr\.copy\(.*voxel_size="):
            read(tmp_path / name / place)
    (tmp_path / "em.n5/attributes.json").unlink()
    with pytest.raises(DataError, match=r"em\.n5 is N5"):
        read(tmp_path / "em.n5")


def test_npz_is_named(tmp_path):
    np.savez(tmp_path / "data.npz", raw=np.zeros(3))
    assert zipfile.is_zipfile(tmp_path / "data.npz")
    with pytest.raises(DataError, match="npz"):
        open_volume(tmp_path / "data.npz")


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_truncated_file(file, kept):
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match="truncated, damaged or unreadable") as caught:
        open_volume(file)[...]
    assert f"{int(kept * len(content))} bytes" in str(caught.value)


def test_damaged_chunk(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    file.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        open_volume(file, "a/raw")[...]


class TestIntactFilesAreNotCalledDamaged:
    """Not every error of HDF5 is damage: what is said must help."""

    @pytest.mark.parametrize(
        ("number", "said"),
        [
            (errno.EACCES, "no permission to read it"),
            (errno.EIO, "cannot be read: .*Input/output error"),
            (errno.EMFILE, "cannot be read: .*Too many open files"),
        ],
    )
    def test_what_the_system_refuses(self, file, monkeypatch, number, said):
        def refuse(*_args, **_keywords):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(h5py, "File", refuse)
        with pytest.raises(DataError, match=said) as caught:
            open_volume(file)
        assert "download" not in str(caught.value)

    def test_a_file_that_is_being_written(self, file):
        program = f"import h5py; f = h5py.File({str(file)!r}, 'a'); print(1, flush=True); input()"
        writer = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert writer.stdout.readline() == b"1\n"
            with pytest.raises(DataError, match="open for writing in another process; wait"):
                open_volume(file)
        finally:
            writer.communicate(b"\n")
        assert open_volume(file).shape == (30, 36, 42)

    def test_a_filter_that_is_not_installed(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as h5:
            space = h5py.h5s.create_simple((4, 4, 4))
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_chunk((4, 4, 4))
            plan.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, ())  # bitshuffle
            h5py.h5d.create(h5.id, b"raw", h5py.h5t.NATIVE_UINT8, space, plan).write_direct_chunk(
                (0, 0, 0), bytes(64)
            )
        with pytest.raises(DataError, match=r"filter that is not installed here, number 32008"):
            open_volume(tmp_path / "x.h5")[...]

    def test_a_codec_of_zarr_that_is_not_installed(self, tmp_path):
        array = zarr.create_array(
            str(tmp_path / "em.zarr"), shape=(4, 4, 4), chunks=(4, 4, 4), dtype="u1", zarr_format=2
        )
        array[...] = 1
        described = tmp_path / "em.zarr/.zarray"
        described.write_text(re.sub(r'"id": "\w+"', '"id": "nobodys"', described.read_text()))
        with pytest.raises(DataError, match="nobodys") as caught:
            open_volume(tmp_path / "em.zarr")[...]
        assert "copy" not in str(caught.value)


class TestNames:
    @pytest.mark.parametrize(
        ("key", "problem"),
        [
            ("volumes/raw", "has no dataset 'volumes/raw'; set input_key to one of"),
            ("a/raw/deeper", "has no dataset 'a/raw/deeper'"),
            ("text", "not numbers"),
            ("nothing", "not numbers"),
        ],
    )
    def test_a_wrong_one_lists_what_is_there(self, file, key, problem):
        with pytest.raises(DataError, match=problem) as caught:
            open_volume(file, key)
        assert "a/raw (30, 36, 42)" in str(caught.value) or "nothing" in key or "text" in key

    @pytest.mark.parametrize("key", ["a/raw", "/a/raw", "a//raw/", "./a/raw", "a\\raw", "a"])
    def test_separators_do_not_matter(self, file, key):
        assert open_volume(file, key).shape == (30, 36, 42)

    def test_may_be_part_of_the_path(self, file):
        assert open_volume(file / "a" / "raw").shape == (30, 36, 42)
        with pytest.raises(DataError, match="no dataset 'b/raw'"):
            open_volume(file / "b" / "raw")

    def test_a_long_listing_is_cut(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as h5:
            for i in range(40):
                h5[f"d{i:02}"] = np.zeros(1)
        with pytest.raises(DataError, match=r"d29 \(1,\) and 10 more$"):
            open_volume(tmp_path / "x.h5")

    def test_an_empty_file_says_so(self, tmp_path):
        h5py.File(tmp_path / "x.h5", "w").close()
        with pytest.raises(DataError, match="holds no dataset"):
            open_volume(tmp_path / "x.h5")

    def test_two_that_are_known_are_asked_for(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as h5:
            h5["raw"] = h5["stack"] = RAW
        with pytest.raises(DataError, match="both raw and stack could be meant; set raw_key"):
            open_volume(tmp_path / "x.h5", setting="raw_key")

    def test_the_only_volume_is_taken_and_said(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as h5:
            h5["deep/er/grey"], h5["table"] = RAW, np.zeros((3, 2))
        volume = open_volume(tmp_path / "x.h5")
        assert np.array_equal(volume[...], RAW)
        assert "deep/er/grey was taken, the only volume in it" in volume.notes[0]

    def test_labels_are_not_taken_for_grey_values(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as h5:
            h5["volumes/labels/neuron_ids"] = RAW
        with pytest.raises(DataError, match="set input_key to one of volumes/labels/neuron_ids"):
            open_volume(tmp_path / "x.h5")

    def test_zarr_lists_nested_arrays(self, tmp_path):
        group = zarr.create_group(str(tmp_path / "two.zarr"))
        group.create_array("em/a", data=RAW)
        group.create_array("em/b", data=RAW[:4])
        with pytest.raises(DataError, match=r"em/a \(10, 12, 14\), em/b \(4, 12, 14\)"):
            open_volume(tmp_path / "two.zarr")
        with pytest.raises(DataError, match=r"no dataset 'raws'.*em/a"):
            open_volume(tmp_path / "two.zarr", "raws")
        assert open_volume(tmp_path / "two.zarr" / "em", "b").shape == (4, 12, 14)


class TestLinks:
    """Whether something is there is found by opening it; h5py is the judge."""

    @pytest.fixture
    def master(self, tmp_path):
        with h5py.File(tmp_path / "big.h5", "w") as h5:
            h5["acquisition/em"] = RAW
            h5["acquisition/em"].attrs["resolution"] = (40, 4, 4)
        with h5py.File(tmp_path / "master.h5", "w") as h5:
            yield h5

    @pytest.mark.parametrize(
        ("name", "link"),
        [
            ("volumes/raw", h5py.ExternalLink("big.h5", "/acquisition/em")),
            ("volumes", h5py.ExternalLink("big.h5", "/volumes")),
            ("volumes/raw", h5py.SoftLink("/elsewhere/em")),
            ("volumes", h5py.SoftLink("/second")),
            ("any", h5py.SoftLink("/volumes_behind/raw")),
        ],
    )
    def test_lead_to_data(self, tmp_path, master, name, link):
        with h5py.File(tmp_path / "big.h5", "a") as h5:
            h5["volumes/raw"] = h5["acquisition/em"]
        master[name] = link
        external = h5py.ExternalLink("big.h5", "/acquisition/em")
        for place in ("elsewhere/em", "second/raw", "volumes_behind/raw"):
            if isinstance(link, h5py.SoftLink) and link.path.split("/")[1] == place.split("/")[0]:
                master[place] = external
        assert np.array_equal(master[name]["raw"] if name == "volumes" else master[name], RAW)
        master.file.close()
        volume = open_volume(tmp_path / "master.h5", None if name != "any" else name)
        assert np.array_equal(volume[...], RAW)
        assert volume.voxel_size == (40, 4, 4)
        assert [path.name for path in volume.files()] == ["big.h5"]

    @pytest.mark.parametrize(
        ("link", "said"),
        [
            (h5py.ExternalLink("gone.h5", "/x"), "is a link to /x in gone.h5, which cannot be"),
            (h5py.ExternalLink("big.h5", "/x"), "is a link to /x in big.h5, which cannot be"),
            (h5py.SoftLink("/nowhere"), "is a link to /nowhere, which cannot be opened"),
        ],
    )
    def test_that_lead_nowhere_are_told(self, tmp_path, master, link, said):
        master["volumes/raw"] = link
        master.file.close()
        for key in (None, "volumes/raw"):
            with pytest.raises(DataError, match=said) as caught:
                open_volume(tmp_path / "master.h5", key)
            assert "download" not in str(caught.value)

    def test_may_go_in_circles(self, tmp_path, master):
        master["loop"] = h5py.SoftLink("/")
        master["a/up"] = h5py.SoftLink("/a")
        master["a/em"] = h5py.ExternalLink("big.h5", "/acquisition/em")
        master.file.close()
        assert HDF5(tmp_path / "master.h5").arrays() == {"a/em": (10, 12, 14)}

    def test_virtual_datasets_have_all_their_parts(self, tmp_path, master):
        layout = h5py.VirtualLayout((10, 12, 14), np.uint8)
        layout[...] = h5py.VirtualSource("big.h5", "acquisition/em", (10, 12, 14))
        master.create_virtual_dataset("raw", layout, fillvalue=7)
        master.file.close()
        volume = open_volume(tmp_path / "master.h5")
        assert np.array_equal(volume[...], RAW)
        assert [path.name for path in volume.files()] == ["master.h5", "big.h5"]
        (tmp_path / "there").mkdir()
        (tmp_path / "there/link.h5").symlink_to(tmp_path / "master.h5")
        assert np.array_equal(open_volume(tmp_path / "there/link.h5")[...], RAW)
        (tmp_path / "big.h5").unlink()  # HDF5 would give 7 everywhere
        with pytest.raises(DataError, match=r"a part of it is in .*big\.h5, which does not exist"):
            open_volume(tmp_path / "master.h5")

    def test_of_the_file_system_keep_what_is_said_beside_them(self, tmp_path):
        zarr.create_array(str(tmp_path / "elsewhere"), data=RAW, chunks=(5, 5, 5))
        level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [40, 4, 4]}]}
        axes = [{"name": n, "type": "space", "unit": "nm"} for n in "zyx"]
        ome = {"multiscales": [{"axes": axes, "datasets": [level]}]}
        zarr.create_group(str(tmp_path / "em.zarr"), attributes={"ome": ome})
        (tmp_path / "em.zarr" / "0").symlink_to(tmp_path / "elsewhere")
        for path in (tmp_path / "em.zarr", tmp_path / "em.zarr" / "0"):
            assert open_volume(path).voxel_size == (40, 4, 4)
            assert np.array_equal(open_volume(path)[...], RAW)


def test_a_zarr_is_known_from_within(tmp_path):
    group = zarr.create_group(str(tmp_path / "em.zarr"))
    group.create_array("a/b", data=RAW)
    assert Zarr.root_of(tmp_path / "em.zarr" / "a" / "b") == tmp_path / "em.zarr"
    assert Zarr.root_of(tmp_path) is None
