"""The command line: Hydra's composition, with errors that say what to do instead of tracebacks.

A run may be one job of a sweep. Hydra starts those by one of its launchers
(``configs/hydra/launcher``): one after the other in this process, several at once in processes of
joblib's, or through SLURM on other machines. A job that fails is noted, stops no other, and is
told at the end.
"""

import functools
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from psc import machine

machine.set_up()  # before anything loads torch

from psc.errors import (
    ConfigError,
    PSCError,
    extra_needed,
    missing_package,
    refused_by_the_system,
)

try:
    with extra_needed():
        import hydra
        from hydra.core.hydra_config import HydraConfig
        from hydra.errors import HydraException
        from hydra.types import RunMode
        from omegaconf import DictConfig as DictConfig
        from omegaconf import OmegaConf
        from omegaconf.errors import (
            GrammarParseError,
            InterpolationResolutionError,
            MissingMandatoryValue,
            OmegaConfBaseException,
        )

        from psc.config.compose import CONFIG_DIRECTORY, register
        from psc.config.compose import from_arguments as from_arguments
        from psc.config.overrides import as_hydra_reads, names_in
        from psc.files import write_json
except PSCError as missing:
    sys.exit(f"error: {missing}")

log = logging.getLogger(__name__)

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

FAILURE = "failure.json"
"""In the folder of a job that failed, ``<output_directory>/sweeps/<date>/<number>/``."""

_GOES_ON = {
    "train": "; resume=true continues from the last checkpoint",
    "segment": "; of neurons the same command goes on where it was",
}

Main = Callable[[DictConfig], object]


class JobFailedError(Exception):
    """At least one job of a sweep has failed; its only argument is the sweep's folder."""


def run(config_name: str, main: Main) -> None:
    """Compose configs/<config_name>.yaml from the command line, call ``main``, exit.

    Errors of the user's (configuration, data, checkpoints) are printed as one message and exit
    with 1, an interruption with 130; any other exception is a defect of ours and keeps its
    traceback. In a sweep all failures are told at the end, which exits with 1.
    """
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own report
    job = Job(main, Path(sys.argv[0]).resolve())
    try:
        with refusals():
            sys.argv[1:] = as_hydra_reads(sys.argv[1:])
            check_named(config_name, sys.argv[1:])
            hydra.main(
                config_path=str(CONFIG_DIRECTORY), config_name=config_name, version_base="1.3"
            )(job)()
    except JobFailedError as error:
        _fail(failure_report(Path(error.args[0])))
    except BrokenExecutor as error:
        _fail(
            f"a process of this sweep was killed, perhaps for want of memory ({error}). Run fewer "
            "at once (hydra.launcher.n_jobs=…); with resume=true finished runs are skipped"
        )
    except KeyboardInterrupt:
        print(f"\ninterrupted{_GOES_ON.get(config_name, '')}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def check_named(config_name: str, arguments: Sequence[str]) -> None:
    """Refuse a key of a data set that is not named: ``evaluate.py`` alone can do without one."""
    given = dict(argument.partition("=")[::2] for argument in arguments if "=" in argument)
    if config_name != "evaluate" or "dataset" in given:
        return
    for key, value in given.items():
        if key.lstrip("+").startswith("dataset."):
            raise ConfigError(
                f"{key}={value} changes a data set that is not named; name it, too: "
                f"dataset=NAME {key}=…, of {names_in('dataset')}"
            )


@contextmanager
def refusals() -> Iterator[None]:
    """Around a program: what the user can act on ends in one message, and the exit status 1."""
    try:
        yield
    except (PSCError, HydraException, OmegaConfBaseException) as error:
        _fail(explain(error))
    except OSError as error:
        _fail(refused_by_the_system(error))
    except ImportError as error:
        if missing_package(error) is None:
            raise
        _fail(explain(error))


class Job:
    """What Hydra calls for every run; it may be called in another process than it was made in.

    ``script`` is the program's path, to start it again.
    """

    def __init__(self, main: Main, script: Path) -> None:
        functools.update_wrapper(self, main)  # Hydra takes names from it
        self.main, self.script = main, script

    def __call__(self, config: DictConfig) -> None:
        """Run; in a sweep any exception but an interruption is noted, and raised in plain text."""
        hydra = HydraConfig.get()
        if hydra.mode != RunMode.MULTIRUN:
            with refusals():  # here: an exception that Hydra sees has a line of its own before ours
                self.main(config)
            return
        overrides = [str(override) for override in hydra.overrides.task]
        try:
            attempts = OmegaConf.select(hydra.launcher, "max_num_timeout")
            if attempts and config.get("resume") is False:
                raise ConfigError(
                    f"resume=false with hydra.launcher.max_num_timeout={attempts}: a job that is "
                    "queued again would train from the beginning; set resume=true"
                )
            with _command_line(self.script, overrides):
                self.main(config)
        except Exception as error:
            message = explain(error)
            log.error("failed: %s\n%s", " ".join(overrides), message)
            folder = Path(hydra.runtime.output_dir)
            write_json({"overrides": overrides, "message": message}, folder / FAILURE)
            # Not every exception survives the way back from another process.
            raise JobFailedError(str(folder.parent)) from error

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled for another process, which is prepared before Hydra composes anything there."""
        return _job_in_a_worker, (self.main, self.script)


def _job_in_a_worker(main: Main, script: Path) -> Job:
    machine.prepare_worker()
    return Job(main, script)


@contextmanager
def _command_line(script: Path, overrides: list[str]) -> Iterator[None]:
    """Make the process's command line that of the job alone.

    Lightning starts the other processes of a distributed run by repeating the command line, which
    would start the whole sweep again in each of them, or a worker of the launcher's.
    """
    program: Any = sys.modules["__main__"]
    saved = sys.argv, program.__spec__
    sys.argv = [str(script), *overrides, f"hydra.mode={RunMode.RUN.name}"]
    program.__spec__ = None  # else it is repeated as python -m <module of the launcher>
    try:
        yield
    finally:
        sys.argv, program.__spec__ = saved


def failure_report(sweep: Path) -> str:
    """Which jobs of a sweep have failed, with what overrides, and why; each has a folder in it."""
    jobs = sorted((p for p in sweep.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    failed = [job for job in jobs if (job / FAILURE).is_file()]
    lines = [f"{len(failed)} of {len(jobs)} runs failed; the others are finished"]
    for job in failed:
        failure = json.loads((job / FAILURE).read_text())
        lines.append(f"#{job.name}: {' '.join(failure['overrides'])}")
        lines += [f"    {line}" for line in failure["message"].splitlines()]
    lines.append(f"(noted in {sweep}; the same sweep with resume=true runs these only)")
    return "\n".join(lines)


def explain(error: BaseException) -> str:
    """An exception in words: one message if the user can act on it, else the whole traceback."""
    if isinstance(error, PSCError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return refused_by_the_system(error)
    if isinstance(error, ImportError) and (told := missing_package(error)) is not None:
        return told
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_composition(error)
    return "".join(traceback.format_exception(error))


def _explain_composition(error: BaseException) -> str:
    """Hydra's message, its cause, and the keys that exist where one was not found."""
    inner: BaseException | None = error
    while inner is not None:  # a choice in the defaults list (psc.config.choices) refused
        if isinstance(inner, PSCError):
            return str(inner)
        inner = inner.__context__
    message = str(error).split("Config search path")[0]  # a list of folders that helps nobody
    lines = [line for line in message.splitlines() if not line.startswith("To append to")]
    cause = error.__cause__ or error
    if cause is not error:
        lines += [line for line in str(cause).splitlines() if "object_type" not in line]
    parent, key = getattr(cause, "parent_node", None), getattr(cause, "key", None)
    if resnet := re.match(
        r"In '(recipe/resnet.*?)'.*\n\s*Key '(\w+)'.*\n.*key: dataset\.", message
    ):
        return (
            f"the chosen data set has no {resnet[2]}, which {resnet[1]} sets: ResNets learn from "
            "videos, dataset=ucf101, ucf101_sample, ucf101_synthetic or own_video"
        )
    if isinstance(cause, InterpolationResolutionError | GrammarParseError):
        lines.append("${key} refers to another key; the letters themselves are written \\${")
    if isinstance(cause, MissingMandatoryValue):
        lines.append(f"give it on the command line: {cause.full_key}=…")
    elif isinstance(parent, DictConfig) and key not in parent:
        known = sorted(str(name) for name in parent)
        lines.append(f"known keys there: {', '.join(known)}")
        if close := get_close_matches(str(key), known, n=1):
            lines.append(f"did you mean {close[0]}?")
    return "\n  ".join(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_FAILURE)
