"""Measure our parts against their peers, on any machine with or without a GPU.

    python scripts/benchmark.py metrics            # label metrics against scikit-image
    python scripts/benchmark.py crops              # training patches against a NumPy copy
    python scripts/benchmark.py patches            # MRI patches against MONAI's cached crops
    python scripts/benchmark.py malis              # pair counts of the MALIS loss, and their growth
    python scripts/benchmark.py blockwise          # volumes of growing size: time, memory, disk
    python scripts/benchmark.py block              # P_mSC_n against plain 3D convolutions
    python scripts/benchmark.py networks           # whole networks, beside torchvision's, MONAI's
    python scripts/benchmark.py conversion         # psc.convert on whole networks

Prints Markdown tables. ``--out FILE.json`` keeps the numbers together with versions and machine,
``--csv FILE`` all tables as one. Beside tensorly-torch: experiments/conversion/peers.py.
"""

import argparse
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union

from psc import machine

machine.set_up()  # before torch is loaded

import torch
from benchmarks import blockwise, conversion, host, networks
from benchmarks.timing import Report, conditions_on

from psc.errors import PSCError

_BENCHMARKS: Mapping[str, Callable[..., Report]] = {
    "metrics": host.metrics,
    "crops": host.crops,
    "patches": host.patches,
    "malis": host.malis,
    "blockwise": blockwise.run,
    "block": networks.block,
    "networks": networks.networks,
    "conversion": conversion.run,
}
_HELP = {
    "repeats": "rounds per contestant",
    "seed": "of everything random",
    "layouts": "of tensors in memory",
    "device": "default: a GPU if there is one",
    "precisions": "default: all that the device has instructions for",
    "clock": "whose seconds are compared; default: wall on a GPU, cpu on a CPU",
}
"""Of what several benchmarks take; their own arguments are told in their docstrings."""


def main(
    arguments: Sequence[str] | None = None,
    benchmarks: Mapping[str, Callable[..., Report]] = _BENCHMARKS,
) -> int:
    """Run one benchmark; the exit status is 1 where the user's input was refused."""
    options = vars(_parser(benchmarks).parse_args(arguments))
    name: str = options.pop("benchmark")
    out, csv, threads = (options.pop(key) for key in ("out", "csv", "threads"))
    if threads is not None:
        torch.set_num_threads(threads)
    asked = {key: str(v) if isinstance(v, Path) else v for key, v in options.items()}
    try:
        if "device" in options:
            machine = {key: options.pop(key) for key in _machine(benchmarks[name])}
            options["on"] = conditions_on(**machine)
        report = benchmarks[name](**options)
    except PSCError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = replace(report, benchmark=name, settings=asked | dict(report.settings))
    print(report.as_markdown())
    if out is not None:
        report.write_json(out)
    if csv is not None:
        report.write_csv(csv)
    return 0


def _machine(benchmark: Callable[..., Report]) -> list[str]:
    """Arguments of the conditions that a benchmark is run under, if it takes any."""
    taken = inspect.signature(benchmark).parameters
    if "on" not in taken:
        return []
    # What is not run in a precision has no blocks or layouts to run in it.
    return ["device", "clock", *(["precisions"] if "blocks" in taken else [])]


def _parser(benchmarks: Mapping[str, Callable[..., Report]]) -> argparse.ArgumentParser:
    """A command for each benchmark, with the arguments of its function."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="benchmark")
    for name, function in benchmarks.items():
        text = inspect.getdoc(function) or ""
        command = commands.add_parser(name, help=text.splitlines()[0])
        command.add_argument("--out", type=Path, help="write the results to this JSON file")
        command.add_argument("--csv", type=Path, help="write the tables to this CSV file")
        command.add_argument("--threads", type=_positive, help="CPU threads of PyTorch")
        own = dict(inspect.signature(function).parameters)
        given = inspect.signature(conditions_on).parameters
        hints = typing.get_type_hints(function) | typing.get_type_hints(conditions_on)
        own.pop("on", None)
        for key, parameter in (own | {key: given[key] for key in _machine(function)}).items():
            found = re.search(rf"^    {key}: (.+(?:\n {{8}}.+)*)", text, re.MULTILINE)
            told = " ".join(found[1].split()) if found else _HELP[key]
            command.add_argument(
                f"--{key.replace('_', '-')}",
                default=parameter.default,
                help=told.replace("%", "%%"),
                **_typed(hints[key], key),
            )
    return parser


def _typed(hint: Any, key: str) -> dict[str, Any]:
    """What argparse is told of a parameter's type."""
    if typing.get_origin(hint) in (Union, UnionType):
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not NoneType)
    if typing.get_origin(hint) is Sequence:
        return {"nargs": "+"} | _typed(typing.get_args(hint)[0], key)
    if typing.get_origin(hint) is Literal:
        return {"choices": typing.get_args(hint)}
    return {"type": _positive if hint is int and key != "seed" else hint}


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
