import itertools
import re
import shlex
from pathlib import Path

import pytest

from psc.config import TrainConfig, compose

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [line for language, code in BLOCKS if not language for line in code.splitlines() if line]
TRAINING = [line for line in COMMANDS if line.startswith("python train.py ")]


def runs_of(command: str) -> list[list[str]]:
    """The overrides of every run that a command starts; a sweep starts several."""
    overrides = shlex.split(command, comments=True)[2:]
    if "--multirun" not in overrides:
        return [overrides]
    overrides.remove("--multirun")
    choices = []
    for override in overrides:
        key, values = override.split("=", 1)
        choices.append([f"{key}={value}" for value in values.split(",")])
    return [list(run) for run in itertools.product(*choices)]


def test_the_readme_has_what_it_promises():
    assert len(PYTHON) >= 2
    assert len(TRAINING) >= 5
    assert COMMANDS[0].startswith("make demo")
    assert COMMANDS[1].startswith("make test")


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_every_python_example_runs(code: str):
    assert "assert " in code  # an example also says what comes out
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("command", TRAINING)
def test_every_training_command_composes(command: str):
    runs = runs_of(command)
    configs = [compose(overrides) for overrides in runs]
    assert all(isinstance(config, TrainConfig) for config in configs)
    assert len({repr(config) for config in configs}) == len(runs)


@pytest.mark.parametrize("target", re.findall(r"^make ([\w-]+)", "\n".join(COMMANDS), re.MULTILINE))
def test_every_make_target_exists(target: str):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^([\w-]+ )*{target}( [\w-]+)*:.*## ", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_every_file_that_is_linked_exists(link: str):
    assert link.startswith("https://") or (ROOT / link).exists()


@pytest.mark.parametrize(
    "script", sorted({line.split()[1] for line in COMMANDS if line.startswith("python ")})
)
def test_every_script_that_is_called_exists(script: str):
    assert (ROOT / script).is_file()
