"""Measure our parts against their peers, on any machine with or without a GPU.

    python scripts/benchmark.py metrics            # label metrics against scikit-image
    python scripts/benchmark.py crops              # training patches against a NumPy copy
    python scripts/benchmark.py patches            # MRI patches against MONAI's cached crops
    python scripts/benchmark.py malis              # pair counts of the MALIS loss, and their growth
    python scripts/benchmark.py blockwise          # volumes of growing size: time, memory, disk
    python scripts/benchmark.py block              # P_mSC_n against plain 3D convolutions
    python scripts/benchmark.py networks           # whole networks, beside torchvision's, MONAI's
    python scripts/benchmark.py conversion         # psc.convert, and beside tensorly-torch

Prints Markdown tables. ``--out FILE.json`` keeps the numbers together with versions and machine,
``--csv FILE`` all tables as one, ``--markdown FILE`` what is printed.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from psc import machine

machine.set_up()  # before torch is loaded

import torch
from benchmarks import (
    block,
    blockwise,
    conversion,
    crops,
    malis,
    metrics,
    networks,
    tissue_patches,
)
from benchmarks.conditions import CLOCKS, LAYOUTS, PRECISIONS
from benchmarks.report import Report, write_csv, write_json, write_markdown

from psc.block.folding import FORMULATIONS
from psc.errors import PSCError

_BENCHMARKS = {
    "metrics": metrics,
    "crops": crops,
    "patches": tissue_patches,
    "malis": malis,
    "blockwise": blockwise,
    "block": block,
    "networks": networks,
    "conversion": conversion,
}
_WRITERS: dict[str, Callable[[Report, Path], None]] = {
    "out": write_json,
    "csv": write_csv,
    "markdown": write_markdown,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; the exit status is 1 where the user's input was refused."""
    options = vars(_parser().parse_args(arguments))
    run: Callable[..., Report] = options.pop("run")
    paths: dict[str, Path | None] = {name: options.pop(name) for name in _WRITERS}
    if (threads := options.pop("threads")) is not None:
        torch.set_num_threads(threads)
    try:
        report = run(**{name: value for name, value in options.items() if value is not None})
    except PSCError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.as_markdown())
    for name, path in paths.items():
        if path is not None:
            _WRITERS[name](report, path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, module in _BENCHMARKS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        command.set_defaults(run=module.run)
        command.add_argument("--out", type=Path, help="write the results to this JSON file")
        command.add_argument("--csv", type=Path, help="write the tables to this CSV file")
        command.add_argument("--markdown", type=Path, help="write the tables to this Markdown file")
        if module is not blockwise:
            command.add_argument("--repeats", type=_positive, help="rounds per contestant")
        if module not in (malis, blockwise):
            command.add_argument(
                "--size",
                type=_positive,
                help="voxels per axis (block, conversion: at most; patches: of the longer)",
            )
        command.add_argument("--seed", type=int, help="seed of everything random")
        command.add_argument("--threads", type=_positive, help="CPU threads of PyTorch")
        if module in (crops, tissue_patches):
            command.add_argument("--input-size", type=_positive, help="voxels per axis of a patch")
        if module in (malis, blockwise):
            command.add_argument("--sizes", nargs="+", type=_positive, help="voxels per axis")
        if module is blockwise:
            command.add_argument("--workers", nargs="+", type=_positive, help="local processes")
            command.add_argument("--block-size", type=_positive, help="voxels per axis of a block")
            command.add_argument("--piece", type=_positive, help="voxels per axis that repeat")
            command.add_argument("--figure", type=Path, help="draw the growth into this PNG file")
            command.add_argument("--folder", type=Path, help="existing folder to write to")
        if module is malis:
            command.add_argument("--reference", type=Path, help="Python file with malis_pairs")
        if module in (block, networks):
            _add_conditions(command)
        if module is block:
            command.add_argument("--segments", nargs="+", help="unet, resnet, or channels: 24-72")
            command.add_argument("--formulations", nargs="+", choices=FORMULATIONS)
            command.add_argument("--padding", choices=("same", "valid"), help="of the U-Net's")
        if module is networks:
            command.add_argument("--backbones", nargs="+", help="names of configs/backbone")
            command.add_argument("--formulation", choices=FORMULATIONS, help="of the blocks")
        if module is conversion:
            _add_conversion(command)
    return parser


def _add_conversion(command: argparse.ArgumentParser) -> None:
    command.add_argument("--parts", nargs="+", choices=conversion.PARTS)
    command.add_argument("--networks", nargs="+", help="to convert: r3d_18, unet, ...")
    command.add_argument("--layers", nargs="+", help="with random kernels: 64-64, stem, ...")
    command.add_argument("--checkpoint", type=Path, help="of train.py: trained kernels too")
    command.add_argument("--iterations", type=_positive, help="at most, of CP and Tucker")
    command.add_argument("--memory", type=float, help="gigabytes that CP may take at once")
    _add_machine(command)


def _add_conditions(command: argparse.ArgumentParser) -> None:
    """What both benchmarks of networks take."""
    precisions = list(dict.fromkeys(p for names in PRECISIONS.values() for p in names))
    command.add_argument("--blocks", nargs="+", help="names of configs/block; 3d is always there")
    command.add_argument("--batch-size", type=_positive, help="samples per input")
    command.add_argument("--precisions", nargs="+", choices=precisions)
    _add_machine(command)


def _add_machine(command: argparse.ArgumentParser) -> None:
    """Where, in which layouts and by which clock."""
    command.add_argument(
        "--device", choices=tuple(PRECISIONS), help="default: a GPU if there is one"
    )
    command.add_argument("--layouts", nargs="+", choices=tuple(LAYOUTS))
    command.add_argument(
        "--clock",
        choices=sorted(set(CLOCKS.values())),
        help="whose seconds are compared; default: wall on a GPU, cpu on a CPU",
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
