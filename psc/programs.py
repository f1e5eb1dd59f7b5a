"""``psc train …``: the programs of the checkout, ``python train.py …``, by one command.

Wherever psc is installed: a wheel holds those that need nothing else of the checkout.
"""

import ast
import runpy
import sys
from difflib import get_close_matches
from pathlib import Path

from psc.errors import missing_package
from psc.files import PROJECT

_OTHERS = ("experiment", "summary", "summarize")
"""Former names."""


def programs() -> dict[str, Path]:
    """Program → file, by the verb that it is."""
    paths = [PROJECT / "train.py", PROJECT / "evaluate.py", *(PROJECT / "scripts").glob("*.py")]
    return {
        path.stem: path
        for path in sorted(paths, key=lambda path: path.stem)
        if path.stem not in _OTHERS
    }


def main() -> None:
    """Run the program that the command line names, with what follows."""
    known, verb = programs(), sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help"):
        print("psc PROGRAM [ARGUMENTS]; psc PROGRAM --help has its arguments.\n")
        for name, path in known.items():
            told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            print(f"  {name:<10} {told.splitlines()[0]}")
        return
    if verb not in known:
        near = get_close_matches(verb, known, n=1, cutoff=0)
        sys.exit(f"error: psc has no program {verb!r}; did you mean {near[0]}? psc --help has all")
    sys.argv = [str(known[verb]), *sys.argv[2:]]
    sys.path.insert(0, str(known[verb].parent))  # as for a program by itself
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except ImportError as error:
        if (extra := missing_package(error)) is None:
            raise
        sys.exit(f"error: {extra}")


if __name__ == "__main__":
    main()
