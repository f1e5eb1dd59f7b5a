"""A checkpoint of train.py, converted by the command line, and used by all programs again."""

import functools
import importlib.util
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import tiny_brains
import torch
import zarr
from torch.utils.flop_counter import FlopCounterMode

from psc.applications import build_application, segment_file
from psc.config import compose
from psc.config.schema import EvaluateConfig, SegmentConfig
from psc.conversion import SeparableConv3d
from psc.errors import CheckpointError, ConfigError
from psc.networks.build import build_network
from psc.paper.groups import differences, record_settings, settings
from psc.training.callbacks import Throughput
from psc.training.checkpoints import (
    CONFIG_KEY,
    CONVERSION_KEY,
    NETWORK_PREFIX,
    initial_weights,
    read_checkpoint,
)
from psc.training.evaluation import evaluate_checkpoint
from psc.training.training import train
from psc.volumes import output

SCRIPT = Path(__file__).parents[2] / "scripts" / "convert.py"
SMALL = ["backbone.base_width=4", "backbone.growth=2", "backbone.depth=1"]
CONVERSION = ["m=2", "width=exact"]


@functools.cache
def composed(*overrides):
    """A configuration, composed once; not to be changed."""
    return compose(overrides)


def config_of(block):
    return composed("backbone=unet", f"block={block}", *SMALL)


def network_of(path, config):
    return read_checkpoint(path).network().eval()


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("convert_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def trained(tmp_path):
    """Function: a checkpoint as train.py writes it, of an untrained network, and that network."""

    def write(config):
        torch.manual_seed(0)
        network = build_network(config.backbone, config.block)
        weights = {f"{NETWORK_PREFIX}{k}": v for k, v in network.state_dict().items()}
        path = tmp_path / "best.ckpt"
        content = {"state_dict": weights, "global_step": 7, CONFIG_KEY: asdict(config)}
        content["psc_seen"] = {"train": ["a"]}
        torch.save(content, path)
        return path, network.eval()

    return write


@pytest.mark.parametrize("options", [["m=1", "merge=sum"], ["m=2", "exclude=[decoder]"]])
def test_an_exact_conversion_of_a_checkpoint_is_the_same_network(
    command, trained, tmp_path, capsys, options
):
    path, network = trained(config_of("3d"))
    arguments = [f"checkpoint={path}", f"output={tmp_path}/new.ckpt", "width=exact"]
    command([*arguments, f"report={tmp_path}/report.json", *options])
    converted = network_of(tmp_path / "new.ckpt", config_of("3d"))
    x = torch.randn(1, 1, 20, 20, 20)
    with torch.no_grad():
        assert torch.allclose(converted(x), network(x), atol=1e-5)
    report = json.loads((tmp_path / "report.json").read_text())
    layers = sum(isinstance(part, SeparableConv3d) for part in converted.modules())
    assert layers == sum(row["status"] == "converted" for row in report["layers"]) > 2
    assert f"total, {layers} of" in capsys.readouterr().out
    written = read_checkpoint(tmp_path / "new.ckpt").content
    assert (written["global_step"], written["psc_seen"]) == (7, {"train": ["a"]})
    with pytest.raises(ConfigError, match="overwrite=true"):
        command(arguments)
    with pytest.raises(ConfigError, match="converted already"):
        command([f"checkpoint={tmp_path}/new.ckpt", f"output={tmp_path}/again.ckpt"])


@pytest.mark.parametrize(
    ("report", "message"),
    [("best.ckpt", "is the input"), ("new.ckpt", "is the output, too"), ("mine.json", "exists")],
)
def test_a_report_replaces_nothing(command, trained, tmp_path, report, message):
    path, _ = trained(config_of("3d"))
    (tmp_path / "mine.json").write_text("mine")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"report=.* {message}"):
        command(
            [f"checkpoint={path}", f"output={tmp_path}/new.ckpt", f"report={tmp_path}/{report}"]
        )
    assert path.read_bytes() == before
    assert (tmp_path / "mine.json").read_text() == "mine"
    assert not (tmp_path / "new.ckpt").exists()


def test_what_cannot_be_converted_is_said(command, trained, tmp_path):
    path, _ = trained(config_of("p1sc1"))
    output = tmp_path / "new.ckpt"
    for options, message in (
        ([], "no 3D convolution to convert"),
        (["width=wide"], "width must be eq5, exact or a number"),
        (["init=best"], "init must be one of"),
        (["m=5"], "m=5"),
        (["match_steps=-1"], "match_steps must not be negative"),
        (["accelerator=tpu"], "accelerator=tpu"),
    ):
        with pytest.raises(ConfigError, match=message):
            command([f"checkpoint={path}", f"output={output}", *options])
        assert not output.exists()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        command([f"checkpoint={tmp_path}/none.ckpt", f"output={output}"])


@pytest.fixture(scope="module")
def run_3d(finished_run, command, tmp_path_factory):
    """Overrides and record of a finished tiny run with 3D convolutions, and it converted exactly.

    Not to be changed. The converted checkpoint lies beside the run's own.
    """
    runs = tmp_path_factory.mktemp("converted") / "runs"
    common = [text for text in finished_run[2] if not text.startswith("block=")]
    overrides = [*common, "block=3d", "recipe.iterations=2", f"output_directory={runs}"]
    record = train(composed(*overrides))
    checkpoints = runs / record.run / "checkpoints"
    converted = checkpoints / "converted.ckpt"
    command([f"checkpoint={checkpoints}/best.ckpt", f"output={converted}", *CONVERSION])
    return overrides, record, converted


def test_evaluating_an_exact_conversion_gives_the_scores_of_the_original(run_3d, tmp_path):
    overrides, record, converted = run_3d
    config = EvaluateConfig(checkpoint=str(converted), accelerator="cpu", output=f"{tmp_path}/out")
    again = evaluate_checkpoint(config)
    assert again.metrics["threshold"] == record.metrics["threshold"]
    assert again.metrics["test"] == pytest.approx(record.metrics["test"], abs=1e-6)
    # Scores of so short a training are coarse: what they are computed from tells more.
    folders = (converted.parents[1] / "evaluation", tmp_path / "out")
    before, after = (_affinities(folder / "test-0.h5") for folder in folders)
    # They are kept in half precision: where a rounding tips over, they are neighbours.
    assert np.abs(after.view(np.int16).astype(int) - before.view(np.int16)).max() <= 1
    assert np.mean(after == before) > 0.999
    config = composed(*overrides)
    network = network_of(converted, config)
    assert again.parameters == sum(p.numel() for p in network.parameters())
    assert again.parameters != record.parameters
    assert again.data["conversion"]["m"] == 2
    assert "conversion" not in record.data
    # Its configuration is the original's, but no table takes it for that.
    wanted = settings(asdict(config))
    assert not differences(record_settings(record, tmp_path), wanted)
    assert differences(record_settings(again, tmp_path), wanted) == ["converted=True and not False"]


def _affinities(path):
    with h5py.File(path) as file:
        return file[output.AFFINITIES][:]


def test_neurons_are_segmented_by_a_converted_network(run_3d, tiny_volume, tmp_path, caplog):
    _, record, converted = run_3d
    affinities = []
    for name in ("best.ckpt", converted.name):
        caplog.clear()
        options = {"block_size": 24, "accelerator": "cpu", "progress": False}
        folder = tmp_path / name
        with caplog.at_level(logging.INFO):
            segment_file(
                SegmentConfig(
                    checkpoint=str(converted.with_name(name)),
                    input=str(tiny_volume),
                    output=str(folder),
                    **options,
                )
            )
        warned = "before its conversion" in caplog.text
        assert warned == (name == converted.name)
        assert f"threshold {record.metrics['threshold']:g}" in caplog.text
        stored = zarr.open_array(str(folder / "affinities.zarr/0"), mode="r")[...]
        affinities.append(stored.astype(int))
    assert affinities[0].std() > 0
    assert abs(affinities[0] - affinities[1]).max() <= 1  # of 255, where a rounding tips over
    assert np.mean(affinities[0] == affinities[1]) > 0.999


@pytest.mark.parametrize("activation", ["true", "false"])
def test_pairs_become_blocks_matched_to_the_original_and_are_trained_on(
    run_3d, command, tmp_path, capsys, activation
):
    overrides, _, converted = run_3d
    path, report = tmp_path / "pairs.ckpt", tmp_path / "report.json"
    best = converted.with_name("best.ckpt")
    options = [
        "m=2",
        "n=2",
        f"activation={activation}",
        "match_steps=4",
        "match_learning_rate=0.002",
    ]
    command([f"checkpoint={best}", f"output={path}", f"report={report}", *options])
    assert "feature matching: loss" in capsys.readouterr().out
    written = json.loads(report.read_text())
    losses = written["matching_losses"]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert read_checkpoint(path).content[CONVERSION_KEY]["runs"] == written["runs"]
    pairs = len(written["runs"])
    config = composed(*overrides)
    network = network_of(path, config)
    blocks = [part for part in network.modules() if isinstance(part, SeparableConv3d)]
    assert sum(block.n == 2 for block in blocks) == pairs > 2
    if activation == "false":
        return
    record = train(replace(config, output_directory=f"{tmp_path}/runs", initial_weights=str(path)))
    assert record.data["conversion"]["n"] == 2
    assert record.parameters == sum(p.numel() for p in network.parameters())


def test_channels_are_corrected_on_training_data(run_3d, command, tmp_path):
    overrides, _, converted = run_3d
    best, config = converted.with_name("best.ckpt"), composed(*overrides)
    networks = [network_of(best, config)]
    for calibrated in ("true", "false"):
        path = tmp_path / f"{calibrated}.ckpt"
        command([f"checkpoint={best}", f"output={path}", "m=2", f"calibrate={calibrated}"])
        networks.append(network_of(path, config))
    data = build_application(config).training_data(networks[0], 0)
    raw = torch.stack([data.training[i]["raw"] for i in (90, 91)])  # others than it was done on
    with torch.no_grad():
        original, corrected, plain = (network(raw) for network in networks)
    assert (corrected - original).norm() < (plain - original).norm()


def test_tissues_are_segmented_by_a_converted_network(command, trained, tmp_path):
    config = compose([*tiny_brains.overrides(tmp_path), "block=3d"])
    path, _ = trained(config)
    command([f"checkpoint={path}", f"output={tmp_path}/new.ckpt", *CONVERSION])
    tiny_brains.write_subject(tmp_path, 1)
    results = []
    for name in (path.name, "new.ckpt"):
        labels = tmp_path / f"{name}.nii.gz"
        source = tmp_path / "IBSR_01" / "IBSR_01_ana_strip.nii.gz"
        segment_file(
            SegmentConfig(
                checkpoint=str(tmp_path / name),
                input=str(source),
                output=str(labels),
                accelerator="cpu",
            )
        )
        results.append(np.asanyarray(nibabel.load(labels).dataobj))
    assert len(np.unique(results[0])) > 1
    assert np.mean(results[0] == results[1]) > 0.999


class KilledError(Exception):
    """Stands for whatever ends a process between two iterations."""


def test_a_converted_network_is_fine_tuned_resumed_evaluated_and_begun_with_again(
    run_3d, tmp_path, monkeypatch
):
    overrides, original, converted = run_3d
    untuned = composed(*overrides)
    tuned = replace(
        untuned,
        output_directory=f"{tmp_path}/runs",
        initial_weights=str(converted),
        recipe=replace(untuned.recipe, iterations=4),
    )
    counted = Throughput.on_train_batch_end

    def killed(self, trainer, *args):
        counted(self, trainer, *args)
        if trainer.global_step == 3:  # one iteration after the checkpoint of step 2
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Throughput, "on_train_batch_end", killed)
        with pytest.raises(KilledError):
            train(tuned)
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    assert read_checkpoint(last).content["global_step"] == 2

    with pytest.raises(CheckpointError, match=r"converted by .*begins with one that is not conv"):
        train(replace(untuned, output_directory=f"{tmp_path}/other", resume=str(last)))

    record = train(replace(tuned, resume=True))
    assert record.run == folder.name
    assert record.iterations == read_checkpoint(last).content["global_step"] == 4
    key = read_checkpoint(converted).content[CONVERSION_KEY]
    assert read_checkpoint(last).content[CONVERSION_KEY] == record.data["conversion"] == key
    network = network_of(best, tuned)
    moved = network_of(converted, tuned).state_dict()
    assert any(not torch.equal(moved[k], v) for k, v in network.state_dict().items())
    assert record.parameters == sum(p.numel() for p in network.parameters())
    assert record.parameters != original.parameters
    shape = tuned.recipe.sample_shape(network)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(shape))
    flops = 3 * tuned.recipe.batch_size * counter.get_total_flops()
    assert record.throughput["gflop_per_iteration"] == pytest.approx(flops / 1e9)
    assert flops / 1e9 != original.throughput["gflop_per_iteration"]

    out = EvaluateConfig(checkpoint=str(best), accelerator="cpu", output=f"{tmp_path}/out")
    again = evaluate_checkpoint(out)
    assert again.metrics == record.metrics
    assert again.data["conversion"] == key

    further = replace(untuned, initial_weights=str(best))
    fresh = build_network(further.backbone, further.block)
    initial_weights(further).load_into(fresh)
    torch.testing.assert_close(fresh.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_a_wrong_combination_is_refused_before_data_are_read(run_3d, tmp_path):
    overrides, _, converted = run_3d
    config = composed(*overrides, "dataset.train=[{raw:/nowhere.h5}]")
    original = r"was converted after it was trained with {}=.*; give the original network's"
    block, backbone = composed("block=p2sc2", "backbone=unet").block, config.backbone
    for part, other in (("block", block), ("backbone", replace(backbone, base_width=8))):
        changed = replace(config, initial_weights=str(converted), **{part: other})
        with pytest.raises(CheckpointError, match=original.format(part)):
            train(changed)
    content = dict(read_checkpoint(converted).content)
    for change, message in (
        ({"m": 1}, "another backbone, block or width"),
        ({"m": 7}, "cannot be converted so"),
        ({"include": ["layer9"]}, "cannot be converted so"),
        ({"width": 5}, "cannot be converted so"),
        ({"rank": 1}, "converted by another version of this code"),
    ):
        wrong = tmp_path / "wrong.ckpt"
        torch.save({**content, CONVERSION_KEY: {**content[CONVERSION_KEY], **change}}, wrong)
        with pytest.raises(CheckpointError, match=message):
            train(replace(config, initial_weights=str(wrong)))
    with pytest.raises(CheckpointError, match=message):
        evaluate_checkpoint(EvaluateConfig(checkpoint=str(wrong), output=f"{tmp_path}/out"))
    with pytest.raises(CheckpointError, match=r"no training to resume; .*initial_weights="):
        train(replace(composed(*overrides), output_directory=str(tmp_path), resume=str(converted)))
    assert not list(tmp_path.rglob("config.json"))
