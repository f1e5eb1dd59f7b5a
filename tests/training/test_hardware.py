"""What "auto" means with and without a GPU or bf16 instructions, and what is refused."""

import pytest
import torch

from psc.config import compose
from psc.errors import ConfigError
from psc.training.hardware import (
    arithmetic,
    compiles,
    hardware,
    loader_workers,
    prediction_precision,
    settled,
    training_precision,
)
from psc.training.settings import TrainerConfig
from psc.training.training import train

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Function: make this a machine with or without a GPU, and instructions for bf16."""

    def make(*, gpu=False, bf16=False):
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: bf16)
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bf16)
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)

    return make


def test_a_gpu_gets_bf16_compilation_and_loader_processes(machine):
    machine(gpu=True, bf16=True)
    config = settled(TrainerConfig())
    assert config == TrainerConfig()  # so that a run is found again by its configuration
    assert training_precision(config) == "bf16-mixed"
    assert compiles(config)
    assert loader_workers(config) >= 1


def test_a_gpu_that_only_emulates_bf16_gets_float32_and_the_record_says_so(machine):
    machine(gpu=True, bf16=False)
    assert settled(TrainerConfig()).precision == "32-true"


@pytest.mark.parametrize(
    ("gpu", "trainer"), [(True, TrainerConfig(accelerator="cpu")), (False, TrainerConfig())]
)
def test_a_cpu_gets_one_process(machine, gpu, trainer):
    machine(gpu=gpu)
    assert training_precision(settled(trainer)) == "32-true"
    assert not compiles(trainer)
    assert loader_workers(trainer) == 0


def test_what_is_asked_for_is_taken(machine):
    machine(bf16=True)
    config = TrainerConfig(precision="bf16-mixed", compile=True, workers=3)
    assert settled(config) == config
    assert training_precision(config) == "bf16-mixed"
    assert (compiles(config), loader_workers(config)) == (True, 3)


def test_what_the_hardware_lacks_is_said_or_refused(machine, caplog):
    machine(bf16=False)
    settled(TrainerConfig(precision="bf16-mixed"))
    assert "no instructions for it; 32-true is faster" in caplog.text
    with pytest.raises(ConfigError, match=r"trainer\.precision=16-mixed: a CPU has"):
        settled(TrainerConfig(precision="16-mixed"))
    with pytest.raises(ConfigError, match="precision=bf16-mixed: this cpu has no instructions"):
        prediction_precision("bf16-mixed", "32-true", CPU)
    with pytest.raises(ConfigError, match="precision=fp8: allowed are auto"):
        prediction_precision("fp8", "32-true", CPU)


@pytest.mark.parametrize(
    ("asked", "trained", "bf16", "expected"),
    [
        (None, "32-true", True, "32-true"),
        (None, "bf16-mixed", True, "bf16-mixed"),
        (None, "bf16-mixed", False, "32-true"),
        ("32-true", "bf16-mixed", True, "32-true"),
        ("bf16-mixed", "32-true", True, "bf16-mixed"),
    ],
)
def test_prediction_computes_as_training_did_where_it_can(machine, asked, trained, bf16, expected):
    machine(bf16=bf16)
    assert prediction_precision(asked, trained, CPU) == expected


def test_a_run_in_bf16_trains_predicts_and_says_so(tiny_run):
    record = train(compose([*tiny_run, "trainer.precision=bf16-mixed"]))
    assert record.config["trainer"]["precision"] == "bf16-mixed"
    assert 0 < record.metrics["test"]["total"] < 20


def test_networks_compute_in_that_precision():
    x = torch.ones(1, 1, 4, 4, 4)
    with arithmetic("bf16-mixed", CPU):
        assert torch.nn.Conv3d(1, 1, 3)(x).dtype == torch.bfloat16
    with arithmetic("32-true", CPU):
        assert torch.nn.Conv3d(1, 1, 3)(x).dtype == torch.float32


def test_the_record_s_entry_says_what_the_process_ran_under():
    entry = hardware("cpu")
    assert entry["device"] == entry["cpu"] != ""
    assert entry["cpu_cores"] >= 1
    assert entry["settings"]["OMP_WAIT_POLICY"]
