"""What the machine offers, what "auto" takes of it, and what the record says of it.

In a configuration that is stored, ``trainer.precision=auto`` is what it was to all code before:
bf16 on a GPU, float32 on a CPU. Where the hardware makes it anything else, its name is stored.
"""

import logging
import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from psc import machine
from psc.errors import ConfigError
from psc.training.settings import TrainerConfig

log = logging.getLogger(__name__)

BF16, FLOAT32 = "bf16-mixed", "32-true"


def computes_bf16(device: str) -> bool:
    """Whether "cuda" or "cpu" has instructions for it; emulated it is slower than float32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def stored_precision(precision: str, device: str) -> str:
    """The precision that a stored configuration or a record names."""
    if precision != "auto":
        return precision
    return BF16 if device == "cuda" else FLOAT32


def training_precision(trainer: TrainerConfig) -> str:
    """What Lightning is told."""
    return stored_precision(trainer.precision, _device(trainer.accelerator))


def settled(trainer: TrainerConfig) -> TrainerConfig:
    """With the precision that this machine computes in; says what was chosen, or is slow."""
    device = _device(trainer.accelerator)
    kind = "GPU" if device == "cuda" else "CPU"
    if trainer.precision == "16-mixed" and device == "cpu":
        raise ConfigError("trainer.precision=16-mixed: a CPU has 32-true and bf16-mixed only")
    if trainer.precision == BF16 and not computes_bf16(device):
        log.warning(
            f"trainer.precision={BF16}: this {kind} has no instructions for it; {FLOAT32} is faster"
        )
    if trainer.precision != "auto":
        return trainer
    chosen = BF16 if device == "cuda" and computes_bf16(device) else FLOAT32
    if chosen == stored_precision("auto", device):
        return trainer
    log.info("trainer.precision=auto: took %s, which this %s computes fast", chosen, kind)
    return replace(trainer, precision=chosen)


def prediction_precision(asked: str | None, trained: str, device: torch.device) -> str:
    """What to predict in: as asked, or (None) as the network was trained where the device can."""
    if asked not in (None, "auto", FLOAT32, BF16):
        raise ConfigError(f"precision={asked}: allowed are auto, {FLOAT32}, {BF16}")
    able = computes_bf16(device.type)
    if asked == BF16 and not able:
        raise ConfigError(f"precision={BF16}: this {device.type} has no instructions for it")
    wanted = asked or trained
    if wanted == "auto":
        wanted = BF16 if able and device.type == "cuda" else FLOAT32
        log.info("predicting in %s", wanted)
    elif wanted != FLOAT32 and not able:
        log.info("trained in %s, which this %s is slow in: predicting in float32", wanted, device)
        wanted = FLOAT32
    return BF16 if wanted != FLOAT32 else FLOAT32


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which networks on the device compute in that precision."""
    return torch.autocast(device.type, torch.bfloat16) if precision == BF16 else nullcontext()


def inference_device(accelerator: str) -> torch.device:
    """Where to predict: "auto" takes a GPU if there is one."""
    if accelerator not in ("auto", "cpu", "gpu"):
        raise ConfigError(f"accelerator={accelerator}: allowed are auto, cpu, gpu")
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("accelerator=gpu: this machine has no GPU that torch can use")
    return torch.device("cuda" if _device(accelerator) == "cuda" else "cpu")


def compiles(trainer: TrainerConfig) -> bool:
    """Whether to compile the network: by default on a GPU, where it pays."""
    return _device(trainer.accelerator) == "cuda" if trainer.compile == "auto" else trainer.compile


def loader_workers(trainer: TrainerConfig) -> int:
    """Beside a GPU patches are made by other processes; on a CPU they would only compete."""
    if trainer.workers != "auto":
        return int(trainer.workers)
    on_gpu = _device(trainer.accelerator) == "cuda"
    return min(4, max(1, machine.cores() - 1)) if on_gpu else 0


def _device(accelerator: str) -> str:
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return "cuda"
    return "mps" if accelerator == "mps" else "cpu"


def hardware(device: str) -> dict[str, Any]:
    """The record's entry of what a run used: "cpu" or "cuda", and its name."""
    return {
        "accelerator": device,
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cpu": _processor(),
        "cpu_cores": machine.cores(),
        "torch_threads": torch.get_num_threads(),
        "settings": machine.in_force(),
    }


def _processor() -> str:
    """The processor's name; Linux hides it from ``platform``."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
