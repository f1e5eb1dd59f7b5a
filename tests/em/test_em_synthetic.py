import h5py
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from psc.em import synthetic
from psc.em.data import read_volume
from psc.em.labels import split_disconnected
from psc.em.settings import SyntheticVolumeConfig
from psc.em.synthetic import VOXEL_SIZE, grow_bodies, synthetic_fibsem, write_synthetic_volume
from psc.errors import ConfigError, DataError

SHAPE = (88, 96, 80)


@pytest.fixture(scope="module")
def volume():
    return synthetic_fibsem(SHAPE, 3)


def depth_inside(labels):
    """Distance of every voxel to the nearest change of label, 0 at the change."""
    border = np.zeros(labels.shape, bool)
    for axis in range(3):
        change = labels != np.roll(labels, 1, axis)
        border |= change | np.roll(change, -1, axis)
    return distance_transform_edt(~border)


def test_reproducible_by_seed():
    shape = (30, 32, 28)
    (raw, labels), again = synthetic_fibsem(shape, 3), synthetic_fibsem(shape, 3)
    np.testing.assert_array_equal(raw, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert (raw != synthetic_fibsem(shape, 4)[0]).mean() > 0.5


def test_labels_are_complete_and_connected(volume):
    raw, labels = volume
    assert (raw.shape, raw.dtype) == (SHAPE, np.uint8)
    assert (labels.shape, labels.dtype) == (SHAPE, np.uint64)
    assert labels.min() == 1
    assert 20 < labels.max() < 200
    assert split_disconnected(labels).max() == labels.max()
    sizes = np.bincount(labels.astype(int).reshape(-1))[1:]
    assert sizes.min() >= 50  # no specks, which no reconstruction could get right
    assert sizes.max() > 15 * np.median(sizes)  # calibres differ


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 40, 3), (30, 30, 30)])
def test_any_shape(shape):
    raw, labels = synthetic_fibsem(shape, 0)
    assert raw.shape == labels.shape == shape
    assert labels.min() == 1


def test_even_small_blocks_hold_several_bodies():
    for seed in range(3):
        assert grow_bodies((40, 40, 40), np.random.default_rng(seed)).max() >= 5


def test_grey_values_are_those_of_fibsem(volume):
    """Bounds around FIB-25: mean 131, sd 34, 99 on membranes, 146 four voxels inside."""
    raw, labels = volume
    depth = depth_inside(labels)
    assert 115 < raw.mean() < 150
    assert 22 < raw.std() < 40
    membrane, inside = raw[depth < 1].mean(), raw[(depth >= 4) & (depth < 5)].mean()
    assert 85 < membrane < 115
    assert 25 < inside - membrane < 65
    assert ((raw > 0) & (raw < 255)).mean() > 0.999


def test_darkness_alone_does_not_tell_membranes(volume):
    """Mitochondria and specks are as dark as membranes, and some membranes are hard to see."""
    raw, labels = volume
    smooth = gaussian_filter(raw.astype(np.float32), 1)
    depth = depth_inside(labels)
    threshold = np.median(smooth[depth < 1])
    assert (smooth[depth >= 4] < threshold).mean() > 0.02
    assert (smooth[depth < 1] > smooth[depth >= 4].mean() - 10).mean() > 0.005


@pytest.mark.sample
def test_close_to_the_real_thing(sample_em):
    real = read_volume(sample_em / "fib25" / "training_sample2_z000-207.h5")
    raw, labels = synthetic_fibsem((104, 104, 104), 0)
    assert abs(raw.mean() - real.raw.mean()) < 15
    assert abs(raw.std() - real.raw.std()) < 8
    corner = (slice(104),) * 3
    ours, theirs = depth_inside(labels), depth_inside(real.labels[corner])
    for low, high in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 6)):
        mine = raw[(ours >= low) & (ours < high)].mean()
        assert abs(mine - real.raw[corner][(theirs >= low) & (theirs < high)].mean()) < 20
    noise = [np.std(np.diff(v.astype(float), axis=2)) for v in (raw, real.raw)]
    assert 0.7 < noise[0] / noise[1] < 1.4


@pytest.mark.parametrize(
    ("shape", "seed"), [([8, 8], 0), ([8, 0, 8], 0), ([8, 8, -1], 0), ([8, 8, 8], -1)]
)
def test_impossible_requests(shape, seed):
    with pytest.raises(ConfigError, match="must be three sizes"):
        SyntheticVolumeConfig(shape, seed)


class TestWrite:
    SMALL = (20, 22, 24)

    def test_the_reader_of_real_data_reads_it(self, tmp_path):
        path = tmp_path / "new" / "folder" / "train.h5"
        assert write_synthetic_volume(path, self.SMALL, 1)
        raw, labels = synthetic_fibsem(self.SMALL, 1)
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.raw, raw)
        np.testing.assert_array_equal(volume.labels, labels)
        assert volume.synthetic
        assert volume.voxel_size == VOXEL_SIZE
        assert [p.name for p in path.parent.iterdir()] == ["train.h5"]

    def test_an_identical_file_is_kept(self, tmp_path):
        path = tmp_path / "train.h5"
        write_synthetic_volume(path, self.SMALL, 1)
        before = path.stat()
        assert not write_synthetic_volume(path, self.SMALL, 1)
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert path.stat().st_ino == before.st_ino

    @pytest.mark.parametrize(("shape", "seed"), [((20, 22, 24), 2), ((20, 22, 26), 1)])
    def test_another_request_replaces_it(self, tmp_path, shape, seed):
        path = tmp_path / "train.h5"
        write_synthetic_volume(path, self.SMALL, 1)
        before = path.read_bytes()
        with path.open("rb") as reader:  # another process, halfway through the old file
            assert write_synthetic_volume(path, shape, seed)
            assert reader.read() == before
        np.testing.assert_array_equal(read_volume(path).raw, synthetic_fibsem(shape, seed)[0])

    def test_a_newer_generator_replaces_it(self, tmp_path, monkeypatch):
        path = tmp_path / "train.h5"
        write_synthetic_volume(path, self.SMALL, 1)
        monkeypatch.setattr(synthetic, "_VERSION", synthetic._VERSION + 1)
        assert write_synthetic_volume(path, self.SMALL, 1)

    def test_real_data_are_never_overwritten(self, tmp_path):
        path = tmp_path / "real.h5"
        with h5py.File(path, "w") as file:
            file["volumes/raw"] = np.zeros((2, 2, 2), np.uint8)
        content = path.read_bytes()
        with pytest.raises(ConfigError, match=r"real\.h5 exists and is not a synthetic volume"):
            write_synthetic_volume(path, self.SMALL, 1)
        assert path.read_bytes() == content
        path.write_text("notes")
        with pytest.raises(ConfigError, match="not overwritten"):
            write_synthetic_volume(path, self.SMALL, 1)
        with pytest.raises(ConfigError, match="not overwritten"):
            write_synthetic_volume(tmp_path, self.SMALL, 1)

    def test_nothing_is_left_by_a_failure(self, tmp_path, monkeypatch):
        path = tmp_path / "train.h5"
        write_synthetic_volume(path, self.SMALL, 1)
        content = path.read_bytes()

        def full(*_args, **_kwargs):
            raise OSError("No space left on device")

        monkeypatch.setattr(h5py.Group, "create_dataset", full)
        with pytest.raises(DataError, match="No space"):
            write_synthetic_volume(path, self.SMALL, 2)
        assert path.read_bytes() == content
        assert [p.name for p in tmp_path.iterdir()] == ["train.h5"]
