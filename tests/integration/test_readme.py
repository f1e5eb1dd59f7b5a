import re
import shlex
from pathlib import Path

import light_core
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from psc.config import TrainConfig, compose, register
from psc.config.compose import CONFIG_DIRECTORY, typed_node
from psc.config.overrides import as_hydra_reads

ROOT = Path(__file__).parents[2]
NAMES = ("block", "convert", "networks", "training", "sweeps", "looking", "reproduce")
NAMES += (
    "large-volumes",
    "paper",
    "conventions",
    "monai-torchvision",
)  # nnunet, your-own-data, theory, … have tests of their own
PAGES = ("README.md", *(f"docs/{name}.md" for name in NAMES))
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
BLOCKS = [block for text in TEXTS.values() for block in FENCED.findall(text)]
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [line for language, code in BLOCKS if not language for line in code.splitlines() if line]
TRAINING = [line for line in COMMANDS if line.startswith("python train.py ")]
SEGMENTING = [line for line in COMMANDS if re.match(r"python scripts/(segment|view)\.py ", line)]


def runs_of(command: str) -> list[list[str]]:
    """Overrides of runs that a command starts: of a sweep as many as have every value once."""
    overrides = shlex.split(command, comments=True)[2:]
    if "--multirun" not in overrides:
        return [overrides]
    overrides.remove("--multirun")
    choices = []
    for override in overrides:
        key, values = override.split("=", 1)
        choices.append([f"{key}={value}" for value in values.split(",")])
    most = max(map(len, choices))
    return [[values[i % len(values)] for values in choices] for i in range(most)]


def test_the_readme_has_what_it_promises():
    assert len(TEXTS["README.md"].splitlines()) <= 150
    assert len(PYTHON) >= 7
    assert len(TRAINING) >= 15
    assert COMMANDS[0].startswith("make demo")
    assert COMMANDS[1].startswith("make test")


OTHERS = [  # than those that test_light_core.py runs, with less
    code
    for page, text in TEXTS.items()
    for language, code in FENCED.findall(text)
    if language == "python" and (page not in light_core.PAGES or "psc.metrics" in code)
]


def test_every_python_example_says_what_comes_out():
    assert all("assert" in code for code in PYTHON)


@pytest.mark.slow
@pytest.mark.parametrize("code", OTHERS, ids=range(len(OTHERS)))
def test_every_python_example_runs(code: str):
    exec(compile(code, "example", "exec"), {})


@pytest.mark.parametrize("command", TRAINING)
def test_every_training_command_composes(command: str):
    runs = runs_of(command)
    configs = [compose(overrides) for overrides in runs]
    assert all(isinstance(config, TrainConfig) for config in configs)
    assert len({repr(config) for config in configs}) == len(runs)


@pytest.mark.parametrize("command", SEGMENTING)
def test_every_command_of_segmenting_and_viewing_composes(command: str):
    script, *overrides = shlex.split(command, comments=True)[1:]
    register()
    with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
        config = typed_node(hydra_compose(Path(script).stem, overrides=as_hydra_reads(overrides)))
    assert config.checkpoint or config.weights if "segment" in script else config.run


@pytest.mark.parametrize("target", re.findall(r"^make ([\w-]+)", "\n".join(COMMANDS), re.MULTILINE))
def test_every_make_target_exists(target: str):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^([\w-]+ )*{target}( [\w-]+)*:.*## ", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "script", sorted({line.split()[1] for line in COMMANDS if line.startswith("python ")})
)
def test_every_script_that_is_called_exists(script: str):
    assert (ROOT / script).is_file()
