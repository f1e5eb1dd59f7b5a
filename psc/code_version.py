"""Which version of the code a result is of, in a few characters, and when to say that it is not."""

from collections.abc import Mapping
from typing import Any

DIRTY = "-dirty"
"""What git appends to the name of a checkout with uncommitted changes."""


def code_version(git: Mapping[str, Any]) -> str:
    """The version that a record's ``git`` (``psc.provenance.git_state``) names.

    Returns:
        The first 8 digits of the commit, with ``-dirty`` where the checkout had uncommitted
        changes; "unknown" where the code was in no git checkout.
    """
    if git["commit"] is None:
        return "unknown"
    return str(git["commit"])[:8] + (DIRTY if git["dirty"] else "")


def is_version(git: Mapping[str, Any], wanted: str) -> bool:
    """Whether a record's ``git`` is the version that a user names by any number of digits."""
    name = code_version(git)
    if name == "unknown":
        return wanted == name
    dirty = wanted.endswith(DIRTY)
    digits = wanted.removesuffix(DIRTY)
    return bool(digits) and dirty == name.endswith(DIRTY) and str(git["commit"]).startswith(digits)


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Why a finished run may not be what the present code would compute; None where it is.

    Args:
        then: ``git`` of the run's record.
        now: ``git`` of the code that runs.
    """
    old, new = code_version(then), code_version(now)
    if old != new:
        return f"it is a result of code {old}, and the code is now {new}"
    if old == "unknown":
        return "nobody knows of which code: there is no git checkout"
    if old.endswith(DIRTY):
        commit = old.removesuffix(DIRTY)
        return f"the code had uncommitted changes since {commit}, perhaps others than now"
    return None
