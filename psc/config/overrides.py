"""Arguments as they are typed, in Hydra's grammar: text is taken letter for letter.

Hydra reads ``epoch=3.ckpt``, ``a,b``, ``größe``, ``x[0]`` or ``1e3`` as anything but a file's name.
The schema says which keys hold text, so their values are quoted before Hydra sees them; what is
quoted already, ``null`` and, in a sweep, whatever Hydra can read stay as they are. What cannot be
read otherwise is refused with the spelling that can.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from psc.config.choices import CONFIG_DIRECTORY
from psc.config.schema import (
    AccountConfig,
    ClassifyConfig,
    EvaluateConfig,
    SegmentConfig,
    TrainConfig,
    ViewConfig,
)
from psc.errors import ConfigError

PROGRAMS = (TrainConfig, EvaluateConfig, SegmentConfig, ClassifyConfig, AccountConfig, ViewConfig)

_KEY = re.compile(r"(?:\+\+?|~)?[A-Za-z_][\w$@:/-]*(?:\.[\w$@:/-]+)*\Z", re.ASCII)
_MIXED: dict[str, tuple[type, ...]] = {
    "resume": (bool, int, float),
    "dataset.csv": (list, dict),
}
"""Keys that hold text or something else, which Hydra tells by its look."""

_OPTIONS = (
    *("--config-path", "--config-name", "--config-dir", "--package", "--cfg", "--info"),
    *("-cp", "-cn", "-cd", "-p", "-c", "-i"),
)
"""Hydra's, which are followed by a value."""


def as_hydra_reads(arguments: Sequence[str], *programs: type) -> list[str]:
    """The arguments of a command line with every text quoted; given its result, the same again.

    Hydra's own options may be among them. ``programs``: dataclasses of what is taken; by default
    those of all programs of ``configs/``.
    """
    texts, others, entries = _kinds(programs or PROGRAMS)
    sweep = any(
        argument in ("-m", "--multirun") or re.match(r"sweep=(?!none$)|hydra\.mode=MULTI", argument)
        for argument in arguments
    )
    found: list[str] = []
    for number, argument in enumerate(arguments):
        before = arguments[number - 1] if number else ""
        if argument.startswith("-") or before in _OPTIONS:
            found.append(argument)
            continue
        key, equals, value = argument.partition("=")
        if not equals and not key.startswith("~"):
            whole = f"; if it belongs to the one before: {shlex.quote(f'{before} {argument}')}"
            raise ConfigError(f"{argument} is not key=value{whole if '=' in before else ''}")
        if not _KEY.match(key):
            raise ConfigError(f"{argument}: there is no key {key!r}; --help lists them")
        name, readable = key.lstrip("+~"), _readable(argument)
        first, _, below = name.partition(".")
        if first == "hydra" and below.split(".")[0] not in (f.name for f in fields(HydraConf)):
            raise ConfigError(f"{name}: nothing reads this key; --hydra-help tells Hydra's")
        mixed = _MIXED.get(name, ()) if name in others else ()
        if not programs and (CONFIG_DIRECTORY / name).is_dir():
            _check_choice(key, value, sweep=sweep)
        if value and not (sweep and readable) and not _is_settled(value, mixed):
            if name in texts and (mixed or name not in others):
                # Shells leave the home folder behind key= as it is, a folder ~ would be made
                text = str(Path(value).expanduser()) if value.startswith("~/") else value
                argument = f"{key}={_quoted(text)}"
            elif listed := entries.get(re.sub(r"\.\d+$", "", name)):
                argument = f"{key}={_entries_quoted(value, *listed)}"
            elif not readable and value[0] not in "[{":  # its type is refused in Hydra's words
                argument = f"{key}={_quoted(value)}"
        if not _readable(argument):
            raise ConfigError(_advice(key, value))
        found.append(argument)
    return found


def names_in(group: str) -> str:
    """The choices that a folder of ``configs`` has."""
    folder = CONFIG_DIRECTORY / group
    files = sorted(folder.rglob("*.yaml"))
    return ", ".join(str(file.relative_to(folder).with_suffix("")) for file in files)


def _check_choice(key: str, value: str, *, sweep: bool) -> None:
    """Refuse no choice, or several, of a group, and one more after what else has changed it."""
    name = key.lstrip("+~")
    if key.startswith("+"):
        raise ConfigError(f"{key}={value}: {name} is chosen already; write {name}={value}")
    several = value.split(",") if sweep else [value]
    if value[:1] == "[" or any(one.strip().lower() == "null" for one in several):
        raise ConfigError(f"{key}={value}: name one of {names_in(name)}, or leave it out")


def _is_settled(value: str, mixed: tuple[type, ...]) -> bool:
    """Whether a value is what it is for Hydra: quoted, null, of another type."""
    parsed = _parsed(f"key={value}")
    if isinstance(parsed, mixed):
        return True
    return value.lower() == "null" or (value[0] in "'\"" and isinstance(parsed, QuotedString))


def _parsed(argument: str) -> Any:
    """What Hydra reads, without its types of strings; None where it cannot."""
    try:
        return OverridesParser.create().parse_override(argument)._value
    except HydraException:
        return None


def _readable(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _entries_quoted(value: str, texts: frozenset[str], names: frozenset[str]) -> str:
    """A list of entries, ``[{raw:a,z:[0,9]}]``, with the texts of each quoted."""
    end = rf"(?=\s*(?:,\s*(?:{'|'.join(names)})\s*:|\}}\s*(?:,\s*\{{|\]?\s*$)))"
    text = re.compile(rf"([{{,]\s*(?:{'|'.join(texts)})\s*:\s*)(?!['\"\s]|null\b)(.*?){end}")
    return text.sub(lambda found: found[1] + _quoted(found[2]), value)


def _advice(key: str, value: str) -> str:
    """The refusal of a value that Hydra cannot read."""
    spelled = re.sub(
        r"[^\[\]{},:'\"]+",
        lambda part: part[0] if _readable(f"key={part[0]}") else _quoted(part[0]),
        value,
    )
    lines = [f"{key}={value} cannot be read: brackets, braces and quotes come in pairs, and text"]
    lines += ["that holds anything but letters, digits and /._-:% is put in quotes, which the"]
    lines += ["shell must not take away, for example"]
    example = f"{key}={spelled}" if _readable(f"{key}={spelled}") else f"{key}=['a=b.h5','c d.h5']"
    return "\n  ".join([*lines, shlex.quote(example)])


@cache
def _kinds(
    programs: tuple[type, ...],
) -> tuple[frozenset[str], frozenset[str], dict[str, tuple[frozenset[str], frozenset[str]]]]:
    """Keys that hold text; those that hold something else, perhaps elsewhere; lists of entries."""
    texts, others = set(), set()
    entries: dict[str, tuple[frozenset[str], frozenset[str]]] = {}
    for program in programs:
        for key, kind in _leaves(program):
            if kind is str or key in _MIXED:
                texts.add(key)
            if kind is str:
                continue
            others.add(key)
            of = get_args(kind)[0] if get_origin(kind) is list else None
            if is_dataclass(of) and isinstance(of, type):
                named = dict(_leaves(of))
                below = frozenset(name for name, one in named.items() if one is str)
                entries[key] = below, frozenset(name.split(".")[0] for name in named)
                texts.update(f"{key}.{n}.{name}" for n in range(9) for name in below)
    return frozenset(texts), frozenset(others), entries


def _leaves(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a dataclass, or a subclass of it, with its type but for ``None``."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        of = [part for part in get_args(hints[field.name]) if part is not NoneType]
        hint = of[0] if NoneType in get_args(hints[field.name]) and len(of) == 1 else None
        hint = hint or hints[field.name]
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _leaves(hint, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hint
    below: list[type] = kind.__subclasses__()
    for one in below:
        yield from _leaves(one, prefix)
