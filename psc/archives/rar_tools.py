"""Unpacking RAR with whichever tool is on the machine: Python has none of its own."""

import logging
import shutil
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from psc.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Tool:
    """An unpacking program, and its command line; each prints a line for every file."""

    program: str
    arguments: Callable[[Path, Path], list[str]]


def _unrar(archive: Path, folder: Path) -> list[str]:
    # Overwrite, do not ask, no percentages, no password; the slash says that it is a folder.
    return ["x", "-o+", "-y", "-idp", "-p-", "--", str(archive), f"{folder}/"]


def _unar(archive: Path, folder: Path) -> list[str]:
    return ["-force-overwrite", "-no-directory", "-output-directory", str(folder), str(archive)]


def _seven_zip(archive: Path, folder: Path) -> list[str]:
    return ["x", "-y", "-bb1", "-bsp0", f"-o{folder}", "--", str(archive)]


def _bsdtar(archive: Path, folder: Path) -> list[str]:
    return ["-x", "-v", "--no-same-owner", "-f", str(archive), "-C", str(folder)]


_TOOLS = (
    _Tool("unrar", _unrar),
    _Tool("unar", _unar),
    _Tool("7z", _seven_zip),  # some distributions build it without RAR: the next one is tried
    _Tool("7zz", _seven_zip),
    _Tool("bsdtar", _bsdtar),
)
"""In the order in which they are tried: the one by RAR's author first."""

RAR_PROGRAMS = tuple(tool.program for tool in _TOOLS)
"""Names of the programs that can unpack RAR."""

INSTRUCTIONS = (
    "install one of them: apt install unrar (Debian, Ubuntu; or unar, libarchive-tools), dnf"
    " install unar or bsdtar (Fedora), conda install -c conda-forge p7zip or libarchive (7z,"
    " bsdtar), brew install unar (macOS; its bsdtar is there already)"
)


def require_rar_tool() -> None:
    """Say early that nothing here can unpack RAR.

    Raises:
        DataError: with the names of what to install.
    """
    if not any(shutil.which(program) for program in RAR_PROGRAMS):
        raise DataError(
            f"RAR archives need an outside program, and none of {', '.join(RAR_PROGRAMS)} is here;"
            f" {INSTRUCTIONS}"
        )


def unpack_rar(
    archive: Path,
    folder: Path,
    files: int,
    is_complete: Callable[[], None],
    *,
    progress: bool | None,
) -> None:
    """Unpack into an empty folder, with the first tool that can.

    A tool counts as able if it reports success and ``is_complete`` agrees: some lack RAR, or one of
    its methods, some fail at names, and not all of them report it.

    Args:
        archive: a RAR archive whose members have been found safe.
        folder: empty; emptied between tools.
        files: how many there are, for the progress bar.
        is_complete: raises DataError if the folder does not hold what it should.
        progress: show a bar; None: if standard error is a terminal.

    Raises:
        DataError: no tool is there, or none could.
    """
    require_rar_tool()
    failures = []
    for tool in _TOOLS:
        program = shutil.which(tool.program)
        if program is None:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        command = [program, *tool.arguments(archive.resolve(), folder.resolve())]
        status, said = _run(command, files, progress)
        problem = f"it failed with status {status}" if status else None
        try:
            is_complete()
        except DataError as error:
            problem = str(error)
        if problem is None:
            return
        failures.append(f"{tool.program}: {problem} (it said: {said})")
        log.warning("%s could not unpack %s", tool.program, archive)
    raise DataError(
        f"{archive} could not be unpacked:\n  " + "\n  ".join(failures) + "\n  If two programs say"
        " the same it is damaged: delete it and download it again. Another program may be able to:"
        f" {INSTRUCTIONS}"
    )


def _run(command: list[str], files: int, progress: bool | None) -> tuple[int, str]:
    """Run a tool to its end; returns its exit status and the last lines that it printed."""
    last: deque[str] = deque(maxlen=3)
    with (
        tqdm(
            desc=f"unpacking with {Path(command[0]).name}",
            total=files,
            unit="file",
            disable=None if progress is None else not progress,
        ) as bar,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,  # whatever it asks, nobody answers
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                last.append(line.strip())
                bar.update(min(1, files - bar.n))
    return process.returncode, " | ".join(last) or "nothing"
