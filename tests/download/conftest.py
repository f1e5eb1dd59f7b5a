"""Programs that stand in for those that unpack RAR."""

import sys
import textwrap

import pytest


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Function: put a program of that name, and nothing else, on the PATH.

    It answers the question whether it works, and else runs ``body``, which has the archive's path.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def put(name, body):
        program = folder / name
        head = f"""\
            #!{sys.executable} -S
            import os, pathlib, sys, time
            if "-?" in sys.argv or "--version" in sys.argv:
                sys.exit()
            archive, out = pathlib.Path(sys.argv[-1]), sys.stdout.buffer
            assert archive.is_absolute() and archive.is_file()
            """
        program.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        program.chmod(0o755)

    return put


@pytest.fixture
def unrar(tools):
    """Function: a stand-in for unrar p: the contents one after another, then something more."""

    def put(contents, then="pass"):
        tools("unrar", f"out.write({b''.join(contents)!r})\nout.flush()\n{textwrap.dedent(then)}\n")

    return put
