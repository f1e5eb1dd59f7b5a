"""Checkpoints survive a full disk, load as tensors only, and are checked against the network."""

import resource
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from psc.errors import CheckpointError
from psc.training.checkpoints import (
    AtomicCheckpointIO,
    check_same_architecture,
    load_checkpoint,
    load_network_weights,
    stored_config,
)


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "a.ckpt"
    content = {"state_dict": {"network.weight": torch.randn(3)}, "psc_config": {"seed": 1}}
    AtomicCheckpointIO().save_checkpoint(content, path)
    loaded = load_checkpoint(path)
    torch.testing.assert_close(loaded["state_dict"], content["state_dict"])
    assert stored_config(loaded, path) == {"seed": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


FULL_DISK = """
    import resource, signal, sys, torch
    from psc.training.checkpoints import AtomicCheckpointIO
    from psc.errors import CheckpointError
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk: an error, not a kill
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(10**6)}}, sys.argv[1])
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit of file sizes")
def test_a_full_disk_spares_the_previous_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    before = {"state_dict": {"w": torch.ones(5)}}
    AtomicCheckpointIO().save_checkpoint(before, path)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "could not write" in result.stdout
    assert "resume=true" in result.stdout
    torch.testing.assert_close(load_checkpoint(path)["state_dict"], before["state_dict"])
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.ckpt")
    text = tmp_path / "text.ckpt"
    text.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        load_checkpoint(text)
    cut = tmp_path / "cut.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(cut)
    other = tmp_path / "other.ckpt"
    torch.save([1, 2], other)
    with pytest.raises(CheckpointError, match="no 'state_dict'"):
        load_checkpoint(other)
    with pytest.raises(CheckpointError, match="holds no configuration"):
        stored_config({"state_dict": {}}, other)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_not_executed(tmp_path, capsys):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "extra": Evil()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
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
    load_network_weights(target, {"state_dict": state}, tmp_path)
    torch.testing.assert_close(target.state_dict(), source.state_dict())
