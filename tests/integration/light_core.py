"""A Python that has some packages only, with what these need: for tests of what does without."""

import importlib.metadata as metadata
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *(f"docs/{n}.md" for n in ("block", "convert", "networks", "conventions")))
"""Whose examples run there, but for those of psc.metrics."""


def closure(*names):
    """Distributions and all that they require, by their normalised names."""
    found, left = {}, list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        try:
            found[name] = distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        needed = map(Requirement, distribution.requires or [])
        needed = (r for r in needed if r.marker is None or r.marker.evaluate({"extra": ""}))
        left += [r.name for r in needed if re.sub(r"[-_.]+", "-", r.name).lower() not in found]
    return found


def link(folder, *names):
    """Links to what these distributions, and all that they require, install."""
    for distribution in closure(*names).values():
        tops = {Path(file).parts[0] for file in distribution.files if ".." not in Path(file).parts}
        for top in tops - {"__pycache__"}:
            source, target = Path(distribution.locate_file(top)), folder / top
            if not target.exists():
                target.symlink_to(source)
    return folder


def run(folder, *arguments, psc=ROOT, **options):
    """Python with the packages of a folder, the standard library, and psc."""
    before = f"import sys; sys.path[:0] = [{str(psc)!r}, {str(folder)!r}]; "
    if arguments[0] == "-c":
        program = before + f"exec({arguments[1]!r})"
        rest = arguments[2:]
    else:
        program = before + f"import runpy; sys.argv = {list(map(str, arguments))!r}; "
        program += "runpy.run_path(sys.argv[0], run_name='__main__')"
        rest = ()
    command = [sys.executable, "-I", "-S", "-c", program, *map(str, rest)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)
