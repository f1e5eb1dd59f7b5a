"""Volumes on disk: what is read back is what was written, and a failure spares the old file."""

import resource
import signal

import h5py
import numpy as np
import pytest

from psc.errors import DataError
from psc.volumes import output
from psc.volumes.labelled import read_volume


def test_round_trip_through_our_own_reader(tmp_path):
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 255, (5, 6, 7), np.uint8)
    truth = rng.integers(1, 2**60, (5, 6, 7), np.uint64)
    affinities = rng.random((3, 5, 6, 7), np.float32)
    path = tmp_path / "deep" / "x.h5"
    output.write_volumes(
        path,
        {output.RAW: raw, output.TRUTH: truth, output.AFFINITIES: affinities},
        voxel_size=(40, 4, 4),
        offset=(2, 0, 0),
        provenance={"run": "r", "threshold": 0.5},
        origin=(1000, 0, -8),
    )
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.raw, raw)
    np.testing.assert_array_equal(volume.labels, truth)
    assert (volume.voxel_size, volume.offset) == ((40, 4, 4), (1080, 0, -8))
    with h5py.File(path) as file:
        np.testing.assert_allclose(file[output.AFFINITIES][:], affinities, atol=1e-3)
        assert file[output.RAW].attrs["offset"].tolist() == [1080, 0, -8]
        assert file.attrs["run"] == "r"
    assert [p.name for p in path.parent.iterdir()] == ["x.h5"]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit of file sizes")
def test_a_full_disk_spares_the_file_that_was_there(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(b"before")
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 100), np.uint8)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: an error, not a kill
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(DataError, match="could not write"):
            output.write_volumes(
                path, {output.RAW: noise}, voxel_size=None, offset=(0, 0, 0), provenance={}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]
