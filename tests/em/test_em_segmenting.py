import numpy as np
import pytest
import torch
import zarr

from psc.config import compose
from psc.config.schema import SegmentConfig
from psc.em.settings import SegmentationChanges
from psc.em.testing import predict_affinities
from psc.em.watershed import seeded_watershed
from psc.errors import CheckpointError, ConfigError, DataError
from psc.networks.build import build_network
from psc.training.checkpoints import CONFIG_KEY, load_checkpoint, load_network_weights
from psc.training.prediction import segment_file
from psc.volumes.reading import Region, read_volume
from psc.volumes.stores import dequantised, quantised


@pytest.fixture
def config(finished_run, tiny_volume, tmp_path):
    _, folder, _ = finished_run
    checkpoint = folder / "checkpoints" / "best.ckpt"
    return lambda **changes: SegmentConfig(
        **{
            "checkpoint": str(checkpoint),
            "input": str(tiny_volume),
            "output": str(tmp_path / "neurons"),
            "block_size": 16,
            "accelerator": "cpu",
            "progress": False,
            **changes,
        }
    )


def test_a_volume_is_segmented_as_the_evaluation_would(finished_run, config, tiny_volume, tmp_path):
    record, folder, overrides = finished_run
    assert segment_file(config()) == tmp_path / "neurons"
    affinities = zarr.open_array(str(tmp_path / "neurons/affinities.zarr/0"), mode="r")[...]
    trained = compose(overrides)
    network = build_network(trained.backbone, trained.block).eval()
    path = folder / "checkpoints" / "best.ckpt"
    load_network_weights(network, load_checkpoint(path), path)
    expected = predict_affinities(
        network,
        Region(read_volume(tiny_volume)),
        trained,
        torch.device("cpu"),
    )
    assert np.array_equal(affinities, quantised(expected))
    summary = (tmp_path / "neurons" / "blockwise.json").read_text()
    assert f'"threshold": {record.metrics["threshold"]}' in summary
    group = zarr.open_group(str(tmp_path / "neurons/segmentation.zarr"), mode="r")
    segmentation = group["0"][...]
    assert segmentation.shape == (48, 40, 40)
    assert segmentation.min() == 1
    scale = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
    assert scale["scale"] == [8.0, 8.0, 8.0]
    assert seeded_watershed(dequantised(affinities)).shape == segmentation.shape


def test_an_existing_output_is_refused_and_replaced_when_asked(config, tmp_path):
    segment_file(config())
    with pytest.raises(ConfigError, match="exists and is complete"):
        segment_file(config())
    with pytest.raises(ConfigError, match=r"threshold: .* there, 0\.99 now"):
        segment_file(config(threshold=0.99))
    with pytest.raises(ConfigError, match=r"minimum_seed_distance: 1 there, 2 now"):
        segment_file(config(segmentation=SegmentationChanges(minimum_seed_distance=2)))
    segment_file(config(threshold=0.99, overwrite=True))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"input": "missing.h5"}, DataError, "missing.h5 does not exist"),
        ({"input_key": "raws"}, DataError, "no dataset 'raws'"),
        ({"checkpoint": "missing.ckpt"}, CheckpointError, "missing.ckpt"),
        ({"accelerator": "tpu"}, ConfigError, "accelerator=tpu"),
        ({"missing_chunks": "guess"}, ConfigError, "allowed are fill, refuse"),
        ({"threshold": 2.0}, ConfigError, "threshold=2.0"),
        ({"block_size": 0}, ConfigError, "positive"),
        ({"block_size": "large"}, ConfigError, "block_size=large"),
        ({"block_size": [16, 16]}, ConfigError, r"block_size=\[16, 16\]"),
        ({"context": 0}, ConfigError, "context=0"),
        ({"workers": 0}, ConfigError, "workers=0"),
        ({"voxel_size": [8.0, 0.0, 8.0]}, ConfigError, "three positive numbers"),
        ({"segmentation": SegmentationChanges(scoring="best")}, ConfigError, "scoring"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    config, tmp_path, changes, error, message
):
    with pytest.raises(error, match=message):
        segment_file(config(**changes))
    assert not (tmp_path / "neurons").exists()


def test_other_checkpoints_are_refused(config, finished_run, tmp_path):
    _, folder, _ = finished_run
    checkpoint = load_checkpoint(folder / "checkpoints" / "best.ckpt")
    other = tmp_path / "other.ckpt"
    torch.save(checkpoint, other)
    with pytest.raises(ConfigError, match=r"no finished run that chose one; set threshold=…"):
        segment_file(config(checkpoint=str(other)))
    checkpoint[CONFIG_KEY]["backbone"]["out_channels"] = 4
    torch.save(checkpoint, other)
    with pytest.raises(CheckpointError, match=r"1 channels into 4; neurons need .* 3 affinities"):
        segment_file(config(checkpoint=str(other), threshold=0.5))
    checkpoint[CONFIG_KEY]["backbone"].update(out_channels=3, base_width=8)
    torch.save(checkpoint, other)
    with pytest.raises(CheckpointError, match="has shape"):
        segment_file(config(checkpoint=str(other), threshold=0.5))


def test_results_of_another_network_are_not_mixed(config, finished_run, tmp_path):
    _, folder, _ = finished_run
    segment_file(config(threshold=0.5))
    checkpoint = load_checkpoint(folder / "checkpoints" / "best.ckpt")
    name = next(name for name in checkpoint["state_dict"] if name.endswith("weight"))
    checkpoint["state_dict"][name] *= 1.01
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match="other inputs or options \\(weights"):
        segment_file(config(checkpoint=str(tmp_path / "other.ckpt"), threshold=0.5))
