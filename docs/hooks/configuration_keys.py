"""Every key of the configuration, as a page: ``python docs/hooks/configuration_keys.py``.

Keys, types, defaults and allowed values are those of the typed schema (``psc.config``). What a key
means stands at its field, above it in a file of ``configs/``, or among the arguments of what the
schema's class says it is for; choices are the files of ``configs/``, with the comment that each
begins with.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

from omegaconf import MISSING

from psc.config import schema
from psc.config.compose import CONFIG_DIRECTORY, TYPES
from psc.conversion.checkpoints import ConvertConfig

PROGRAMS = {
    "train.py": ("train", schema.TrainConfig),
    "evaluate.py": ("evaluate", schema.EvaluateConfig),
    "scripts/segment.py": ("segment", schema.SegmentConfig),
    "scripts/classify.py": ("classify", schema.ClassifyConfig),
    "scripts/convert.py": ("", ConvertConfig),
    "scripts/account.py": ("account", schema.AccountConfig),
    "scripts/view.py": ("view", schema.ViewConfig),
}
"""Program → the file of configs/ that says its defaults, and its type."""

_COMMENTED = {
    "FibsemConfig": "dataset/own_em",
    "OwnMRIConfig": "dataset/own_mri",
    "OwnVideoConfig": "dataset/own_video",
}
_WORDS = {int: "integer", float: "number", str: "text", bool: "true, false", type(None): "null"}
_WORDS |= {Any: "any", dict: "mapping"}


def configuration_page() -> str:
    """The page: programs, then what stands below their keys, then the choices of each group."""
    lines = [
        "# Configuration: every key",
        "",
        "A key is typed as `key=value`, those below another as"
        " `recipe.optimizer.learning_rate=1e-4`, a choice of a group as `block=p2sc2`; `null` is"
        " no value. `--help` of each program shows the values that a choice sets. This page is"
        " generated from the schema and the files of `configs/`.",
        "",
    ]
    for program, (file, kind) in PROGRAMS.items():
        lines += [f"## {program}", "", f"`python {program} key=value …`. {_told(kind)}", ""]
        lines += [*_table(kind, _comments(file), nested=False), ""]
    kinds: dict[str, dict[type, list[str]]] = {"backbone": {}, "dataset": {}, "recipe": {}}
    for name, (backbone, recipe, datasets) in TYPES.items():
        kinds["backbone"].setdefault(backbone, []).append(name)
        kinds["recipe"].setdefault(recipe, []).append(name)
        for dataset in datasets:
            kinds["dataset"].setdefault(dataset, []).append(name)
    below: dict[str, list[tuple[str, type]]] = {
        group: [(", ".join(names), kind) for kind, names in found.items()]
        for group, found in kinds.items()
    }
    for field in dataclasses.fields(schema.TrainConfig):
        if dataclasses.is_dataclass(field.type) and field.name not in below:
            below[field.name] = [("", typing.cast(type, field.type))]
    for group, parts in below.items():
        lines += [f"## {group}", "", *_choices(group)]
        for names, kind in parts:
            if names:
                lines += [f"### {group}: {_of(group, kind) or names}", ""]
            comments = _comments(_COMMENTED.get(kind.__name__, ""))
            lines += [_told(kind), "", *_table(kind, comments, group), ""]
    for group in ("sweep", "hydra/launcher"):
        lines += [f"## {group}", "", *_choices(group)]
    return "\n".join(lines) + "\n"


def _table(
    kind: type, comments: dict[str, str], prefix: str = "", *, nested: bool = True
) -> list[str]:
    """A row for each key, with those of the dataclasses below it unless they have a chapter."""
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, hint, default, told in _keys(kind, comments, prefix, nested):
        rows.append(f"| `{key}` | {hint} | {default} | {told} |".replace("\n", " "))
    return rows


def _keys(
    kind: type, comments: dict[str, str], prefix: str, nested: bool
) -> Iterator[tuple[str, str, str, str]]:
    hints, meant, allowed = typing.get_type_hints(kind), _meanings(kind), _allowed(kind)
    expanded: dict[Any, str] = {}
    for field in dataclasses.fields(kind):
        key, hint = f"{prefix}.{field.name}".lstrip("."), hints[field.name]
        inner: Any = next((k for k in _flat(hint) if dataclasses.is_dataclass(k)), None)
        told = meant.get(field.name) or comments.get(field.name, "")
        if not nested and (inner is not None or field.name == "segmentation"):
            yield key, f"[{field.name}](#{field.name})", "", _cell(told)
            continue
        listed = inner is not None and typing.get_origin(hint) is list
        if inner is None or listed or type(None) in _flat(hint):
            names = allowed.get(field.name)
            words = ", ".join(f"`{_plain(name)}`" for name in names) if names else _words(hint)
            told = told or (f"as `{expanded[inner]}`" if inner in expanded else "")
            yield key, words, _default(field), _cell(told)
        if inner is not None and inner not in expanded:
            expanded[inner] = key
            yield from _keys(inner, {}, key + ("[]" if listed else ""), nested)


def _flat(hint: Any) -> list[Any]:
    """The types in a union or a list."""
    inner = typing.get_args(hint)
    return [part for each in inner for part in _flat(each)] if inner else [hint]


def _words(hint: Any) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(_words(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) in (list, tuple):
        return "list of " + _words(next(iter(typing.get_args(hint))))
    return _WORDS.get(hint, "mapping" if dataclasses.is_dataclass(hint) else str(hint))


def _default(field: "dataclasses.Field[Any]") -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING or value == MISSING:
        return "set by the choice, or required"
    if dataclasses.is_dataclass(value):
        return ""
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(part) for part in value)}]"
    return (
        str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
    )


def _cell(text: str) -> str:
    """Text of one line, in which only code in backticks is marked up."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.replace("``", "`").split()).replace("|", "\\|"))
    pieces[0::2] = [
        re.sub(r"([*_])", r"\\\1", piece).replace("<", "&lt;") for piece in pieces[0::2]
    ]
    return "".join(pieces)


def _told(kind: type) -> str:
    """What a class is for."""
    return inspect.cleandoc(kind.__doc__ or "").replace("``", "`").split("\n\nAttributes:")[0]


def _meanings(kind: type) -> dict[str, str]:
    """Field → what stands below it, beside it, or of its name in the class that is named."""
    found: dict[str, str] = {}
    docs = " ".join(base.__doc__ or "" for base in kind.__mro__[:-1])
    for named in re.findall(r"``(psc(?:\.\w+)+)``", docs):
        module, _, name = named.rpartition(".")
        try:
            target = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
        found |= _arguments(inspect.getdoc(target) or "")
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base) or base.__module__ == "types":
            continue
        found |= _arguments(inspect.cleandoc(base.__doc__ or ""))
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except OSError:  # made, not written: SegmentationChanges
            continue
        body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
        for statement, following in zip(body, [*body[1:], ast.Pass()], strict=True):
            if not (
                isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            ):
                continue
            beside = source.splitlines()[(statement.end_lineno or 1) - 1].partition("  # ")[2]
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                beside = inspect.cleandoc(str(following.value.value))
            if beside:
                found[statement.target.id] = beside
    return found


def _arguments(docstring: str) -> dict[str, str]:
    """Name → text of a docstring's Args."""
    pattern = r"^(?:Args|Attributes):\n((?: +.*\n?|\n(?= ))+)"
    section = re.search(pattern, docstring, flags=re.MULTILINE)
    parts = re.split(r"^    (\w+): ", section[1], flags=re.M) if section else [""]
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _allowed(kind: type) -> dict[str, tuple[Any, ...]]:
    """Field → the values that ``__post_init__`` requires of it."""
    found: dict[str, tuple[Any, ...]] = {}
    for base in reversed(kind.__mro__):
        if "__post_init__" not in vars(base):
            continue
        function = vars(base)["__post_init__"]
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "require":
                key, values = call.args[1:3]
                code = compile(ast.Expression(values), "<allowed>", "eval")
                found[ast.literal_eval(key)] = tuple(eval(code, function.__globals__))
    return found


def _comments(file: str) -> dict[str, str]:
    """Key → the comment above it in a file of configs/."""
    found: dict[str, str] = {}
    above: list[str] = []
    path = CONFIG_DIRECTORY / f"{file}.yaml"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        if line.startswith("# "):
            above.append(line[2:])
        elif key := re.match(r"(\w+):", line):
            found[key[1]] = " ".join(above)
            above = []
        else:
            above = []
    return found


def _of(group: str, kind: type) -> str:
    """The choices of a group that are of this type."""
    schema_name = f"/schema/{kind.__name__.removesuffix('Config').lower()}@"
    files = sorted((CONFIG_DIRECTORY / group).glob("*.yaml"))
    return ", ".join(f.stem for f in files if schema_name in f.read_text(encoding="utf-8"))


def _choices(group: str) -> list[str]:
    """A table of a group's files, each with the comment that it begins with."""
    files = sorted((CONFIG_DIRECTORY / group).rglob("*.yaml"))
    if not files:
        return []
    if group == "recipe":
        intro = "Chosen by backbone and `budget`; `recipe=<choice>` takes another."
    else:
        intro = f"Choices, `{group}=<choice>`:"
    rows = [intro, "", "| choice | |", "| --- | --- |"]
    for path in files:
        name = path.relative_to(CONFIG_DIRECTORY / group).with_suffix("")
        comment: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("# ") and not line.startswith("# @"):
                comment.append(line[2:])
            elif comment:
                break
        rows.append(f"| `{name}` | {_cell(' '.join(comment))} |")
    return [*rows, ""]


if __name__ == "__main__":
    sys.stdout.write(configuration_page())
