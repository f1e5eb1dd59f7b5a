import os
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr

from psc.applications import segment_file
from psc.blockwise.images import dequantised, quantised
from psc.config import compose
from psc.config.schema import SegmentConfig
from psc.em.data import Region, read_volume
from psc.em.settings import SegmentationChanges, SegmentationConfig
from psc.em.testing import predict_affinities
from psc.em.watershed import fragments_of
from psc.errors import CheckpointError, ConfigError, DataError
from psc.networks.build import build_network
from psc.training.checkpoints import CONFIG_KEY, read_checkpoint
from psc.training.training import train


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
    read_checkpoint(path).load_weights(network)
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
    assert fragments_of(dequantised(affinities), SegmentationConfig()).shape == segmentation.shape


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
        ({"voxel_size": [8.0, 0.0, 8.0]}, ConfigError, "three positive nm"),
        ({"segmentation": SegmentationChanges(scoring="best")}, ConfigError, "scoring"),
        ({"segmentation": SegmentationChanges(thresholds=[0.5])}, ConfigError, "threshold=…"),
        ({"brain_above": 3.0}, ConfigError, "brain_above=3.0: nothing reads it where neurons"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    config, tmp_path, changes, error, message
):
    with pytest.raises(error, match=message):
        segment_file(config(**changes))
    assert not (tmp_path / "neurons").exists()


def test_a_missing_chunk_is_found_before_anything_is_written(config, tiny_volume, tmp_path):
    raw = read_volume(tiny_volume).raw
    zarr.create_array(str(tmp_path / "em.zarr"), data=raw, chunks=(8, 8, 8))
    (tmp_path / "em.zarr/c/1/1/1").unlink()
    there = {"input": str(tmp_path / "em.zarr"), "threshold": 0.5, "voxel_size": [8.0, 8.0, 8.0]}
    with pytest.raises(DataError, match=r"1.1.1 is missing"):
        segment_file(config(**there))
    assert not (tmp_path / "neurons").exists()
    there["missing_chunks"] = "fill"
    segment_file(config(**there))
    (tmp_path / "neurons/summary.json").unlink()  # as if it had been interrupted
    array = zarr.open_array(str(tmp_path / "em.zarr"), mode="r+")
    array[8:16, 8:16, 8:16] = raw[8:16, 8:16, 8:16]
    with pytest.raises(ConfigError, match="missing_chunks: 1 there, refuse now"):
        segment_file(config(**there))


def test_chunks_may_be_filled_from_a_resumption_on_if_none_was_missing(config, tmp_path):
    segment_file(config())
    (tmp_path / "neurons/summary.json").unlink()
    segment_file(config(missing_chunks="fill"))
    assert (tmp_path / "neurons/summary.json").is_file()


def test_what_the_graph_of_a_large_volume_takes_is_told_at_first(config, tmp_path, caplog):
    with h5py.File(tmp_path / "em.h5", "w") as file:
        file.create_dataset("raw", (2400, 2400, 2400), np.uint8, chunks=(64, 64, 64))
    (tmp_path / "neurons").write_text("no folder")  # which ends it then
    given = {"voxel_size": [8.0, 8.0, 8.0], "threshold": 0.5, "block_size": 256}
    with pytest.raises(ConfigError, match="is a file"):
        segment_file(config(input=str(tmp_path / "em.h5"), **given))
    assert "takes some 6 GB of one process" in caplog.text


def test_a_voxel_that_is_none_is_told_with_its_file(config, tiny_volume, tmp_path):
    raw = read_volume(tiny_volume).raw.astype(np.float32)
    raw[20, 20, 20] = np.nan
    with h5py.File(tmp_path / "em.h5", "w") as file:
        file["raw"] = raw
    given = {"intensity_range": [0.0, 255.0], "voxel_size": [8.0, 8.0, 8.0], "threshold": 0.5}
    with pytest.raises(DataError, match=r"em\.h5 .*, at or around z .*: raw holds NaN"):
        segment_file(config(input=str(tmp_path / "em.h5"), **given))


def test_an_input_written_after_its_segmentation_had_begun_is_told(config, tmp_path, caplog):
    source = tmp_path / "em.h5"
    source.write_bytes(Path(config().input).read_bytes())
    segment_file(config(input=str(source)))
    (tmp_path / "neurons/summary.json").unlink()  # as if it had been interrupted
    segment_file(config(input=str(source)))
    assert "had been begun" not in caplog.text
    hour_ago = source.stat().st_mtime - 3600
    os.utime(tmp_path / "neurons/blockwise.json", (hour_ago, hour_ago))
    for _ in range(2):  # at every resumption
        caplog.clear()
        (tmp_path / "neurons/summary.json").write_text("")  # as a crash leaves it
        segment_file(config(input=str(source)))
        assert "em.h5 was written after" in caplog.text


@pytest.mark.parametrize("order", ["zyx", "xyz"])
def test_what_is_known_of_the_volume_is_carried_to_the_output(config, tiny_volume, tmp_path, order):
    raw = read_volume(tiny_volume).raw
    axes = [{"name": name, "type": "space", "unit": "µm"} for name in order]
    size, offset = {"z": 0.03, "y": 0.008, "x": 0.004}, {"z": 1.5, "y": 0.0, "x": 0.1}
    steps = [
        {"type": "scale", "scale": [size[name] for name in order]},
        {"type": "translation", "translation": [offset[name] for name in order]},
    ]
    described = {"axes": axes, "datasets": [{"path": "0"}], "coordinateTransformations": steps}
    group = zarr.open_group(
        str(tmp_path / "em.zarr"), mode="w", attributes={"ome": {"multiscales": [described]}}
    )
    group.create_array("0", data=raw.transpose(["zyx".index(name) for name in order]))
    segment_file(config(input=str(tmp_path / "em.zarr"), threshold=0.5, levels=2))
    for name in ("affinities", "fragments", "segmentation"):
        volume = zarr.open_group(str(tmp_path / f"neurons/{name}.zarr"), mode="r")
        (found,) = volume.attrs["ome"]["multiscales"]
        assert [axis["name"] for axis in found["axes"]][-3:] == list("zyx")
        for factor, level in zip((1, 2), found["datasets"], strict=False):
            scale, shift = level["coordinateTransformations"]
            assert scale["scale"][-3:] == pytest.approx([30 * factor, 8 * factor, 4 * factor])
            expected = np.array([1500, 0, 100]) + np.array([30, 8, 4]) * (factor - 1) / 2
            assert shift["translation"][-3:] == pytest.approx(expected)
        assert volume["0"].shape[-3:] == raw.shape


@pytest.mark.parametrize(
    ("dtype", "change", "intensity_range"),
    [
        (np.uint16, lambda raw: raw.astype(np.uint16) * 16, [0, 255 * 16]),
        (np.int16, lambda raw: raw.astype(np.int16) - 128, [-128, 127]),
        (np.float32, lambda raw: raw.astype(np.float32), [0, 255]),
    ],
)
def test_grey_values_of_any_type_are_those_of_training_or_refused(
    config, tiny_volume, tmp_path, dtype, change, intensity_range
):
    raw = read_volume(tiny_volume).raw
    zarr.create_array(str(tmp_path / "em.zarr"), data=change(raw))
    other = {"input": str(tmp_path / "em.zarr"), "threshold": 0.5}
    with pytest.raises(DataError, match=rf"holds {np.dtype(dtype)} .*set .*intensity_range=\["):
        segment_file(config(**other))
    assert not (tmp_path / "neurons").exists()
    segment_file(config(**other, intensity_range=intensity_range))
    segment_file(config(threshold=0.5, output=str(tmp_path / "of_uint8")))
    found, expected = (
        zarr.open_array(str(tmp_path / f"{name}/affinities.zarr/0"), mode="r")[...].astype(int)
        for name in ("neurons", "of_uint8")
    )
    assert np.abs(found - expected).max() <= 1


def test_other_checkpoints_are_refused(config, finished_run, tmp_path):
    _, folder, _ = finished_run
    checkpoint = dict(read_checkpoint(folder / "checkpoints" / "best.ckpt").content)
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


def test_longer_offsets_are_trained_and_segmentation_asks_the_nearest(tiny_run, config, tmp_path):
    longer = "[-3,0,0],[0,-4,0],[2,0,-5]"
    offsets = f"recipe.offsets=[[-1,0,0],[0,-1,0],[0,0,-1],{longer}]"
    record = train(compose([*tiny_run, offsets, "recipe.iterations=2", "block=3d"]))
    folder = tmp_path / "runs" / record.run
    assert record.config["backbone"]["out_channels"] == 6
    assert 0 < record.metrics["test"]["total"] < 20
    with h5py.File(folder / "evaluation/test-0.h5") as file:
        assert file["volumes/affinities"].shape == (3, 12, 40, 40)
    path = folder / "checkpoints/best.ckpt"
    with pytest.raises(CheckpointError, match=r"backbone=.*'out_channels': 6.*this run has .*: 3"):
        train(compose([*tiny_run, "block=3d", f"initial_weights={path}"]))
    # The same network without its other channels, as if it had never had them.
    content = dict(read_checkpoint(path).content)
    content[CONFIG_KEY] = asdict(compose([*tiny_run, "block=3d"]))
    weights = content["state_dict"]
    content["state_dict"] = weights | {k: weights[k][:3] for k in weights if ".head." in k}
    torch.save(content, tmp_path / "nearest.ckpt")
    for name, checkpoint in (("six", path), ("three", tmp_path / "nearest.ckpt")):
        output = str(tmp_path / name)
        segment_file(
            config(checkpoint=str(checkpoint), output=output, threshold=0.5, block_size=48)
        )
    for image in ("affinities", "segmentation"):
        six, three = (
            zarr.open_array(str(tmp_path / f"{name}/{image}.zarr/0"), mode="r")[...]
            for name in ("six", "three")
        )
        assert np.array_equal(six, three)


def test_results_of_another_network_are_not_mixed(config, finished_run, tmp_path):
    _, folder, _ = finished_run
    segment_file(config(threshold=0.5))
    checkpoint = dict(read_checkpoint(folder / "checkpoints" / "best.ckpt").content)
    name = next(name for name in checkpoint["state_dict"] if name.endswith("weight"))
    checkpoint["state_dict"][name] *= 1.01
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match="other inputs or options \\(weights"):
        segment_file(config(checkpoint=str(tmp_path / "other.ckpt"), threshold=0.5))
