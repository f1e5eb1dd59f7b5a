"""What pyproject.toml cannot say: a wheel holds what the programs need of the checkout.

That is ``psc/project``: the configurations, the splits and sources of the data, and the programs.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HELD = ("configs", "data/splits", "data/sources.yaml", "train.py", "evaluate.py")
PROGRAMS = ("account", "classify", "compare", "convert", "data", "segment", "view")


class BuildWithProject(build_py):
    """The packages, and beside them the project's files."""

    def run(self) -> None:
        """Copy, but for an editable installation, which has the checkout itself."""
        super().run()
        if self.editable_mode:
            return
        project = Path(self.build_lib, "psc", "project")
        shutil.rmtree(project, ignore_errors=True)
        for name in (*HELD, *(f"scripts/{program}.py" for program in PROGRAMS)):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if Path(name).is_dir() else shutil.copy2
            copy(name, project / name)


setup(cmdclass={"build_py": BuildWithProject})
