"""A run in this process: its record, its folder, its resume, its reproducibility."""

import logging
import time
from types import SimpleNamespace

import pytest
import torch

from psc.config import compose
from psc.errors import CheckpointError, ConfigError, DataError, DivergenceError
from psc.networks.build import build_network
from psc.training.callbacks import Throughput, duration
from psc.training.checkpoints import read_checkpoint
from psc.training.loggers import read_metrics
from psc.training.records import read_record
from psc.training.training import train


def run(overrides, *more):
    return train(compose([*overrides, *more]))


def folder_of(record, tmp_path):
    return tmp_path / "runs" / record.run


def test_a_run_leaves_its_record_and_everything_needed_to_trust_it(finished_run):
    record, folder, overrides = finished_run
    assert read_record(folder) == record
    config = compose(overrides)
    network = build_network(config.backbone, config.block)
    assert record.parameters == sum(p.numel() for p in network.parameters())
    assert record.iterations == 6
    assert record.config["block"]["name"] == "p2sc2"
    assert record.data["kind"] == "real"
    assert len(record.data["files"]) == 1
    assert len(record.data["files"][0]["sha256"]) == 64
    assert record.versions["torch"] == torch.__version__.split("+")[0]
    assert record.hardware["accelerator"] == "cpu"
    # 16³ voxels, two patches, 3× the forward pass; by hand: every convolution of the network
    macs = sum(
        module.weight.numel() * 16**3 / (8 if "encoder.1" in name else 1)
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Conv3d) and "reduce" not in name
    )
    up = sum(p.numel() * 8**3 for p in network.upsample.parameters())
    macs += up + sum(c.weight.numel() * 16**3 for c in network.reduce)
    assert record.throughput["gflop_per_iteration"] == pytest.approx(2 * 3 * 2 * macs / 1e9)
    rows = read_metrics(folder / "metrics.csv")
    assert [row["step"] for row in rows if row["validation/loss"]] == ["1", "3", "5"]
    for name in (
        "config.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "evaluation/test-0.png",
        "evaluation/thresholds.png",
    ):
        assert (folder / name).stat().st_size > 0


def test_checkpoints_that_are_kept_on_the_way_are_tested_as_the_best_is(tiny_run, tmp_path):
    record = run(tiny_run, "trainer.test_every=2")
    folder = folder_of(record, tmp_path)
    assert folder.name == run(tiny_run, "resume=true").run  # the same computation
    best = read_checkpoint(folder / "checkpoints/best.ckpt").iterations
    found = {entry["iterations"]: entry for entry in record.metrics["by_iteration"]}
    assert list(found) == [2, 4, 6]
    for key in ("threshold", "validation", "test"):
        assert found[best][key] == record.metrics[key]
    assert not list(folder.glob(".test-*"))
    with pytest.raises(ConfigError, match=r"trainer\.test_every=3: must be a multiple of 2"):
        run(tiny_run, "trainer.test_every=3")


def weights(folder, name="last.ckpt"):
    return read_checkpoint(folder / "checkpoints" / name).content["state_dict"]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    finished_run, tiny_run, tmp_path
):
    first = weights(finished_run[1])
    again, other = (
        weights(folder_of(run(tiny_run, "block=p2sc2", f"seed={seed}"), tmp_path))
        for seed in (0, 1)
    )
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert any(not torch.equal(first[k], v) for k, v in other.items())


class KilledError(Exception):
    """Stands for whatever ends a process between two iterations."""


def test_a_killed_run_resumes_to_the_very_weights_of_an_uninterrupted_one(
    finished_run, tiny_run, tmp_path, monkeypatch
):
    whole, expected = finished_run[0], weights(finished_run[1])
    tiny_run = [*tiny_run, "block=p2sc2"]

    counted = Throughput.on_train_batch_end

    def killed(self, trainer, *args):
        counted(self, trainer, *args)
        if trainer.global_step == 5:  # one iteration after the checkpoint of step 4
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Throughput, "on_train_batch_end", killed)
        with pytest.raises(KilledError):
            run(tiny_run)
    (folder,) = (tmp_path / "runs").iterdir()
    assert not (folder / "result.json").exists()

    resumed = run(tiny_run, "resume=true")
    assert folder_of(resumed, tmp_path) == folder
    assert resumed.iterations == 6
    torch.testing.assert_close(weights(folder), expected, rtol=0, atol=0)
    rows = read_metrics(folder / "metrics.csv")
    assert [row["step"] for row in rows if row["validation/loss"]] == ["1", "3", "5"]
    assert resumed.metrics == whole.metrics

    again = run(tiny_run, "resume=true")  # finished: nothing to do
    assert again == resumed


def test_the_last_checkpoint_is_the_last_even_if_validation_does_not_improve(tiny_run, tmp_path):
    """Lightning's save_last follows the best checkpoint and would resume from an old one."""
    rate = ["recipe.optimizer.learning_rate=0.3", "recipe.schedule.name=constant"]
    record = run(tiny_run, *rate, "trainer.progress_bar=true")  # which Lightning must close, too
    folder = folder_of(record, tmp_path)
    rows = read_metrics(folder / "metrics.csv")
    losses = [float(row["validation/loss"]) for row in rows if row["validation/loss"]]
    assert losses[-1] > min(losses)  # or this tests nothing
    steps = {
        name: read_checkpoint(folder / "checkpoints" / f"{name}.ckpt").content["global_step"]
        for name in ("best", "last")
    }
    assert steps == {"best": 2 * (1 + losses.index(min(losses))), "last": 6}
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]


def test_a_checkpoint_of_another_architecture_is_refused(finished_run, tiny_run):
    last = finished_run[1] / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match="another backbone, block or width"):
        run(tiny_run, "block=3d", f"resume={last}")
    with pytest.raises(CheckpointError, match=r"with batch_size=.*begin by initial_weights="):
        run(tiny_run, "recipe.batch_size=3", f"resume={last}")
    config = compose([*tiny_run, "block=p1sc1"])
    network = build_network(config.backbone, config.block)
    with pytest.raises(CheckpointError, match="network needs"):
        read_checkpoint(last).load_weights(network)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("dataset.train=[{raw:/nowhere/x.h5}]", DataError, "does not exist"),
        ("dataset.train=[{raw:$NOT_SET/x.h5}]", DataError, "environment variable is not set"),
        ("dataset.train.0.raw_key=volumes/grey", DataError, "volumes/raw"),
        ("dataset.train.0.z=[0,8]", DataError, "output"),
        ("dataset.test.0.z=[36,90]", ConfigError, "inside the volume"),
        ("trainer.strategy=magic", ConfigError, "trainer.*strategy=magic"),
    ],
)
def test_bad_input_is_refused_before_training(tiny_run, tmp_path, override, error, message):
    with pytest.raises(error, match=message):
        run(tiny_run, override)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_diverged_training_ends_with_the_remedy_and_without_a_record(tiny_run, tmp_path):
    with pytest.raises(DivergenceError, match="diverged"):
        run(tiny_run, "recipe.optimizer.learning_rate=1e30", "recipe.loss=squared_error")
    assert not list(tmp_path.rglob("result.json"))


def test_max_minutes_ends_a_run_early_with_a_complete_record(tiny_run):
    record = run(
        tiny_run,
        "recipe.iterations=100000",
        "recipe.validate_every=100000",
        "recipe.max_minutes=0.005",
    )
    assert 0 < record.iterations < 100_000
    assert record.metrics["test"]["total"] > 0


def leveldb_log(file):
    """What W&B's file holds: records cut at blocks of 32 KiB, each part behind 7 bytes.

    Nothing while it is being written.
    """
    parts, place, block = [], 7, 32_768
    while place + 7 <= len(file):
        if block - place % block < 7:
            place += block - place % block  # filled with zeros
            continue
        start, size = place + 7, int.from_bytes(file[place + 4 : place + 6], "little")
        parts.append(file[start : start + size])
        place = start + size
    return b"".join(parts) if place == len(file) else b""


def test_wandb_offline_without_a_login(tiny_run, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    record = run(tiny_run, "logger=wandb", "recipe.iterations=2", "logger.group=table-6d")
    folder = folder_of(record, tmp_path)
    (offline,) = (folder / "wandb").glob("offline-run-*")
    import wandb

    assert wandb.run is None  # finished
    (sent,) = offline.glob("*.wandb")  # what `wandb sync` would send, text as it is
    texts = [text.encode() for text in ("table-6d", "unet p2sc2", "test/total", record.run)]
    content, until = b"", time.monotonic() + 60
    while not all(text in content for text in texts) and time.monotonic() < until:
        time.sleep(0.1)  # a process of W&B's own writes it; finishing does not wait for the file
        content = leveldb_log(sent.read_bytes())
    for text in texts:
        assert text in content
    drawn = {path.stem for path in (folder / "evaluation").glob("*.png")}
    kept = {path.name for path in (offline / "files/media/images/evaluation").glob("*.png")}
    assert drawn
    assert all(any(name.startswith(f"{stem}_") for name in kept) for stem in drawn)


def test_fine_tuning_begins_with_the_weights_of_a_checkpoint_and_says_so(
    tiny_run, tmp_path, finished_run
):
    first, folder, _ = finished_run
    best = folder / "checkpoints" / "best.ckpt"
    still = ("recipe.optimizer.learning_rate=1e-30", "recipe.iterations=2", "block=p2sc2")
    record = run(tiny_run, f"initial_weights={best}", *still)
    # Nothing was learnt, so it is the same network, with the same scores.
    assert record.metrics["test"] == first.metrics["test"]
    assert record.iterations == 2
    assert record.data["initial_weights"] == read_checkpoint(best).digest
    assert "initial_weights" not in first.data
    assert record.run != first.run


def test_fine_tuning_refuses_another_network_before_reading_data(tiny_run, finished_run):
    best = finished_run[1] / "checkpoints" / "best.ckpt"
    elsewhere = "dataset.train=[{raw:/nowhere.h5}]"
    with pytest.raises(CheckpointError, match=r"was trained with block=.*p2sc2.*this run has"):
        run(tiny_run, f"initial_weights={best}", "block=3d", elsewhere)
    with pytest.raises(CheckpointError, match=r"no checkpoint at /nowhere\.ckpt"):
        run(tiny_run, "initial_weights=/nowhere.ckpt", elsewhere)


def test_soon_it_says_how_long_all_iterations_will_take(caplog, monkeypatch):
    clock = iter(range(0, 1000, 3))  # every look at it is three seconds later than the last
    monkeypatch.setattr("psc.training.callbacks.time.perf_counter", lambda: float(next(clock)))
    trainer, throughput = SimpleNamespace(is_global_zero=True, global_step=0), Throughput(4015)
    with caplog.at_level(logging.INFO):
        for step in range(1, 31):
            throughput.on_train_batch_start(trainer, None)
            trainer.global_step = step
            throughput.on_train_batch_end(trainer, None)
    # of five iterations, each of three seconds with three of waiting before it, but for the first
    (said,) = caplog.messages
    assert said == "5.4 s per iteration: about 6 h for the 4000 that are left, validation aside"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(12.4, "12 s"), (89, "1 min"), (7530, "2 h 6 min"), (200_000, "2 days 7 h"), (7200, "2 h")],
)
def test_a_duration_in_words(seconds, words):
    assert duration(seconds) == words
