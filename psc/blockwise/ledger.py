"""What of an output folder is done, and of which inputs and options it is the result.

Every finished block leaves a marker, a file that appears whole and after the block's data. So a
process may end at any moment: what has a marker is never done again, what has none is redone, with
the same result. (Data are handed to the operating system before the marker: a killed process loses
nothing; a power failure may.)
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psc.errors import ConfigError, DataError

__all__ = ["Ledger", "Stage"]

_DESCRIPTION = "blockwise.json"
_SUMMARY = "summary.json"
_MARKERS = "work/done"


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    Attributes:
        name: the folder of its markers.
        options: whatever its result depends on beside the stages before; plain values.
        products: files and folders within the output that only this stage writes.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    products: tuple[str, ...] = ()


class Ledger:
    """The bookkeeping of one output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def complete(self) -> bool:
        """Whether everything was done."""
        return (self.folder / _SUMMARY).is_file()

    def open(self, stages: Sequence[Stage], *, overwrite: bool) -> None:
        """Make the folder ready for these stages: begin, resume, or clear what is out of date.

        Args:
            stages: in the order in which they build on each other.
            overwrite: whether results may be removed: all of them if they are complete and of the
                same inputs and options; else those of the first stage that differs, and of all
                after it.

        Raises:
            ConfigError: there is something that may not be removed; nothing has been changed.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"output={self.folder} is a file; give a folder")
        described = _described(stages)
        present = self._description()
        if present is None:
            self._require_empty()
        elif (different := _first_difference(present, described)) is not None:
            if not overwrite:
                raise ConfigError(
                    f"output={self.folder} holds results of other inputs or options"
                    f" ({different[1]}); give another folder, or overwrite=true to replace"
                    f" everything from the stage {stages[different[0]].name!r} on"
                )
            self._remove(stages[different[0] :])
        elif self.complete:
            if not overwrite:
                raise ConfigError(
                    f"output={self.folder} exists and is complete; give another folder, or"
                    " overwrite=true to do it again"
                )
            self._remove(stages)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(self.folder / _DESCRIPTION, {"stages": described})

    def done(self, stage: str) -> dict[int, dict[str, int]]:
        """What the finished blocks of a stage reported, by the block's index."""
        folder = self.folder / _MARKERS / stage
        paths = folder.glob("*.json") if folder.is_dir() else ()
        return {int(path.stem): json.loads(path.read_text()) for path in paths}

    def has(self, stage: str, index: int) -> bool:
        """Whether a block is finished."""
        return (self.folder / _MARKERS / stage / f"{index}.json").is_file()

    def mark(self, stage: str, index: int, report: dict[str, int]) -> None:
        """Note, after its data are written, that a block is finished."""
        path = self.folder / _MARKERS / stage / f"{index}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path, report)

    def finish(self, summary: dict[str, Any]) -> None:
        """Note that everything is done."""
        self._write(self.folder / _SUMMARY, summary)

    def _description(self) -> list[dict[str, Any]] | None:
        try:
            stages = json.loads((self.folder / _DESCRIPTION).read_text())["stages"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            raise DataError(
                f"{self.folder / _DESCRIPTION} is damaged ({error}); remove the folder and start"
                " again"
            ) from error
        return list(stages)

    def _require_empty(self) -> None:
        strangers = (
            [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]
            if self.folder.is_dir()
            else []
        )
        if strangers:
            raise ConfigError(
                f"output={self.folder} holds {min(strangers)} and was not written by this program,"
                " which therefore removes nothing in it; give another folder"
            )

    def _remove(self, stages: Sequence[Stage]) -> None:
        """Markers before data: a kill in between must not leave one without the other."""
        (self.folder / _SUMMARY).unlink(missing_ok=True)
        for stage in stages:
            shutil.rmtree(self.folder / _MARKERS / stage.name, ignore_errors=True)
        for stage in stages:
            for product in stage.products:
                path = self.folder / product
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            partial.write_text(json.dumps(content, indent=1) + "\n")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _described(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Each stage's options, and a digest of its own and of all before it."""
    described: list[dict[str, Any]] = []
    digest = ""
    for stage in stages:
        options = json.loads(json.dumps(stage.options))  # tuples become lists, as in the file
        text = json.dumps([digest, stage.name, options], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        described.append({"name": stage.name, "options": options, "digest": digest})
    return described


def _first_difference(
    present: Sequence[dict[str, Any]], wanted: Sequence[dict[str, Any]]
) -> tuple[int, str] | None:
    """The first stage whose digest is another, and what of it changed."""
    for i, stage in enumerate(wanted):
        if i >= len(present):
            return i, f"stage {stage['name']} is new"
        if present[i]["digest"] != stage["digest"]:
            old, new = present[i]["options"], stage["options"]
            changed = [
                f"{key}: {old.get(key)} there, {new.get(key)} now"
                for key in sorted(old.keys() | new.keys())
                if old.get(key) != new.get(key)
            ]
            return i, "; ".join(changed) or "another version of this program"
    if len(present) > len(wanted):
        return len(wanted) - 1, f"stage {present[len(wanted)]['name']} is not wanted any more"
    return None
