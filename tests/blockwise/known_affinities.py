"""What tests of blocks share beside fixtures; workers import it too."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psc.blockwise.grid import Box


@dataclass(frozen=True, eq=False)
class FromArray:
    """Affinities that are known already, in place of a network."""

    affinities: np.ndarray

    def __call__(self, box: Box) -> np.ndarray:
        return self.affinities[(slice(None), *box)]


def whole(shape) -> Box:
    z, y, x = (slice(0, size) for size in shape)
    return z, y, x


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the result, without the bookkeeping."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "work" not in path.relative_to(folder).parts
    }
