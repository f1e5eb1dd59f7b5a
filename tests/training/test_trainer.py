"""What "auto" means with and without a GPU, and what is refused."""

import pytest

from psc.training.settings import TrainerConfig
from psc.training.training import compiles, loader_workers, precision


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_gets_bf16_compilation_and_loader_processes():
    config = TrainerConfig()
    assert precision(config) == "bf16-mixed"
    assert compiles(config)
    assert loader_workers(config) >= 1


@pytest.mark.usefixtures("gpu")
def test_the_cpu_beside_a_gpu_is_a_cpu():
    config = TrainerConfig(accelerator="cpu")
    assert precision(config) == "32-true"
    assert not compiles(config)
    assert loader_workers(config) == 0


@pytest.mark.usefixtures("no_gpu")
def test_a_cpu_gets_float32_in_one_process():
    config = TrainerConfig()
    assert precision(config) == "32-true"
    assert not compiles(config)
    assert loader_workers(config) == 0


@pytest.mark.usefixtures("no_gpu")
def test_what_is_asked_for_is_taken():
    config = TrainerConfig(precision="bf16-mixed", compile=True, workers=3)
    assert (precision(config), compiles(config), loader_workers(config)) == ("bf16-mixed", True, 3)
