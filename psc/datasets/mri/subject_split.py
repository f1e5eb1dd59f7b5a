"""Which subjects train, which choose, which test (Section 4.2): by subject, never by slice.

Neighbouring slices or patches of one brain are nearly the same: on a split by either of them a
network is tested on what it has seen.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from psc.datasets.mri.files import GETTING_IBSR
from psc.errors import ConfigError, DataError

__all__ = ["SubjectSplit", "k_fold", "read_split", "require_present"]

_PARTS = ("train", "validation", "test")
_KEYS = ("description", *_PARTS)


@dataclass(frozen=True)
class SubjectSplit:
    """Names of subjects in three parts.

    Attributes:
        train: subjects for gradient steps.
        validation: subjects for checkpoints.
        test: subjects for the reported numbers.
        description: where the split comes from, for records and messages.

    Raises:
        DataError: a part is empty, or a subject stands twice.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    description: str

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if not part:
                raise DataError(f"{self.description}: no subject in {name}; each part needs one")
        if twice := _twice(name for part in self.parts.values() for name in part):
            where = {
                subject: ", ".join(
                    name for name in _PARTS for s in self.parts[name] if s == subject
                )
                for subject in twice
            }
            listed = "; ".join(f"{subject} ({parts})" for subject, parts in where.items())
            raise DataError(
                f"{self.description}: subjects that stand twice: {listed}. A network tested on a"
                " brain that it was trained on shows nothing; leave each in one part"
            )

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def record(self) -> dict[str, Any]:
        """What result.json says about the split."""
        parts = {name: list(part) for name, part in self.parts.items()}
        return {"description": self.description, **parts}


def read_split(path: Path) -> SubjectSplit:
    """Read a split from a YAML file: description, train, validation and test.

    Raises:
        DataError: it cannot be read; a key is unknown, missing or there twice; the description is
            no text or a part no list of names; what ``SubjectSplit`` refuses.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(
            f"{path} cannot be read as a split ({error}); give the path of a YAML file with"
            f" {', '.join(_KEYS)}, such as data/splits/ibsr.yaml"
        ) from error
    # YAML's dict keeps the last of two equal keys; its syntax tree has both.
    if not isinstance(content, dict) or not isinstance(tree, yaml.MappingNode):
        raise DataError(f"{path}: expected the keys {', '.join(_KEYS)}, found {content!r:.60}")
    keys = [key.value for key, _ in tree.value]
    if sorted(map(str, keys)) != sorted(_KEYS):
        raise DataError(
            f"{path}: has the keys {', '.join(map(str, keys))}; it needs {', '.join(_KEYS)}, each"
            " once, and no others"
        )
    if not isinstance(content["description"], str) or not content["description"].strip():
        raise DataError(
            f"{path}: description is {content['description']!r}; say in words where the split"
            " comes from"
        )
    train, validation, test = (_names(path, key, content[key]) for key in _PARTS)
    description = " ".join(content["description"].split())
    try:
        return SubjectSplit(train, validation, test, description)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def k_fold(
    subjects: Collection[str], *, folds: int, fold: int, validation: int, seed: int
) -> SubjectSplit:
    """One fold of a cross-validation over subjects; over all folds each is tested once.

    The subjects, sorted by name, are put into a random order, and that order is cut into
    ``folds`` parts whose sizes differ by one at most. Part ``fold`` is tested; the ``validation``
    subjects that follow it in the order, from whose end it goes on at its start, choose; all others
    train.

    Args:
        subjects: names; their order does not matter.
        folds: how many parts, from 2 to the number of subjects.
        fold: which of them is tested, from 0.
        validation: how many subjects choose, at least 1.
        seed: of the order, at least 0; the same for all folds.

    Raises:
        ConfigError: values that are impossible together; every fold refuses alike.
    """
    names = sorted(subjects)
    if twice := _twice(names):
        raise ConfigError(f"subjects {', '.join(twice)} are given twice; give each once")
    if not 2 <= folds <= len(names):
        raise ConfigError(
            f"folds is {folds}, but {len(names)} subjects are there; choose 2 to {len(names)}"
            if len(names) >= 2
            else f"folds is {folds}, but a cross-validation needs subjects: {len(names)} are there"
        )
    if not 0 <= fold < folds:
        raise ConfigError(f"fold is {fold}, but folds is {folds}; choose 0 to {folds - 1}")
    most_tested = -(-len(names) // folds)
    room = len(names) - most_tested - 1  # one subject at least trains
    if not 1 <= validation <= room:
        raise ConfigError(
            f"validation is {validation}, but with {len(names)} subjects in {folds} folds it is 1"
            f" to {room}"
            if room >= 1
            else f"folds is {folds}: of {len(names)} subjects {most_tested} would be tested, which"
            " leaves too few to train and to choose on; choose more folds or add subjects"
        )
    if seed < 0:
        raise ConfigError(f"the folds' seed is {seed}; choose 0 or more")
    order = np.random.default_rng(seed).permutation(len(names))
    parts = np.array_split(order, folds)
    behind = sum(len(part) for part in parts[: fold + 1])
    # Beginning behind the part that is tested, which so comes last.
    cycle = [names[i] for i in np.roll(order, -behind)]
    first_tested = len(names) - len(parts[fold])
    return SubjectSplit(
        train=tuple(sorted(cycle[validation:first_tested])),
        validation=tuple(sorted(cycle[:validation])),
        test=tuple(sorted(cycle[first_tested:])),
        description=(
            f"fold {fold} (from 0) of {folds} over {len(names)} subjects in the order of seed"
            f" {seed}, {validation} for validation"
        ),
    )


def require_present(split: SubjectSplit, found: Collection[str]) -> None:
    """Refuse to begin without all the subjects of a split.

    Args:
        split: the split.
        found: names of the subjects at hand.

    Raises:
        DataError: naming those that are missing.
    """
    missing = {
        name: absent
        for name, part in split.parts.items()
        if (absent := [subject for subject in part if subject not in found])
    }
    if missing:
        listed = "; ".join(f"{name}: {', '.join(absent)}" for name, absent in missing.items())
        raise DataError(
            f"{split.description}: subjects that are missing: {listed}. Add their files, or use a"
            f" split of those that are there ({', '.join(sorted(found)) or 'none'}). {GETTING_IBSR}"
        )


def _names(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise DataError(
            f"{path}: {key} is {value!r:.80}; give a list of subjects' names, as [IBSR_01, IBSR_02]"
        )
    return tuple(value)


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
