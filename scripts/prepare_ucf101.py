"""Decode UCF101 once for training (paper, Section 4.1): ``python scripts/prepare_ucf101.py``.

Every clip below data/ucf101/UCF-101 is decoded from its first frame to its last, resized, and
written to data/ucf101/prepared, from where training reads it (about 64 GB at the default size, 20
minutes of one CPU core). After an interruption, run it again: what is done is kept. Clips that
cannot be decoded are listed in unreadable.csv of that folder; they stop nothing.

Exit status: 0 when all is done, 1 after an error (or, with --strict, if a clip could not be
decoded), 130 when interrupted.
"""

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from psc.download.download import PROJECT
from psc.errors import DataError, PSCError
from psc.video.manifest import PreparationSettings, UnreadableVideo
from psc.video.store import PreparationReport, prepare_videos, scan_videos

FOLDER = PROJECT / "data" / "ucf101"
REPORT = "unreadable.csv"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare from the command line."""
    chosen = _parser().parse_args(arguments)
    try:
        report = _prepare(chosen)
    except PSCError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)
    print(f"{chosen.output}: {report.prepared} videos prepared, {report.kept} were there already")
    if report.unreadable:
        print(
            f"{len(report.unreadable)} could not be prepared and are left out; why:"
            f" {chosen.output / REPORT}",
            file=sys.stderr,
        )
        sys.exit(1 if chosen.strict else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "videos", type=Path, nargs="?", default=FOLDER / "UCF-101", help="folder of AVI files"
    )
    parser.add_argument("--output", type=Path, default=FOLDER / "prepared")
    parser.add_argument("--short-side", type=int, default=PreparationSettings.short_side)
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="instead of --short-side"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--strict", action="store_true", help="fail if a clip cannot be decoded")
    return parser


def _prepare(chosen: argparse.Namespace) -> PreparationReport:
    size = (chosen.size[0], chosen.size[1]) if chosen.size else None
    settings = PreparationSettings(short_side=chosen.short_side, size=size)
    videos = scan_videos(chosen.videos)
    # A class comes in at once: without smoothing over the whole time the time left would jump.
    with tqdm(total=len(videos), unit="video", smoothing=0, dynamic_ncols=True) as bar:

        def show(done: PreparationReport) -> None:
            bar.update(len(done))

        report = prepare_videos(
            videos, chosen.output, settings, workers=chosen.workers, on_progress=show
        )
        bar.update(len(videos.misnamed))
    _write_report(chosen.output / REPORT, report.unreadable)
    return report


def _write_report(path: Path, unreadable: Sequence[UnreadableVideo]) -> None:
    """What could not be prepared, as CSV; no file where there is nothing to report."""
    try:
        path.unlink(missing_ok=True)
        if unreadable:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["source", "sha256", "reason"])
                writer.writerows([v.source, v.sha256, v.reason] for v in unreadable)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error}); make room and run again") from error


if __name__ == "__main__":
    main()
