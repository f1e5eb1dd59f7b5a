import importlib.metadata as metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import psc
from psc.errors import EXTRAS

ROOT = Path(__file__).parents[2]


def requirements(extra):
    """What an extra brings, by way of others too."""
    for requirement in map(Requirement, EXTRA[extra]):
        if requirement.name == "psc":
            for other in requirement.extras:
                yield from requirements(other)
        else:
            yield requirement


PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
EXTRA = PROJECT["optional-dependencies"]
CORE = {Requirement(t).name: Requirement(t) for t in PROJECT["dependencies"]}
DEV = CORE | {r.name: r for r in requirements("dev")}

ASKED_FOR = ["torch", "torchvision", "hydra-core", "omegaconf", "wandb", "decord", "nibabel"]
ASKED_FOR += ["h5py", "scikit-image", "waterz", "pytest"]


def test_conda_and_pip_install_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["name"] == "psc"
    pip = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert len(pip) == 1
    listed = {Requirement(text).name: Requirement(text) for text in pip[0]}
    assert len(listed) == len(pip[0])
    assert listed == DEV
    plain = [entry for entry in conda["dependencies"] if isinstance(entry, str)]
    assert plain == ["python=3.11", "pip"]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.11.0")


@pytest.mark.parametrize("name", ASKED_FOR)
def test_what_the_project_promises_to_use_is_required(name: str):
    assert name in DEV


@pytest.mark.parametrize(
    ("name", "version", "allowed"),
    [
        # torch 2.9 computes bf16 conv3d with kernel (1,3,3) wrongly; torchvision 0.24 belongs to it
        ("torch", "2.8.0", True),
        ("torch", "2.9.0", False),
        ("torch", "2.9.1", False),
        ("torch", "2.10.0", True),
        ("torchvision", "0.24.1", False),
        # lightning 2.6.2 and 2.6.3 were compromised releases
        ("lightning", "2.6.2", False),
        ("lightning", "2.6.3", False),
        ("lightning", "2.6.4", True),
        ("hydra-core", "1.4.0", False),
    ],
)
def test_releases_known_to_be_bad_are_excluded(name: str, version: str, allowed: bool):
    assert DEV[name].specifier.contains(version) is allowed


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == psc.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    assert {"message", "title", "authors"} <= set(citation)
    paper = citation["preferred-citation"]
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Gonda", "Wei", "Parag", "Pfister"]
    assert paper["year"] == 2018


def test_the_version_is_said_once_and_the_changelog_has_it():
    assert PROJECT["dynamic"] == ["version"]
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "psc.__version__"}
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changes, re.MULTILINE)
    assert versions[0] == psc.__version__


def test_the_core_needs_torch_and_numpy_only_and_every_extra_is_known():
    assert set(CORE) == {"torch", "numpy"}
    assert {"train", "em", "mri", "video", "viewer", "docs", "dev", "all"} <= set(EXTRA)
    brought = {extra: {r.name for r in requirements(extra)} for extra in EXTRA}
    assert brought["em"] | brought["mri"] | brought["video"] | brought["viewer"] <= brought["all"]
    assert brought["all"] <= brought["dev"]
    # Names that are imported, in the messages, are those of the packages that the extra brings.
    names = metadata.packages_distributions()
    for extra, packages in EXTRAS.items():
        if extra == "nnunet":  # too large to be part of dev: often not installed
            assert brought[extra] == set(packages)
            continue
        for package in set(packages) - {"yaml", "markupsafe", "distributed", "hydra_plugins"}:
            assert package in names, package
            assert brought[extra] & {name.lower() for name in names[package]}, (extra, package)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "install --quiet --no-input --disable-pip-version-check -e '.[dev]'" in makefile


def test_the_library_works_without_the_training_framework_and_changes_nothing():
    core = [f"psc.{name}" for name in ("block", "accounting", "decomposition", "conversion")]
    core.append("psc.metrics")
    more = ["psc.networks", "psc.paper.published", "psc.em"]
    # tqdm: torch takes it where it is there; nobody needs it.
    program = f"""
import os, sys
sys.modules["tqdm"] = None
before = dict(os.environ)
import psc
print("torch" in sys.modules)
from psc import PSCBlock, convert
import {", ".join(core)}
print(*sys.modules)
import {", ".join(more)}
print(*sys.modules)
from psc.networks.build import build_network
print(os.environ == before, "psc.cli" in sys.modules)
"""
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert (loaded[0], loaded[3]) == ("False", "True False")
    first, second = (set(line.split()) for line in loaded[1:3])
    assert set(core) <= first
    assert set(more) <= second
    assert not {"hydra", "omegaconf", "lightning", "pytorch_lightning", "wandb"} & second
    ours = {name for name in first if name.startswith("psc.")}
    rooms = ("psc.block", "psc.accounting", "psc.decomposition", "psc.conversion", "psc.metrics")
    assert all(name == "psc.errors" or name.startswith(rooms) for name in ours)


def test_hooks_and_workflow_check_what_make_and_ci_check():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (local,) = hooks["repos"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.partition("\nlint: ")[2].partition("\n\n")[0].splitlines()[1:]
    assert [hook["entry"] for hook in local["hooks"]] == [
        line.strip().replace("$(BIN)", ".venv/bin") for line in lint
    ]
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert {"run": ".ci/run"} in steps
    assert all(re.search(r"@v\d+\.\d+\.\d+$", step["uses"]) for step in steps if "uses" in step)
    forms = [
        yaml.safe_load(p.read_text("utf-8")) for p in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")
    ]
    asked = [part["id"] for form in forms for part in form.get("body", ())]
    assert {"record", "question"} <= set(asked)
