"""An output of scripts/segment.py, opened: voxels on disk, and what is refused."""

import json

import h5py
import numpy as np
import pytest
import zarr

from psc.blockwise.engine import open_engine
from psc.blockwise.grid import Grid
from psc.blockwise.pipeline import BlockwiseOptions, segment_blockwise
from psc.em.settings import SegmentationConfig
from psc.errors import ConfigError, DataError
from psc.viewing.scene import is_blockwise_output, open_blockwise_output
from psc.volumes.reading import fingerprint, open_volume

SHAPE = (12, 20, 17)


class Known:
    """Affinities of any box of one random volume."""

    def __init__(self):
        self.values = np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)

    def __call__(self, box):
        return self.values[(slice(None), *box)]


@pytest.fixture
def written(tmp_path):
    folder = tmp_path / "neurons"
    options = BlockwiseOptions(segmentation=SegmentationConfig(), threshold=0.5, context=2)
    with open_engine(1, None, progress=False) as engine:
        segment_blockwise(
            Known(),
            {},
            Grid(SHAPE, (12, 12, 12)),
            options,
            folder,
            engine=engine,
            voxel_size=(40.0, 4.0, 4.0),
        )
    return folder


def test_layers_are_the_arrays(written):
    assert is_blockwise_output(written)
    scene = open_blockwise_output(written, None, None)
    assert list(scene.layers) == ["affinities", "fragments", "segmentation"]
    assert scene.shape == SHAPE
    assert scene.voxel_size == (40.0, 4.0, 4.0)
    assert scene.errors == ()
    box = (slice(3, 9), slice(0, 20), slice(5, 6))
    for name in ("fragments", "segmentation"):
        stored = zarr.open_array(str(written / f"{name}.zarr" / "0"), mode="r")[box]
        assert np.array_equal(scene.layers[name].voxels[box], stored)
        assert stored.max() > 0
    found = scene.layers["affinities"].voxels[(slice(0, 3), *box)]
    assert np.abs(found - Known()(box)).max() <= 0.5 / 255 + 1e-6
    assert scene.layers["segmentation"].in_memory is None


def test_the_volume_that_was_segmented_is_shown_below(written, tmp_path):
    raw = np.random.default_rng(1).integers(0, 255, SHAPE, dtype=np.uint8)
    for name, values in (("right.h5", raw), ("wrong.h5", raw[1:])):
        with h5py.File(tmp_path / name, "w") as file:
            file["volumes/raw"] = values
    scene = open_blockwise_output(written, tmp_path / "right.h5", None)
    assert next(iter(scene.layers)) == "raw"
    assert np.array_equal(scene.layers["raw"].voxels[1:2, 2:4, 3:5], raw[1:2, 2:4, 3:5])
    with pytest.raises(ConfigError, match="give the volume that was segmented"):
        open_blockwise_output(written, tmp_path / "wrong.h5", None)


def test_the_volume_is_found_by_itself_while_it_is_the_same(written, tmp_path, caplog):
    raw, path = np.random.default_rng(1).integers(0, 255, SHAPE, dtype=np.uint8), tmp_path / "em.h5"

    def write(values):
        path.unlink(missing_ok=True)
        with h5py.File(path, "w") as file:
            file["grey"] = values

    write(raw)
    summary = json.loads((written / "summary.json").read_text())
    described = json.loads((written / "blockwise.json").read_text())
    described["stages"][0]["options"]["input"] = fingerprint(open_volume(path))
    (written / "blockwise.json").write_text(json.dumps(described))
    summary |= {"input": str(path), "input_key": None}
    (written / "summary.json").write_text(json.dumps(summary))
    scene = open_blockwise_output(written, None, None)
    assert np.array_equal(scene.layers["raw"].voxels[1:2, 2:4, 3:5], raw[1:2, 2:4, 3:5])
    assert scene.facts["input"] == str(path)
    write(255 - raw)
    assert "raw" not in open_blockwise_output(written, None, None).layers
    assert "has changed since" in caplog.text
    path.unlink()
    assert "raw" not in open_blockwise_output(written, None, None).layers
    assert "cannot be read any more" in caplog.text


def test_an_unfinished_output_is_refused(written):
    (written / "summary.json").unlink()
    with pytest.raises(DataError, match="is not finished"):
        open_blockwise_output(written, None, None)


@pytest.mark.parametrize("damaged", ["summary.json", "fragments.zarr/0/zarr.json"])
def test_damaged_descriptions_are_refused(written, damaged):
    (written / damaged).write_text("{")
    with pytest.raises(DataError, match="damaged"):
        open_blockwise_output(written, None, None)


def test_a_damaged_chunk_says_where(written):
    scene = open_blockwise_output(written, None, None)
    for chunk in (written / "segmentation.zarr" / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"no chunk")
    with pytest.raises(DataError, match=r"segmentation.zarr/0 is damaged"):
        scene.layers["segmentation"].voxels[0:4, 0:4, 0:4]


def test_other_folders_are_no_outputs(finished_run):
    assert not is_blockwise_output(finished_run[1])
