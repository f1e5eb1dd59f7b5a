"""A wheel and a Python with torch and numpy only: what works there, what says what it lacks."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from light_core import PAGES, ROOT, link, run

import psc
from psc.config import compose
from psc.errors import PSCError

TEXT = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files behind
    for name in ("psc", "configs", "scripts", "data/splits"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "data/sources.yaml"):
        shutil.copy(ROOT / name, source / name)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, source)
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, "-m", *command, "-w", folder, source], check=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A folder with torch and numpy and what these need."""
    return link(tmp_path_factory.mktemp("light"), "torch", "numpy")


RUN = f"""
for example in {EXAMPLES!r}:
    try:
        exec(compile(example, "example", "exec"), {{}})
    except ImportError as error:
        print("psc.metrics" in example, type(error).__name__, error)
print("all")
"""

REST = """
import torch
import psc, psc.accounting, psc.decomposition, psc.metrics, psc.metrics.tissues, psc.networks
from psc.errors import PSCError
for name in psc.list_weights():  # they are in the wheel
    psc.create(name.partition("_")[2], weights=name)
network = psc.create("unet_3d", base_width=4, depth=1)
x = torch.randn(1, 1, 20, 20, 20)
done = psc.convert(network, 2, 2, example_input=x)
psc.calibrate(network, done, x)
psc.match_features(network, done, [x], steps=1)
print(psc.accounting.account(done.model, x).parameters == done.report.parameters[1])
table = psc.metrics.ContingencyTable(*(torch.tensor([1, 2]).numpy(),) * 3)
print(psc.metrics.adapted_rand_from_table(table).error)
for bar in (lambda: psc.convert(network, progress=True), lambda: psc.metrics.adapted_rand(x, x)):
    try:
        bar()
    except PSCError as error:
        print(error)
"""

LOAD = """
import torch
import psc
for kept in torch.load("converted.pt", weights_only=True):
    network = psc.create("resnet18_3d", base_width=8, classes=3)
    anew = psc.convert(network, **kept["plan"]).model.eval()
    anew.load_state_dict(kept["weights"])
    assert torch.equal(anew(kept["clip"]), kept["result"])
print("same")
"""


def converted_networks():
    """Plans, weights and results of three conversions of a network, for ``LOAD``."""
    torch.manual_seed(0)
    network = psc.create("resnet18_3d", base_width=8, classes=3).eval()
    clip, kept = torch.randn(1, 3, 4, 16, 16), []
    for m, n in ((2, 1), (1, 2), (3, 2)):
        done = psc.convert(network, m, n, include=["stem", "stages.0"], example_input=clip)
        with torch.no_grad():
            result = done.model(clip)
        weights = done.model.state_dict()
        kept.append({"clip": clip, "result": result, "weights": weights, "plan": done.report.plan})
    return kept


@pytest.mark.slow
def test_the_library_and_its_examples_run_with_torch_and_numpy(wheel, light, tmp_path):
    """In one process, as loading torch is the dearest: examples, the rest, a converted network."""
    torch.save(converted_networks(), tmp_path / "converted.pt")
    done = run(light, "-c", "\n".join((LOAD, REST, RUN)), psc=wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    same, counted, error, bar, refused, *examples = done.stdout.splitlines()
    assert (same, counted, error) == ("same", "True", "0.0")
    assert "psc's extra train brings it" in bar
    assert "must hold integer labels" in refused
    lacking, last = examples[-2:]
    assert lacking.startswith("True MissingPackageError numba is not installed; psc's extra train")
    assert last == "all"
    assert not any(line.startswith("False ") for line in examples)


PROGRAMS = ["train", "evaluate", "segment", "classify", "view", "account"]
PROGRAMS += ["convert", "compare", "data"]


def test_every_program_says_in_one_line_what_it_lacks(wheel, light, tmp_path):
    program = "import sys; from psc.programs import main; sys.argv = ['psc', *{}]; main()"
    for name in PROGRAMS:
        done = run(light, "-c", program.format([name, "--help"]), psc=wheel, cwd=tmp_path)
        assert done.returncode == 1
        assert re.fullmatch(r"error: \w+ is not installed; psc's extra train .*\n", done.stderr)
    listed = run(light, "-c", program.format([]), psc=wheel, cwd=tmp_path).stdout
    assert re.findall(r"^  (\w+) ", listed, re.MULTILINE) == sorted(PROGRAMS)
    done = run(light, "-c", program.format(["trian"]), psc=wheel, cwd=tmp_path)
    assert done.stderr == (
        "error: psc has no program 'trian'; did you mean train? psc --help has all\n"
    )
    # A checkout's own program says it as well.
    done = run(light, ROOT / "train.py", "block=p2sc2", cwd=tmp_path)
    assert re.fullmatch(r"error: hydra is not installed; psc's extra train .*\n", done.stderr)
    assert not any(tmp_path.iterdir())


def test_an_installed_wheel_composes_a_training_and_says_what_the_application_lacks(
    wheel, tmp_path
):
    program = f"""
import sys
sys.path.insert(0, {str(wheel)!r})
sys.modules["waterz"] = None
from psc.programs import main
sys.argv = ["psc", "train", "backbone=unet", "block=p2sc2"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: waterz is not installed; psc's extra em brings it")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("backbone", "package", "extra"), [("densenet", "monai", "mri"), ("resnet18", "av", "video")]
)
def test_so_does_every_application(monkeypatch, backbone, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PSCError, match=f"{package} is not installed; psc's extra {extra}"):
        compose([f"backbone={backbone}", "block=p2sc2"])
