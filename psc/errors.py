"""Errors that a user can act on.

Each message says what was wrong, what was found, and what to do next. The command-line programs
print them without a traceback; everything else that escapes is a defect of ours and shows one.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

_TRAIN = (
    "lightning torchmetrics hydra hydra_plugins omegaconf yaml filelock scipy numba skimage h5py"
)
EXTRAS = {
    "train": f"{_TRAIN} h5py zarr matplotlib jinja2 markupsafe tqdm PIL rarfile wandb".split(),
    "em": ["bioimage_cpp", "waterz", "dask", "distributed"],
    "mri": ["nibabel", "monai"],
    "video": ["decord", "av"],
    "viewer": ["neuroglancer"],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "nnunet": ["nnunetv2"],
}
"""Extra → packages that come with it, by the names that are imported; as in pyproject.toml."""


class PSCError(ValueError):
    """Base of all errors that a user's input can cause."""


class ConfigError(PSCError):
    """A configuration value that is unknown, of the wrong type or impossible in combination."""


class DataError(PSCError):
    """A data file that is missing, damaged, or not what the configuration says it is."""


class DivergenceError(PSCError):
    """A training whose loss is no longer a number."""


class CheckpointError(PSCError):
    """A checkpoint that cannot be read, or that belongs to another network."""


class MissingPackageError(PSCError, ImportError):
    """A package that an extra of the project brings, and that is not installed."""


def first_line(error: BaseException) -> str:
    """Of an exception's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def first_of(items: Sequence[object], count: int = 10) -> str:
    """For a message: the first ones, and how many more there are; or "nothing"."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return (", ".join(map(str, items[:count])) or "nothing") + more


def refused_by_the_system(error: OSError) -> str:
    """What programs print of a file that the system refuses; what names no file is raised again."""
    if error.filename is None:
        raise error
    return f"{error.filename}: {error.strerror}; check its name, its folder and their permissions"


@contextmanager
def told_in_a_line(after_interruption: str = "run it again") -> Iterator[None]:
    """Around a program: an error that a user can act on is one line, and the exit status 1."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\ninterrupted; {after_interruption}", file=sys.stderr)
        sys.exit(130)
    except PSCError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {refused_by_the_system(error)}")


def missing_package(error: ImportError) -> str | None:
    """Which extra brings the package that was not found; None for any other package."""
    package = (error.name or "").partition(".")[0]
    extra = next((name for name, packages in EXTRAS.items() if package in packages), None)
    if extra is None or not isinstance(error, ModuleNotFoundError):
        return None
    return (
        f"{package} is not installed; psc's extra {extra} brings it: pip install '.[{extra}]' in "
        f"its checkout, or '<its wheel>[{extra}]'"
    )


@contextmanager
def extra_needed() -> Iterator[None]:
    """Around imports: says which extra of the project brings what is not installed."""
    try:
        yield
    except ImportError as error:
        if (told := missing_package(error)) is None:
            raise
        raise MissingPackageError(told) from error


def require_packages(*packages: str) -> None:
    """Refuse to begin what will need packages that are not installed."""
    with extra_needed():
        for name in packages:
            if sys.modules.get(name) is None and (name in sys.modules or find_spec(name) is None):
                raise ModuleNotFoundError(name=name)
