"""Checkpoints survive a full disk, load as tensors only, and are checked against the network."""

import resource
import signal
from dataclasses import asdict

import pytest
import torch
from torch import nn

from psc.config import compose
from psc.errors import CheckpointError, DataError
from psc.networks.build import build_network
from psc.training.checkpoints import (
    CONFIG_KEY,
    NETWORK_PREFIX,
    AtomicCheckpointIO,
    Checkpoint,
    check_same_architecture,
    initial_weights,
    read_checkpoint,
    resumed_step,
)


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "a.ckpt"
    content = {"state_dict": {"network.weight": torch.randn(3)}, "psc_config": {"seed": 1}}
    AtomicCheckpointIO().save_checkpoint(content, path)
    loaded = read_checkpoint(path)
    torch.testing.assert_close(loaded.content["state_dict"], content["state_dict"])
    assert loaded.content["psc_config"] == {"seed": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit of file sizes")
def test_a_full_disk_spares_the_previous_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    before = {"state_dict": {"w": torch.ones(5)}}
    AtomicCheckpointIO().save_checkpoint(before, path)
    # As a full disk: an error, not a signal.
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DataError, match=r"cannot be written(.|\n)*resume=true"):
            AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(10**6)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    torch.testing.assert_close(read_checkpoint(path).content["state_dict"], before["state_dict"])
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "none.ckpt")
    text = tmp_path / "text.ckpt"
    text.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        read_checkpoint(text)
    cut = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(cut)
    other = tmp_path / "other.ckpt"
    torch.save([1, 2], other)
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        read_checkpoint(other)
    with pytest.raises(CheckpointError, match="holds no configuration"):
        _ = Checkpoint(other, {"state_dict": {}}).config


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_not_executed(tmp_path, capsys):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "extra": Evil()}, path)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert "executed" not in capsys.readouterr().out


def test_another_architecture_names_the_first_difference(tmp_path):
    network = nn.Conv3d(1, 2, 3)
    own = network.state_dict()
    path = tmp_path / "x.ckpt"
    check_same_architecture(network, own, path)
    with pytest.raises(CheckpointError, match="no parameter bias"):
        check_same_architecture(network, {"weight": own["weight"]}, path)
    wrong = own | {"weight": torch.zeros(2, 1, 3, 3, 1)}
    with pytest.raises(CheckpointError, match=r"weight has shape \(2, 1, 3, 3, 1\)"):
        check_same_architecture(network, wrong, path)
    with pytest.raises(CheckpointError, match="network lacks, extra"):
        check_same_architecture(network, own | {"extra": torch.zeros(1)}, path)


def test_weights_are_found_under_the_tasks_prefix(tmp_path):
    source, target = nn.Linear(2, 2), nn.Linear(2, 2)
    state = {f"network.{k}": v for k, v in source.state_dict().items()} | {"loss.x": torch.ones(1)}
    Checkpoint(tmp_path, {"state_dict": state}).load_weights(target)
    torch.testing.assert_close(target.state_dict(), source.state_dict())


# What a training may begin with, where the checkpoint is of earlier code.

SMALL = ("backbone=unet", "backbone.base_width=4", "backbone.growth=2", "backbone.depth=1")


@pytest.fixture
def earlier_checkpoint(tmp_path):
    """A P_2SC_2's, by code that could only concatenate, and its network."""
    config = compose([*SMALL, "block=p2sc2"])
    network = build_network(config.backbone, config.block)
    stored = asdict(config)
    del stored["block"]["merge"]
    weights = {f"{NETWORK_PREFIX}{name}": value for name, value in network.state_dict().items()}
    content = {"state_dict": weights, "optimizer_states": [], "global_step": 7, CONFIG_KEY: stored}
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    return path, network


def test_a_checkpoint_without_a_key_that_came_later_is_resumed_and_fine_tuned(earlier_checkpoint):
    path, trained = earlier_checkpoint
    config = compose([*SMALL, "block=p2sc2", f"initial_weights={path}"])
    resumed, tuned = (build_network(config.backbone, config.block) for _ in range(2))
    assert resumed_step(path, config, resumed, None) == 7
    initial_weights(config).load_into(tuned)
    for network in (resumed, tuned):
        torch.testing.assert_close(network.state_dict(), trained.state_dict())


def test_it_is_refused_by_a_network_that_sums(earlier_checkpoint):
    path, _ = earlier_checkpoint
    config = compose([*SMALL, "block=p2sc2", "block.merge=sum", f"initial_weights={path}"])
    with pytest.raises(CheckpointError, match=r"'merge': 'concatenate'.*this run has.*'sum'"):
        initial_weights(config)
