import hashlib

import numpy as np
import pytest
from PIL import Image

from psc.errors import DataError
from psc.volumes.reading import natural_order, png_slices, read_png_stack


def write(folder, volume, name="slice.{}.png", first=0):
    folder.mkdir(exist_ok=True)
    for z, plane in enumerate(volume, start=first):
        Image.fromarray(plane).save(folder / name.format(z))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_slices_are_stacked_in_natural_order(tmp_path, dtype):
    top = np.iinfo(dtype).max
    volume = np.random.default_rng(0).integers(0, top, (12, 5, 7), dtype, endpoint=True)
    write(tmp_path, volume, first=5)  # 5 … 16: plain sorting would put 10 before 5
    slices = png_slices(tmp_path)
    stack, size, sha256 = read_png_stack(slices)
    np.testing.assert_array_equal(stack, volume)
    assert stack.dtype == dtype
    content = b"".join((tmp_path / f"slice.{z}.png").read_bytes() for z in range(5, 17))
    assert (size, sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_natural_order():
    names = ["b1", "a10z2", "a2", "a10", "1", "a10z10"]
    assert sorted(names, key=natural_order) == ["1", "a2", "a10", "a10z2", "a10z10", "b1"]


def test_hidden_and_other_files_are_left_out(tmp_path):
    write(tmp_path, np.zeros((2, 3, 3), np.uint8))
    (tmp_path / "._slice.0.png").write_bytes(b"left by a Mac")
    (tmp_path / "readme.txt").write_text("…")
    assert [path.name for path in png_slices(tmp_path)] == ["slice.0.png", "slice.1.png"]


def test_a_gap_in_the_numbers_is_a_missing_slice(tmp_path):
    write(tmp_path, np.zeros((9, 3, 3), np.uint8))
    (tmp_path / "slice.6.png").unlink()
    with pytest.raises(DataError, match=r"between slice\.5\.png and slice\.7\.png"):
        png_slices(tmp_path)


def test_every_second_number_is_no_gap(tmp_path):
    write(tmp_path, np.zeros((8, 3, 3), np.uint8))
    for z in range(1, 8, 2):
        (tmp_path / f"slice.{z}.png").unlink()
    assert len(png_slices(tmp_path)) == 4


def test_slices_of_different_size_or_depth(tmp_path):
    write(tmp_path, np.zeros((3, 4, 5), np.uint8))
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "slice.2.png")
    with pytest.raises(DataError, match=r"slice\.2\.png: slice is 4 × 6 uint8, but slice\.0"):
        read_png_stack(png_slices(tmp_path))
    Image.fromarray(np.zeros((4, 5), np.uint16)).save(tmp_path / "slice.2.png")
    with pytest.raises(DataError, match="4 × 5 uint16"):
        read_png_stack(png_slices(tmp_path))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_images_that_are_not_grey(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "slice.0.png")
    with pytest.raises(DataError, match=f"mode is {mode},.*grey"):
        read_png_stack(png_slices(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_unreadable_png(tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 255, (1, 60, 60), dtype=np.uint8)
    write(tmp_path, noise)
    path = tmp_path / "slice.0.png"
    content = {"truncated": path.read_bytes()[:1500], "text": b"<html>404</html>", "empty": b""}
    path.write_bytes(content[damage])
    with pytest.raises(DataError, match="not a readable PNG") as caught:
        read_png_stack(png_slices(tmp_path))
    assert str(path) in str(caught.value)


def test_no_slices():
    with pytest.raises(DataError, match="at least one"):
        read_png_stack([])
