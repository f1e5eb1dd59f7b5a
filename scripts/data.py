"""Fetch and prepare the paper's data sets: ``python scripts/data.py fibsem`` (or ucf101, ibsr).

fibsem  downloads the FIB-25 volumes (Section 4.3), three pairs of HDF5 files, into data/fibsem.
ucf101  downloads UCF101 (Section 4.1) into data/ucf101: the clips (6.5 GB to fetch, 13 GB of disk
        while they are unpacked) to UCF-101, the official lists to ucfTrainTestlist. Then decodes
        every clip, resizes it, and writes it to prepared, from where training reads it (about 64 GB
        at the default size, 20 minutes of one CPU core). Clips that cannot be decoded are listed in
        prepared/unreadable.csv; they stop nothing. An archive fetched in another way is used if it
        lies in data/ucf101 under its own name. Given VIDEOS, a folder of clips that lies elsewhere,
        it prepares these and downloads nothing.
sample  makes the real sample that the reduced records of electron microscopy rest on, of FIB-25's
        training_sample2 (downloaded, or taken from data/fibsem): sections 0 to 207, neurons as
        labels, in CREMI's layout. Training finds it where PSC_SAMPLE_DATA points: data/sample.
ibsr    verifies IBSR (Section 4.2), which you fetch at NITRC, and puts it in place: data/ibsr.
        Without an argument it says where to register and what to fetch.

What is there is left alone; after an interruption, run it again. Exit status: 0 when all is done, 1
after an error (or, with --strict, if a clip could not be decoded), 130 when interrupted.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from psc.config.choices import FIBSEM_FILES, SAMPLES
from psc.download.archives import require_rar_tool, unpack
from psc.download.download import SOURCES, SourceFile, fetch, source_files
from psc.em.data import read_volume
from psc.errors import DataError, told_in_a_line
from psc.files import WORKPLACE, in_words, require_free_space, write_csv, writing
from psc.machine import cores
from psc.mri.prepare import INSTRUCTIONS, MANIFEST, prepare_ibsr, table
from psc.video.data import read_split, video_key
from psc.video.preparation import PreparationReport, prepare_videos
from psc.video.store import PreparationSettings
from psc.volumes.output import RAW, TRUTH, write_volumes

DATA = WORKPLACE / "data"
VIDEOS, LISTS = "UCF-101", "ucfTrainTestlist"
ARCHIVES = {LISTS: "UCF101TrainTestSplits-RecognitionTask.zip", VIDEOS: "UCF101.rar"}
LIST_FILES = (
    "classInd.txt",
    *(f"{part}list0{split}.txt" for part in ("train", "test") for split in (1, 2, 3)),
)
SAMPLE_OF, SAMPLE_SECTIONS = "training_sample2", 208
SAMPLE_CONTENT = {
    RAW: "1cad4370cbd48f5038aa733053408e47da4d650faebc9ad66adc8b373f51d890",
    TRUTH: "569bc6d6588d99772c77f1f2147bd584efd9534215717f77a8a88b7b832b5029",
}
"""SHA-256 of the sample's voxels in C order, uint8 and uint64, little-endian: what our records'
sample holds. Another HDF5 library packs the same voxels into another file."""

_UNPACKED = 1.05
"""Size of the unpacked videos, at most, in sizes of their archive: they are compressed already."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch or prepare from the command line."""
    chosen = _parser().parse_args(arguments)
    with told_in_a_line("run it again to go on"):
        chosen.run(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="DATA SET")
    fibsem = verbs.add_parser("fibsem", help="download FIB-25")
    fibsem.set_defaults(run=get_fibsem)
    ucf101 = verbs.add_parser("ucf101", help="download UCF101 and prepare it for training")
    ucf101.set_defaults(run=get_ucf101)
    sample = verbs.add_parser("sample", help="of FIB-25, as the reduced records have it")
    sample.set_defaults(run=get_sample)
    sample.add_argument("--output", type=Path, default=DATA / "sample")
    for verb, name in ((fibsem, "fibsem"), (ucf101, "ucf101"), (sample, "fibsem")):
        verb.add_argument("--folder", type=Path, default=DATA / name)
        verb.add_argument("--sources", type=Path, default=SOURCES, help="another list, of a mirror")
    ucf101.add_argument("videos", type=Path, nargs="?", help="folder of clips: only prepare these")
    ucf101.add_argument(
        "--only", choices=("splits", "videos", "prepared"), help="one step of three"
    )
    ucf101.add_argument("--keep-archives", action="store_true", help="also once they are unpacked")
    ucf101.add_argument("--output", type=Path, help="of the preparation; FOLDER/prepared")
    ucf101.add_argument("--short-side", type=_positive, default=PreparationSettings.short_side)
    ucf101.add_argument(
        "--size",
        type=_positive,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="instead of --short-side",
    )
    ucf101.add_argument("--workers", type=_positive, default=cores(), help="processes")
    ucf101.add_argument("--strict", action="store_true", help="fail if a clip cannot be decoded")
    ibsr = verbs.add_parser("ibsr", help="verify IBSR, fetched at NITRC, and put it in place")
    ibsr.set_defaults(run=get_ibsr)
    ibsr.add_argument(
        "archives", type=Path, nargs="*", metavar="ARCHIVE_OR_FOLDER", help="zip, tar, RAR, folder"
    )
    ibsr.add_argument("--output", type=Path, default=DATA / "ibsr")
    ibsr.add_argument(
        "--allow-missing", action="store_true", help="take a copy without some subjects or labels"
    )
    ibsr.add_argument(
        "--overwrite", action="store_true", help="replace what this command put there before"
    )
    return parser


def _positive(text: str) -> int:
    """A number of an option, refused before hours of downloading."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def get_fibsem(chosen: argparse.Namespace, names: Sequence[str] = FIBSEM_FILES) -> None:
    """Download FIB-25; a file that is there with the right checksum is left alone."""
    sources = source_files("fibsem", chosen.sources)
    if {file.path.as_posix() for file in sources} != set(FIBSEM_FILES):
        raise DataError(f"{chosen.sources}: fibsem must list {', '.join(FIBSEM_FILES)}")
    for source in sources:
        if source.path.as_posix() in names:
            found = fetch(source, chosen.folder)
            done = "fetched" if found.fetched else "is there"
            print(f"{found.path}: {done} ({in_words(found.size)})", flush=True)


def get_sample(chosen: argparse.Namespace) -> None:
    """Cut the sample of electron microscopy; one that is there and right is left alone."""
    path = chosen.output / SAMPLES["fibsem"]
    if not path.exists():
        get_fibsem(chosen, [name for name in FIBSEM_FILES if name.startswith(SAMPLE_OF)])
        volume = read_volume(chosen.folder / SAMPLE_OF)
        assert volume.labels is not None  # groundtruth.h5 has them
        found = {RAW: volume.raw[:SAMPLE_SECTIONS], TRUTH: volume.labels[:SAMPLE_SECTIONS]}
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"source": f"FIB-25, {SAMPLE_OF}, Janelia FlyEM (neuroproof_examples, CC BY)"}
        where = {"voxel_size": (8.0, 8.0, 8.0), "offset": (0, 0, 0)}
        write_volumes(path, found, **where, provenance=about)  # type: ignore[arg-type]
    sample = read_volume(path)
    assert sample.labels is not None
    held = {RAW: sample.raw, TRUTH: sample.labels.astype("<u8", copy=False)}
    sums = {k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in held.items()}
    shape = " × ".join(map(str, sample.raw.shape))
    if sums != SAMPLE_CONTENT:
        raise DataError(
            f"{path}: {shape} voxels, but not those that the records' sample holds"
            f" ({', '.join(name for name in sums if sums[name] != SAMPLE_CONTENT[name])} differ);"
            " scores on it cannot be set beside theirs"
        )
    print(f"{path}: {shape} voxels, those that the reduced records rest on")
    print(f"export PSC_SAMPLE_DATA={chosen.output.absolute()}")


def get_ucf101(chosen: argparse.Namespace) -> None:
    """Download and unpack UCF101, and prepare it."""
    steps = {"splits": LISTS, "videos": VIDEOS}  # lists first: they say whether videos are missing
    for step, part in steps.items():
        if chosen.videos is None and chosen.only in (None, step):
            get_part(part, chosen.sources, chosen.folder, keep_archives=chosen.keep_archives)
    if chosen.videos is None and chosen.only not in (None, "prepared"):
        return
    output = chosen.output or chosen.folder / "prepared"
    report = prepare(
        chosen.videos or chosen.folder / VIDEOS,
        output,
        PreparationSettings(chosen.short_side, tuple(chosen.size) if chosen.size else None),
        workers=chosen.workers,
    )
    print(f"{output}: {len(report.prepared)} videos prepared, {report.kept} were there already")
    if concealed := [video for video in report.prepared if video.concealed]:
        print(
            f"{len(concealed)} of them have frames without a picture,"
            f" {sum(video.concealed for video in concealed)} in all, which show the one before"
            " again, as players do; index.json counts them"
        )
    if report.unreadable:
        print(
            f"{len(report.unreadable)} could not be prepared and are left out; why:"
            f" {output / 'unreadable.csv'}",
            file=sys.stderr,
        )
        if chosen.strict:
            sys.exit(1)


def get_ibsr(chosen: argparse.Namespace) -> None:
    """Put IBSR in place, or say where it is to be had."""
    if not chosen.archives:
        sys.exit(INSTRUCTIONS)
    subjects = prepare_ibsr(
        chosen.archives,
        chosen.output,
        allow_missing=chosen.allow_missing,
        overwrite=chosen.overwrite,
    )
    print(table(subjects))
    print(f"{chosen.output}: {len(subjects)} subjects, listed in {MANIFEST}")


def get_part(part: str, listing: Path, folder: Path, *, keep_archives: bool) -> None:
    """Make one part of UCF101 complete, and say what was done."""
    sources = {file.path.name: file for file in source_files("ucf101", listing)}
    if ARCHIVES[part] not in sources:
        raise DataError(f"{listing}: has no {ARCHIVES[part]}; restore it")
    source, destination = sources[ARCHIVES[part]], folder / part
    if destination.exists():
        check_complete(folder, part)
        print(f"{destination}: is there")
        return
    size = in_words(source.rounded_size) if source.rounded_size else "of unknown size"
    print(f"{source.url} ({size})", flush=True)
    if part == VIDEOS:
        require_rar_tool()
        require_space(source, folder)
    fetch(source, folder)
    count = unpack(folder / source.path, destination)
    check_complete(folder, part)
    if not keep_archives:
        (folder / source.path).unlink()
    print(f"{destination}: {count} files")


def require_space(source: SourceFile, folder: Path) -> None:
    """Refuse before hours of downloading, not after, where the videos cannot be unpacked."""
    size = source.rounded_size or 0
    places = (folder / source.path, folder / f"{source.path}.partial")
    arrived = sum(place.stat().st_size for place in places if place.exists())
    needed = round(size * (1 + _UNPACKED)) - min(arrived, size)
    require_free_space(folder, needed, f"{source.url} with the videos unpacked from it")


def check_complete(folder: Path, part: str) -> None:
    """Refuse a part that lacks a list, or a clip that the lists of split 1 name (all have all)."""
    place, lists = folder / part, folder / LISTS
    if part == LISTS:
        listed = list(LIST_FILES)
        missing = [name for name in listed if not (place / name).is_file()]
    else:
        # By file name alone: a folder's name is not spelled alike everywhere (HandStandPushups).
        there = {video_key(path.name) for path in place.rglob("*.avi")}
        if not there:
            raise DataError(f"{place} holds no videos; move it away, and it will be fetched")
        parts = read_split(lists, 1, validation_groups=0).parts if lists.exists() else {}
        listed = [f"{video.name}.avi" for videos in parts.values() for video in videos]
        missing = [name for name in listed if video_key(name) not in there]
    if missing:
        raise DataError(
            f"{place}: {len(missing)} of {len(listed)} files are missing ({', '.join(missing[:3])},"
            " …). Move it away, and it will be fetched whole"
        )


def prepare(
    videos: Path, output: Path, settings: PreparationSettings, *, workers: int
) -> PreparationReport:
    """Decode clips into a store, with a progress bar; what could not be is listed beside it."""
    # A class comes in at once: without smoothing over the whole time the time left would jump.
    with tqdm(unit="video", smoothing=0, dynamic_ncols=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = prepare_videos(videos, output, settings, workers=workers, on_progress=show)
    path = output / "unreadable.csv"
    with writing(path):
        path.unlink(missing_ok=True)
    if report.unreadable:
        rows = [[v.source, v.sha256, v.reason] for v in report.unreadable]
        write_csv(["source", "sha256", "reason"], rows, path)
    return report


if __name__ == "__main__":
    main()
