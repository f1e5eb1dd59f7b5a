"""The command line: Hydra's composition, with errors that say what to do instead of tracebacks."""

import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from difflib import get_close_matches
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from psc import sweeps
from psc.config.compose import CONFIG_DIRECTORY, register
from psc.errors import PSCError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


def run(config_name: str, main: Callable[[DictConfig], object]) -> None:
    """Compose configs/<config_name>.yaml from the command line, call ``main``, exit.

    Errors of the user's (configuration, data, checkpoints) are printed as one message and exit
    with 1, an interruption with 130; any other exception is a defect of ours and keeps its
    traceback. In a sweep all failures are told at the end, which exits with 1.
    """
    register()
    sweeps.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own report
    job = sweeps.Job(main, Path(sys.argv[0]).resolve(), explain)
    program = hydra.main(
        config_path=str(CONFIG_DIRECTORY), config_name=config_name, version_base="1.3"
    )(job)
    try:
        program()
    except (PSCError, HydraException, OmegaConfBaseException) as error:
        _fail(explain(error))
    except sweeps.JobFailedError as error:
        _fail(sweeps.failure_report(Path(error.args[0])))
    except BrokenExecutor as error:
        _fail(
            f"a process of this sweep was killed, perhaps for want of memory ({error}). Run fewer "
            "at once (hydra.launcher.n_jobs=…); with resume=true finished runs are skipped"
        )
    except KeyboardInterrupt:
        print("\ninterrupted; resume=true continues from the last checkpoint", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def explain(error: BaseException) -> str:
    """An exception in words: one message if the user can act on it, else the whole traceback."""
    if isinstance(error, PSCError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_composition(error)
    return "".join(traceback.format_exception(error))


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_FAILURE)


def _raised_by_a_resolver(error: BaseException) -> PSCError | None:
    """Our own error, where a choice in the defaults list (psc.config.choices) refused."""
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, PSCError):
        inner = inner.__context__
    return inner


def _explain_composition(error: BaseException) -> str:
    """Hydra's message, its cause, and the keys that exist where one was not found."""
    if (ours := _raised_by_a_resolver(error)) is not None:
        return str(ours)
    message = str(error).split("Config search path")[0]  # a list of folders that helps nobody
    lines = [line for line in message.splitlines() if not line.startswith("To append to")]
    cause = error.__cause__ or error
    if cause is not error:
        lines += [line for line in str(cause).splitlines() if "object_type" not in line]
    parent, key = getattr(cause, "parent_node", None), getattr(cause, "key", None)
    if isinstance(cause, MissingMandatoryValue):
        lines.append(f"give it on the command line: {cause.full_key}=…")
    elif isinstance(parent, DictConfig) and key not in parent:
        known = sorted(str(name) for name in parent)
        lines.append(f"known keys there: {', '.join(known)}")
        if close := get_close_matches(str(key), known, n=1):
            lines.append(f"did you mean {close[0]}?")
    return "\n  ".join(dict.fromkeys(line.strip() for line in lines if line.strip()))
