"""Which of a network's convolutions a user asks for: by name, and by kernel size."""

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from psc.convolutions import AXES, Triple
from psc.errors import ConfigError

Names = str | Sequence[str] | None
KernelSizes = Iterable[int | Sequence[int]] | None


class Selection:
    """The layers that ``include``, ``exclude`` and ``kernel_sizes`` leave.

    Args:
        include: names or patterns (``layer1``, ``*.conv2``); one that fits a module includes all
            layers within it. None: all.
        exclude: the same, taken away.
        kernel_sizes: (kD, kH, kW), or a number for a cube; None: all.
        known: names of all the network's 3D convolutions.

    Raises:
        ConfigError: for a pattern that fits no layer, or what is no kernel size.
    """

    def __init__(
        self, include: Names, exclude: Names, kernel_sizes: KernelSizes, known: Collection[str]
    ) -> None:
        self._include = _patterns("include", include, known)
        self._exclude = _patterns("exclude", exclude, known)
        self._sizes = None if kernel_sizes is None else {_triple(size) for size in kernel_sizes}

    def reason_against(self, name: str, kernel_size: Triple) -> str | None:
        """Why a layer is left as it is; None if it is to be converted."""
        if self._include is not None and not _fits(name, self._include):
            return "not in include"
        if self._exclude is not None and _fits(name, self._exclude):
            return "in exclude"
        if self._sizes is not None and kernel_size not in self._sizes:
            return "not in kernel_sizes"
        if all(size == 1 for size in kernel_size):
            return "pointwise"
        if min(kernel_size) == 1:
            return "2D or 1D already"
        return None


def _patterns(key: str, names: Names, known: Collection[str]) -> list[str] | None:
    if names is None:
        return None
    patterns = [names] if isinstance(names, str) else list(names)
    for pattern in patterns:
        if not any(_fits(name, [pattern]) for name in known):
            shown = ", ".join(list(known)[:8]) + (", …" if len(known) > 8 else "")
            raise ConfigError(f"{key}: {pattern!r} fits no 3D convolution; there are {shown}")
    return patterns


def _fits(name: str, patterns: Iterable[str]) -> bool:
    parts = name.split(".")
    ancestors = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(a, pattern) for pattern in patterns for a in ancestors)


def _triple(size: int | Sequence[int]) -> Triple:
    sizes = (size,) * AXES if isinstance(size, int) else tuple(size)
    if len(sizes) != AXES or not all(isinstance(s, int) and s > 0 for s in sizes):
        raise ConfigError(f"kernel_sizes: {size!r} is neither a number nor (kD, kH, kW)")
    d, h, w = sizes
    return d, h, w
