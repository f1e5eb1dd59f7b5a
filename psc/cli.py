"""The command line: Hydra's composition, with errors that say what to do instead of tracebacks."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from psc.config.compose import CONFIG_DIRECTORY, register
from psc.errors import PSCError

log = logging.getLogger(__name__)

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130


def run(config_name: str, main: Callable[[DictConfig], object]) -> None:
    """Compose configs/<config_name>.yaml from the command line, call ``main``, exit.

    Errors of the user's (configuration, data, checkpoints) are printed as one message and exit
    with 1, an interruption with 130; any other exception is a defect of ours and keeps its
    traceback.
    """
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own report
    program = hydra.main(
        config_path=str(CONFIG_DIRECTORY), config_name=config_name, version_base="1.3"
    )(main)
    try:
        program()
    except PSCError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _fail(_explain(error))
    except KeyboardInterrupt:
        print("\ninterrupted; resume=true continues from the last checkpoint", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


@contextmanager
def argv_of_this_job() -> Iterator[None]:
    """Within a ``--multirun``, make sys.argv that of the job alone.

    Lightning starts the other processes of a distributed run by repeating the command line, which
    would start the whole sweep again in each of them.
    """
    saved = sys.argv
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        sys.argv = [saved[0], *HydraConfig.get().overrides.task]
    try:
        yield
    finally:
        sys.argv = saved


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_FAILURE)


def _explain(error: BaseException) -> str:
    """Hydra's message, its cause, and the keys that exist where one was not found."""
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
