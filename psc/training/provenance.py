"""Which code a number comes from: its commit, in a few characters, and the packages under it."""

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psc.files import PROJECT

DIRTY = "-dirty"
"""What git appends to the name of a checkout with uncommitted changes."""


def code_version(git: Mapping[str, Any]) -> str:
    """The version that a record's ``git`` names: 8 digits of the commit, perhaps ``-dirty``."""
    if git["commit"] is None:
        return "unknown"
    return str(git["commit"])[:8] + (DIRTY if git["dirty"] else "")


def is_version(git: Mapping[str, Any], wanted: str) -> bool:
    """Whether a record's ``git`` is the version that a user names by any number of digits."""
    name = code_version(git)
    if name == "unknown":
        return wanted == name
    dirty = wanted.endswith(DIRTY)
    digits = wanted.removesuffix(DIRTY)
    return bool(digits) and dirty == name.endswith(DIRTY) and str(git["commit"]).startswith(digits)


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Why a run of ``then`` may not be what the code would compute ``now``; None where it is."""
    old, new = code_version(then), code_version(now)
    if old != new:
        return f"it is a result of code {old}, and the code is now {new}"
    if old == "unknown":
        return "nobody knows of which code: there is no git checkout"
    if old.endswith(DIRTY):
        commit = old.removesuffix(DIRTY)
        return f"the code had uncommitted changes since {commit}, perhaps others than now"
    return None


PACKAGES = (
    *("torch", "torchvision", "lightning", "hydra-core", "numpy", "scipy", "scikit-image"),
    *("bioimage-cpp", "waterz", "h5py", "numba"),
)
"""Packages whose versions can change a result."""


def git_state(folder: Path = PROJECT) -> dict[str, Any]:
    """Commit of a checkout, and whether its tracked files differ from it; None where unknown."""
    if not (folder / ".git").exists():  # installed, perhaps within another project's checkout
        return {"commit": None, "dirty": None}
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
