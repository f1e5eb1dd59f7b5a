"""Weights that come with psc: what their files hold, and that nothing else passes for them."""

import json
import logging
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import psc
from psc.applications import segment_file
from psc.config.schema import SegmentConfig
from psc.em.data import read_volume
from psc.errors import CheckpointError, ConfigError, DataError
from psc.files import sha256_of
from psc.networks import weights as shipped
from psc.networks.weights import read_weights
from psc.training.checkpoints import read_checkpoint
from psc.training.records import FILE_NAME, write_record

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import weights as script  # noqa: E402

NAME = "fib25_unet_p2sc2"


@pytest.fixture(scope="session")
def of_a_run(finished_run, tmp_path_factory):
    """A folder as psc/weights, of the finished tiny run; not to be changed."""
    folder = tmp_path_factory.mktemp("shipped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "DATA", {"fibsem": ("fib25", "fibsem")})
        assert script.make(finished_run[1], folder) == folder / f"{NAME}.safetensors"
    return folder


@pytest.fixture
def folder(of_a_run, tmp_path, monkeypatch):
    """The same in place of psc/weights, to be changed."""
    place = tmp_path / "weights"
    place.mkdir()
    for path in of_a_run.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(shipped, "FOLDER", place)
    return place


@pytest.fixture
def file(folder):
    return folder / f"{NAME}.safetensors"


def test_a_name_gives_the_network_of_the_run(finished_run, folder, file):
    record, run, _ = finished_run
    trained = read_checkpoint(run / "checkpoints" / "best.ckpt")
    assert psc.list_weights() == [NAME]
    assert psc.list_weights("*_3d") == []
    for given in ("fib25", NAME, file, str(file)):
        network = psc.create("unet_p2sc2", weights=given)
        torch.testing.assert_close(network.state_dict(), trained.weights, rtol=0, atol=0)
    torch.testing.assert_close(read_weights(file), trained.weights, rtol=0, atol=0)
    hub = torch.hub.load(str(ROOT), "unet_p2sc2", source="local", weights="fib25")
    torch.testing.assert_close(hub.state_dict(), trained.weights, rtol=0, atol=0)
    checkpoint = read_checkpoint(file)
    assert checkpoint.digest == trained.digest
    assert (checkpoint.config.recipe, checkpoint.iterations) == (
        trained.config.recipe,
        trained.iterations,
    )
    card = (folder / f"{NAME}.md").read_text(encoding="utf-8")
    expected = f"threshold | {record.metrics['threshold']:g} of", "CC BY", "[36:48]", "must not"
    for part in (*expected, record.git["commit"], "Janelia FlyEM", "seed 0", "8 × 8 × 8 nm"):
        assert part in card
    assert f"VI {record.metrics['test']['total']:.3f} bits" in card
    assert sha256_of(file) in card


def test_the_file_is_of_the_format(file):
    """Read as the format's description says, without our reader."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    told = header.pop("__metadata__")
    assert all(isinstance(value, str) for value in told.values())
    assert length % 8 == 0
    assert told["network"] == "unet_p2sc2"
    assert json.loads(told["grey_range"]) == [0, 255]
    assert json.loads(told["voxel_size"]) == [8, 8, 8]
    assert json.loads(told["offsets"])[0] == [-1, 0, 0]
    end = 0
    for name, tensor in read_weights(file).items():
        entry = header.pop(name)
        first, last = entry["data_offsets"]
        assert (entry["dtype"], first) == ("F32", end)
        data = content[8 + length + first : 8 + length + last]
        assert np.array_equal(np.frombuffer(data, "<f4").reshape(entry["shape"]), tensor)
        end = last
    assert not header
    assert 8 + length + end == len(content)


def test_every_type_of_tensor_comes_back():
    tensors = {
        str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in shipped._TYPES.values()
    }
    tensors |= {"none": torch.zeros(0, 2), "scalar": torch.tensor(3)}
    content = shipped.safetensors_of(tensors, {"ä": "ö"})
    path = Path("x.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda _: content)
        found, told = shipped.read_safetensors(path)
    torch.testing.assert_close(found, tensors, rtol=0, atol=0)
    assert told["ä"] == "ö"


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        (
            "unet_p1sc1",
            "fib25",
            CheckpointError,
            f"none of that name for unet_p1sc1; it has {NAME}",
        ),
        ("unet_p2sc2", "fib26", CheckpointError, f"no weights at fib26, .* it has {NAME}"),
        ("unet_3d", NAME, CheckpointError, "has weights of unet_p2sc2, not of unet_3d"),
        ("unet_p2sc2", "fib25.safetensors", CheckpointError, "no weights at fib25.safetensors"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_other_weights_are_refused(name, weights, error, message):
    with pytest.raises(error, match=message):
        psc.create(name, weights=weights)


@pytest.mark.usefixtures("folder")
def test_arguments_of_another_network_are_refused():
    with pytest.raises(CheckpointError, match="the network needs"):
        psc.create("unet_p2sc2", weights="fib25", out_channels=5)


def test_damaged_and_exchanged_files_are_refused(file):
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(CheckpointError, match=r"is missing; install psc again"):
        psc.create("unet_p2sc2", weights="fib25")
    other = psc.create("unet_p2sc2", base_width=4, depth=1).state_dict()
    for exchanged in (shipped.safetensors_of(other, {}), whole[:-1] + bytes([whole[-1] ^ 1])):
        file.write_bytes(exchanged)
        with pytest.raises(CheckpointError, match="damaged or exchanged"):
            psc.create("unet_p2sc2", weights="fib25")
    with pytest.raises(CheckpointError, match="its tensors are not those"):
        read_checkpoint(file)  # by its path, too


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: b"",
        lambda c: c[:7],
        lambda c: c[:100],
        lambda c: c[:-4],
        lambda c: c + b"more",
        lambda c: b"\xff" * 8 + c[8:],
        lambda c: c.replace(b'"F32"', b'"F99"', 1),
        lambda c: c.replace(b'"shape": [', b'"shape": [7', 1),
        lambda c: (2).to_bytes(8, "little") + b"[]",
        lambda c: (8).to_bytes(8, "little") + b'{"a": 1}',
    ],
)
def test_damage_is_told_in_words(file, damage):
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=r"is damaged or no file of safetensors"):
        read_weights(file)


def test_weights_of_others_are_no_checkpoint(tmp_path):
    path = tmp_path / "x.safetensors"
    network = psc.create("unet_3d", base_width=4, depth=1)
    path.write_bytes(shipped.safetensors_of(network.state_dict(), {}))
    psc.create("unet_3d", base_width=4, depth=1, weights=path)
    with pytest.raises(CheckpointError, match="does not say how its network was trained"):
        read_checkpoint(path)


@pytest.fixture
def config(folder, tiny_volume, tmp_path):
    places = {"input": str(tiny_volume), "output": str(tmp_path / "neurons")}
    rest = {"block_size": 16, "accelerator": "cpu", "progress": False}
    return lambda **changes: SegmentConfig(**{"weights": NAME, **places, **rest, **changes})


def test_a_volume_is_segmented_as_by_the_run(config, finished_run, tmp_path, caplog):
    record, run, _ = finished_run
    with caplog.at_level(logging.WARNING):
        segment_file(config())
    assert not caplog.records
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    segment_file(config(weights=None, checkpoint=checkpoint, output=str(tmp_path / "by_run")))
    for name in ("affinities", "segmentation"):
        a, b = (
            zarr.open_array(str(tmp_path / f"{place}/{name}.zarr/0"), mode="r")[...]
            for place in ("neurons", "by_run")
        )
        assert np.array_equal(a, b)
    told = json.loads((tmp_path / "neurons" / "blockwise.json").read_text())
    assert f'"threshold": {record.metrics["threshold"]}' in json.dumps(told)


def test_what_differs_from_what_was_learnt_is_said(config, tiny_volume, tmp_path, caplog):
    raw = read_volume(tiny_volume).raw
    segment_file(config(voxel_size=[40.0, 4.0, 4.0]))
    assert "trained on voxels of 8 × 8 × 8 nm, these are of 40 × 4 × 4" in caplog.text
    zarr.create_array(str(tmp_path / "em.zarr"), data=raw.astype(np.uint16) * 257)
    other = {"input": str(tmp_path / "em.zarr"), "output": str(tmp_path / "other")}
    with pytest.raises(DataError, match=r"holds uint16 .* outside \[0,255\], what the network was"):
        segment_file(config(**other))
    assert "these are of unknown size" in caplog.text
    assert not (tmp_path / "other").exists()


def test_unknown_names_and_none_are_refused(config):
    with pytest.raises(ConfigError, match=f"no weights 'fib25_unet_p2sc3'; the nearest are {NAME}"):
        segment_file(config(weights="fib25_unet_p2sc3"))
    for changes in ({"weights": None}, {"checkpoint": "x.ckpt"}):
        with pytest.raises(ConfigError, match=r"give checkpoint=… .* or weights=… .*, one of them"):
            config(**changes)


def test_of_seeds_that_of_the_lowest_vi_on_validation_is_taken(finished_run, tmp_path, monkeypatch):
    record, run, _ = finished_run
    monkeypatch.setattr(script, "DATA", {"fibsem": ("fib25", "fibsem")})

    def seed(number, validation, test, **recipe):
        config = record.config | {"seed": number, "recipe": record.config["recipe"] | recipe}
        scores = {"validation": {"total": validation}}
        scores["test"] = record.metrics["test"] | {"total": test}
        metrics = record.metrics | scores
        folder = tmp_path / f"{number}{len(recipe)}"
        folder.mkdir()
        write_record(replace(record, seed=number, config=config, metrics=metrics), folder)
        (folder / "checkpoints").symlink_to(run / "checkpoints")
        return folder

    runs = [seed(2, 1.5, 0.5), seed(0, 1.25, 2.0), seed(1, 1.75, 1.0)]
    assert script.best_of(runs) == {runs[1]: [0, 1, 2]}
    script.main([*map(str, runs), "--output", str(tmp_path / "made")])
    card = (tmp_path / "made" / f"{NAME}.md").read_text(encoding="utf-8")
    assert "seed 0 (of 0, 1, 2 the one of the lowest VI on validation)" in card
    assert "VI 2.000 bits" in card
    with pytest.raises(ConfigError, match="differ in more than their seed; name one"):
        script.best_of([*runs, seed(3, 1.0, 1.0, batch_size=7)])


def test_what_may_not_or_cannot_be_passed_on_is_refused(finished_run, tmp_path, monkeypatch):
    _, run, _ = finished_run
    with pytest.raises(
        ConfigError, match="of dataset=fibsem no weights are passed on, of fibsem_s"
    ):
        script.make(run, tmp_path)
    monkeypatch.setattr(script, "DATA", {"fibsem": ("fib25", "fibsem")})
    monkeypatch.setattr(script, "LARGEST", 100)
    with pytest.raises(ConfigError, match="of at most 100 bytes"):
        script.make(run, tmp_path)
    with pytest.raises(DataError, match="no record at"):
        script.make(tmp_path, tmp_path)
    changed = tmp_path / "run"
    (changed / "checkpoints").mkdir(parents=True)
    (changed / "checkpoints" / "best.ckpt").symlink_to(run / "checkpoints" / "best.ckpt")
    text = (run / FILE_NAME).read_text()
    (changed / FILE_NAME).write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DataError, match="seal"):
        script.make(changed, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", psc.list_weights())
def test_what_comes_with_psc_is_whole_small_and_described(name):
    path = shipped.weights_file(name)
    assert path.stat().st_size <= 4_000_000
    told = shipped.read_safetensors(path)[1]
    network = psc.create(told["network"], weights=name.removesuffix(f"_{told['network']}"))
    assert sum(p.numel() for p in network.parameters()) > 100_000
    checkpoint = read_checkpoint(path)
    assert checkpoint.network().state_dict().keys() == network.state_dict().keys()
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    for part in (name, told["commit"], told["attribution"], "must not be used for"):
        assert part in card
    assert f"({sum(p.numel() for p in network.parameters()):,} parameters)" in card
