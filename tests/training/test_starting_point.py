"""What a training may begin with, where the checkpoint is of earlier code."""

from dataclasses import asdict

import pytest
import torch

from psc.config import compose
from psc.errors import CheckpointError
from psc.networks.build import build_network
from psc.training.checkpoints import CONFIG_KEY, NETWORK_PREFIX, first_step, initial_weights
from psc.training.folder import RunFolder

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
    assert first_step(RunFolder(path.parent, path), asdict(config), resumed, None) == 7
    initial_weights(config).copy_into(tuned)
    for network in (resumed, tuned):
        torch.testing.assert_close(network.state_dict(), trained.state_dict())


def test_it_is_refused_by_a_network_that_sums(earlier_checkpoint):
    path, _ = earlier_checkpoint
    config = compose([*SMALL, "block=p2sc2", "block.merge=sum", f"initial_weights={path}"])
    with pytest.raises(CheckpointError, match=r"'merge': 'concatenate'.*this run has.*'sum'"):
        initial_weights(config)
