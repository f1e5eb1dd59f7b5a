"""Measure our parts against their peers, on any machine with or without a GPU.

    python scripts/benchmark.py metrics            # label metrics against scikit-image
    python scripts/benchmark.py crops              # training patches against a NumPy copy
    python scripts/benchmark.py block              # P_mSC_n against plain 3D convolutions

Prints Markdown tables; ``--out FILE.json`` keeps the numbers together with versions and machine.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from benchmarks import block, crops, metrics
from benchmarks.report import Report, write_json

from psc.errors import PSCError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; the exit status is 1 where the user's input was refused."""
    options = vars(_parser().parse_args(arguments))
    run: Callable[..., Report] = options.pop("run")
    out: Path | None = options.pop("out")
    if (threads := options.pop("threads")) is not None:
        torch.set_num_threads(threads)
    try:
        report = run(**{name: value for name, value in options.items() if value is not None})
    except PSCError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.as_markdown())
    if out is not None:
        write_json(report, out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for module in (metrics, crops, block):
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.set_defaults(run=module.run)
        command.add_argument("--out", type=Path, help="write the results to this JSON file")
        command.add_argument("--repeats", type=_positive, help="rounds per contestant")
        command.add_argument("--size", type=_positive, help="voxels per axis")
        command.add_argument("--seed", type=int, help="seed of everything random")
        command.add_argument("--threads", type=_positive, help="CPU threads of PyTorch")
        if module is crops:
            command.add_argument("--input-size", type=_positive, help="voxels per axis of a patch")
        if module is block:
            command.add_argument("--levels", type=_positive, help="first levels of the U-Net only")
            command.add_argument("--padding", choices=("same", "valid"))
            command.add_argument("--device", choices=("cpu", "cuda"))
            command.add_argument("--precisions", nargs="+", choices=("fp32", "tf32", "bf16"))
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
