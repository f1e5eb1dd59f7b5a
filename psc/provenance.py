"""Where a number comes from: code, versions and hardware."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PROJECT = Path(__file__).resolve().parents[1]

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "numpy",
    "scipy",
    "scikit-image",
    "waterz",
    "h5py",
    "numba",
)
"""Packages whose versions can change a result."""


def git_state(folder: Path = PROJECT) -> dict[str, Any]:
    """Commit of a checkout, and whether its tracked files differ from it; None where unknown."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a result depends on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def hardware(accelerator: str) -> dict[str, Any]:
    """What a run used: "cpu" or "cuda", and its name."""
    return {
        "accelerator": accelerator,
        "device": torch.cuda.get_device_name() if accelerator == "cuda" else _processor(),
        "cpu": _processor(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "torch_threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """The processor's name; Linux hides it from ``platform``."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
