"""One version of the code per comparison: records of several are refused, not mixed."""

from collections.abc import Mapping
from pathlib import Path

from psc.code_version import code_version, is_version
from psc.errors import DataError
from psc.results import Record


def of_one_version(
    records: Mapping[Path, Record], *, commit: str | None = None, all_commits: bool = False
) -> dict[Path, Record]:
    """The records to be compared, by run folder.

    Args:
        records: of all finished runs, by run folder.
        commit: take those of this version only: the first digits of a commit, with ``-dirty``
            for runs of a checkout with uncommitted changes.
        all_commits: take all; what belongs to different versions is then never averaged.

    Raises:
        DataError: if records of several versions are there and none was chosen, or none is of the
            version that was.
    """
    if all_commits:
        return dict(records)
    versions: dict[str, list[str]] = {}
    for path, record in records.items():
        versions.setdefault(code_version(record.git), []).append(path.name)
    listed = "\n".join(
        f"  {version}: {len(runs)} run{'s'[: len(runs) != 1]} ({', '.join(runs)})"
        for version, runs in versions.items()
    )
    if commit is not None:
        chosen = {path: r for path, r in records.items() if is_version(r.git, commit)}
        if not chosen:
            raise DataError(f"no run here is of version {commit} of the code:\n{listed}")
        if len({code_version(record.git) for record in chosen.values()}) > 1:
            raise DataError(
                f"--commit {commit} is more than one version, say more of it:\n{listed}"
            )
        return chosen
    if len(versions) > 1:
        raise DataError(
            f"these runs are of {len(versions)} versions of the code and are not compared:\n"
            f"{listed}\n"
            f"choose one (--commit {next(reversed(versions))}), show them as rows of their own "
            "(--all-commits), or keep each version's runs in a folder of its own"
        )
    return dict(records)
