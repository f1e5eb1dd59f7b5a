"""Of which commit a page is. Its date is the commit's: the same commit gives the same page."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from psc.code_version import code_version
from psc.provenance import PROJECT, git_state


@dataclass(frozen=True)
class Origin:
    """Where a page comes from.

    Attributes:
        version: commit in a few digits, "-dirty" with uncommitted changes; "unknown" without git.
        date: the day of the commit, ISO 8601; None without git.
    """

    version: str
    date: str | None


def page_origin(folder: Path = PROJECT) -> Origin:
    """Of the checkout."""
    state = git_state(folder)
    if state["commit"] is None:
        return Origin("unknown", None)
    shown = subprocess.run(
        ["git", "-C", str(folder), "show", "--no-patch", "--format=%cs", state["commit"]],
        check=True,
        capture_output=True,
        text=True,
    )
    return Origin(code_version(state), shown.stdout.strip())
