"""Generated malformed inputs (fixed seeds) over readers and commands.

Each is refused in our words, or its result is that of the intact input; no exception of another
library reaches the user, and no file of the user's is changed. Volumes have a test of their own.
"""

import gzip
import hashlib
import io
import json
import shutil
import zipfile
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import nibabel
import numpy as np
import pytest
import torch

from psc.applications import segment_file
from psc.config.schema import EvaluateConfig, SegmentConfig, ViewConfig
from psc.conversion.checkpoints import ConvertConfig, convert_checkpoint
from psc.download.archives import unpack
from psc.download.download import source_files
from psc.errors import PSCError
from psc.mri.data import read_split as read_subjects
from psc.mri.finding import find_subjects
from psc.mri.nifti import read_nifti
from psc.paper.compare import compare_runs
from psc.training.checkpoints import initial_weights, read_checkpoint
from psc.training.evaluation import evaluate_checkpoint
from psc.training.records import read_record
from psc.video.data import read_split as read_videos
from psc.video.decoding import decode_video
from psc.video.store import PreparedVideos
from psc.viewing import view

ODD = [None, -1, 0, 3.5, "nm", "", [], {}, [1, 2], {"name": "x"}, [None] * 3, 1e400, True, 10**30]
KINDS = ["truncated", "bits flipped", "emptied", "gone", "a folder", "a dead link", "other bytes"]

pytestmark = pytest.mark.filterwarnings("ignore")


def damaged(path, rng, kind=None):
    """Change a file, or its presence; what was done, in words."""
    content, kind = bytearray(path.read_bytes()), kind or str(rng.choice(KINDS))
    if kind == "truncated":
        path.write_bytes(content[: rng.integers(len(content))])
    elif kind == "bits flipped":
        for _ in range(int(rng.integers(1, 9))):
            content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
    elif kind in ("emptied", "other bytes"):
        path.write_bytes(b"" if kind == "emptied" else rng.bytes(len(content)))
    else:
        path.unlink()
        if kind == "a folder":
            path.mkdir()
        elif kind == "a dead link":
            path.symlink_to(path.with_name("not there"))
    return kind


def mutated(value, rng):
    """Plain containers with one part replaced by something that does not belong there, or gone."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[rng.integers(len(keys))]
        if isinstance(value, list):
            return [*value[:key], mutated(value[key], rng), *value[key + 1 :]]
        if rng.random() < 0.2:
            return {name: one for name, one in value.items() if name != key}
        return value | {key: mutated(value[key], rng)}
    return ODD[rng.integers(len(ODD))]


def scrambled(text, rng):
    """Text with one line changed."""
    lines = text.splitlines()
    at = int(rng.integers(len(lines)))
    odd = [
        "",
        "\0",
        "a: b: c",
        "- - -",
        "1 2 3 4",
        "{",
        '"',
        "\t",
        "ä" * 300,
        "v_X_g1_c1.avi",
        "*a",
    ]
    change = rng.integers(4)
    if change == 0:
        lines[at] = odd[rng.integers(len(odd))]
    elif change == 1:
        lines.insert(at, lines[rng.integers(len(lines))])
    elif change == 2:
        del lines[at]
    else:
        lines[at] = lines[at][: rng.integers(len(lines[at]) + 1)]
    return "\n".join(lines)


def fingerprint(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def attempt(function):
    """What a function gives, or that it was refused, in our words."""
    try:
        return SimpleNamespace(refused=False, value=function())
    except PSCError as error:
        message = str(error)
    assert len(message) > 10
    assert "object at 0x" not in message
    return SimpleNamespace(refused=True, value=None)


@pytest.fixture(scope="module")
def checkpoint(finished_run):
    return finished_run[1] / "checkpoints" / "best.ckpt"


def everything(path):
    found = read_checkpoint(path)
    network = found.network()
    return found.iterations, found.digest, found.conversion, network.state_dict(), found.config


def test_damaged_checkpoints(checkpoint, tmp_path):
    rng, intact, refused = np.random.default_rng(0), everything(checkpoint), 0
    for number in range(30):
        path = tmp_path / f"{number}.ckpt"
        shutil.copyfile(checkpoint, path)
        done = damaged(path, rng)
        found = attempt(lambda path=path: everything(path))
        refused += found.refused
        if not found.refused:  # flipped bits of a ZIP's names and dates say nothing
            assert done == "bits flipped"
            assert found.value[1:3] == intact[1:3]
    assert refused > 20


def test_checkpoints_of_other_content(checkpoint, tmp_path):
    rng, intact, refused = np.random.default_rng(1), everything(checkpoint), 0
    content = torch.load(checkpoint, weights_only=True)
    small = {key: content[key] for key in ("state_dict", "psc_config", "global_step")}
    others = [content["state_dict"], [], None, 3, {"state_dict": None}, torch.zeros(3), {}]
    others += [
        {"state_dict": {}},
        small | {"psc_conversion": {"m": 9}},
        small | {"global_step": "x"},
    ]
    others += [small | {"psc_conversion": None}, small | {"psc_conversion": {1: 2}}]
    for number in range(45):
        path = tmp_path / f"{number}.ckpt"
        torch.save(others[number] if number < len(others) else mutated(small, rng), path)
        found = attempt(lambda path=path: everything(path))
        refused += found.refused
        if not found.refused:
            assert found.value[3].keys() == intact[3].keys()
            assert found.value[1] == intact[1]
    assert refused > 25


@pytest.mark.parametrize("command", ["evaluate", "segment", "convert", "train"])
def test_commands_on_damaged_checkpoints(command, checkpoint, finished_run, tmp_path):
    rng, output = np.random.default_rng(2), tmp_path / "output"
    for number, kind in enumerate(kind for kind in KINDS if kind != "bits flipped"):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        path = folder / "epoch=3, größe [x].ckpt"
        shutil.copyfile(checkpoint, path)
        damaged(path, rng, kind)
        before = fingerprint(folder)
        calls = {
            "evaluate": lambda p=path: evaluate_checkpoint(
                EvaluateConfig(str(p), output=str(output))
            ),
            "segment": lambda p=path: segment_file(SegmentConfig(str(p), "x.h5", str(output))),
            "convert": lambda p=path: convert_checkpoint(
                ConvertConfig(checkpoint=str(p), output=str(output))
            ),
            "train": lambda p=path: initial_weights(
                SimpleNamespace(
                    **vars(read_checkpoint(checkpoint).config) | {"initial_weights": str(p)}
                )
            ),
        }
        assert attempt(calls[command]).refused, kind
        assert fingerprint(folder) == before
        assert not output.exists()


def run_copied(finished_run, tmp_path, number):
    folder = tmp_path / f"runs{number}"
    shutil.copytree(finished_run[1], folder / finished_run[1].name)
    return folder, folder / finished_run[1].name


def test_damaged_run_folders(finished_run, tmp_path):
    """Compared and looked at: refused or shown, never changed; no page is half written."""
    rng, refused = np.random.default_rng(3), 0
    for number in range(len(KINDS)):
        folder, run = run_copied(finished_run, tmp_path, number)
        victims = [
            run / "result.json",
            run / "metrics.csv",
            *sorted((run / "evaluation").iterdir()),
        ]
        victim = victims[rng.integers(len(victims))]
        done = f"{victim.name} {damaged(victim, rng, KINDS[number % len(KINDS)])}"
        before = fingerprint(run)
        page = tmp_path / f"{number}.html"
        config = ViewConfig(str(run), report=str(page), worst=1)
        found = attempt(lambda config=config: view(config))
        refused += found.refused
        assert found.refused != page.exists(), done
        if number % 2:
            refused += attempt(lambda folder=folder: compare_runs(folder)).refused
        assert fingerprint(run) == before, done
    assert refused > 2


def test_records_of_other_content(finished_run, tmp_path):
    rng = np.random.default_rng(4)
    content = json.loads((finished_run[1] / "result.json").read_text())
    texts = [json.dumps(mutated(content, rng)) for _ in range(30)]
    texts += [
        "[" * 100_000,
        "{}",
        "[]",
        "null",
        "3",
        '"x"',
        '{"schema_version": 2}',
        "NaN",
        "\ufeff{}",
    ]
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}" / "result.json"
        path.parent.mkdir()
        path.write_text(text, encoding="utf-8")
        found = attempt(lambda path=path: read_record(path.parent))
        assert found.refused or json.loads(text) == content, text[:80]


def test_damaged_nifti(tmp_path):
    rng, refused = np.random.default_rng(5), 0
    values = rng.integers(0, 900, (9, 8, 7)).astype(np.int16)
    for number in range(40):
        path = tmp_path / f"s{number}.nii{'.gz' * (number % 2)}"
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 2, 1])), path)
        done = (
            damaged(path, rng, "header" if number % 5 == 4 else None) if number % 5 != 4 else None
        )
        if done is None:  # a field of the header, before compression
            content = bytearray(
                gzip.decompress(path.read_bytes()) if number % 2 else path.read_bytes()
            )
            at = int(rng.integers(348))
            content[at : at + 4] = rng.bytes(4)
            path.write_bytes(gzip.compress(bytes(content)) if number % 2 else bytes(content))
        found = attempt(lambda path=path: read_nifti(path))
        refused += found.refused
        if not found.refused:
            assert done in (None, "bits flipped")
            assert done is not None or sorted(found.value.data.shape) == [7, 8, 9]
        attempt(lambda number=number: find_subjects(tmp_path / f"{number}"))
    assert refused > 20


def film(path, frames=24):
    rng = np.random.default_rng(6)
    base = rng.integers(0, 255, (48, 64, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for t in range(frames):
            picture = av.VideoFrame.from_ndarray(np.roll(base, 3 * t, axis=1), format="rgb24")
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_damaged_films(tmp_path):
    rng, refused = np.random.default_rng(7), 0
    whole = film(tmp_path / "whole.avi")
    intact = decode_video(whole)
    for number in range(30):
        path = tmp_path / f"{number}.avi"
        shutil.copyfile(whole, path)
        done = damaged(path, rng)
        found = attempt(lambda path=path: decode_video(path))
        refused += found.refused
        if not found.refused:
            assert done in ("bits flipped", "truncated"), done
            frames = found.value.frames.shape[1]
            assert abs(frames - intact.frames.shape[1]) <= 2, done
    assert refused > 15


def test_damaged_stores_of_films(tmp_path):
    rng = np.random.default_rng(8)
    video = {"name": "v_A_g1_c1", "action": "A", "group": 1, "clip": 1, "frames": 2, "height": 3}
    video |= {"width": 4, "fps": 25.0, "concealed": 0, "source": "x", "sha256": "0", "offset": 0}
    settings = {"short_side": 80, "size": None, "kernel": "bilinear, antialiased", "version": 1}
    index = {
        "settings": settings,
        "synthetic": False,
        "videos": {"v_a_g1_c1": video},
        "unreadable": {},
    }
    for number in range(40):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (folder / "A.u8").write_bytes(bytes(72))
        (folder / "index.json").write_text(json.dumps(mutated(index, rng)))

        def read(folder=folder):
            store = PreparedVideos(folder)
            store.record()
            return [store.read(key, 0, 1).shape for key in store.videos]

        found = attempt(read)
        assert found.refused or found.value in ([], [(3, 1, 3, 4)])


def test_damaged_archives(tmp_path):
    rng, refused = np.random.default_rng(9), 0
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.txt", "b/c.bin"):
            archive.writestr(name, rng.bytes(400))
    (tmp_path / "tree" / "in").mkdir(parents=True)
    (tmp_path / "tree" / "in" / "x.bin").write_bytes(rng.bytes(900))
    tar = Path(shutil.make_archive(str(tmp_path / "whole"), "gztar", tmp_path / "tree"))
    for number in range(30):
        path = tmp_path / f"{number}.{'tar.gz' if number % 2 else 'zip'}"
        path.write_bytes(tar.read_bytes() if number % 2 else buffer.getvalue())
        damaged(path, rng)
        target = tmp_path / f"unpacked{number}"
        found = attempt(lambda path=path, target=target: unpack(path, target))
        refused += found.refused
        assert found.refused != target.exists()
        assert not list(tmp_path.glob(".*.unpacking"))
    assert refused > 20


SPLIT = """description: made by hand
train: [A, B]
validation: [C]
test:
- D
- E
"""
SOURCES = """fibsem:
  files:
  - path: data/fibsem/a.h5
    url: http://127.0.0.1/a.h5
    size: 6.5 GB
    sha256: unknown
"""


def test_scrambled_lists(tmp_path):
    rng, refused = np.random.default_rng(10), 0
    for number in range(40):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (folder / "split.yaml").write_text(scrambled(SPLIT, rng), encoding="utf-8")
        (folder / "sources.yaml").write_text(scrambled(SOURCES, rng), encoding="utf-8")
        lists = {"classInd.txt": "1 A\n2 B\n", "testlist01.txt": "A/v_A_g05_c01.avi\n"}
        lists["trainlist01.txt"] = "".join(
            f"{a}/v_{a}_g{g:02d}_c01.avi {i}\n" for i, a in enumerate("AB", 1) for g in range(1, 5)
        )
        victim = sorted(lists)[rng.integers(3)]
        lists[victim] = scrambled(lists[victim], rng)
        for name, text in lists.items():
            (folder / name).write_text(text, encoding="utf-8")
        for read in (
            lambda f: read_subjects(f / "split.yaml"),
            lambda f: source_files("fibsem", f / "sources.yaml"),
            lambda f: read_videos(f, 1, validation_groups=1),
        ):
            refused += attempt(lambda read=read, folder=folder: read(folder)).refused
    assert refused > 40


LONG = "x" * 300
LINES = [
    *[("evaluate.py", [f"checkpoint={name}"]) for name in (LONG, "", ".", "a\x01b", "/dev/null")],
    *[("scripts/segment.py", [f"checkpoint={n}", "input=x", "output=y"]) for n in (LONG, "~")],
    *[("scripts/convert.py", [f"checkpoint={name}", "output=y"]) for name in (LONG, ".", "{")],
    *[("scripts/view.py", [f"run={name}", "serve=false"]) for name in (LONG, "", "/dev/null")],
    *[("scripts/compare.py", [name]) for name in (LONG, "nothing here", "/dev/null")],
    *[("scripts/data.py", ["ucf101", name]) for name in (LONG, "nothing here", "/dev/null")],
    *[("scripts/data.py", ["ibsr", name]) for name in (LONG, "nothing here", "/dev/null")],
    *[("scripts/data.py", ["fibsem", "--sources", name]) for name in (LONG, "none", "/dev/null")],
    *[("scripts/account.py", ["table=true", f"into={name}"]) for name in (LONG, "none", ".")],
    ("train.py", ["budget=quick", f"initial_weights={LONG}"]),
    ("train.py", ["budget=quick", f"resume={LONG}"]),
    ("train.py", ["budget=quick", "dataset=fibsem_synthetic", "output_directory=/dev/null"]),
    ("train.py", ["budget=quick", "dataset=fibsem", f"dataset.train=[{{raw:{LONG}}}]"]),
    ("train.py", ["budget=quick", "backbone=densenet", "dataset=ibsr", f"dataset.folder={LONG}"]),
    ("train.py", ["budget=quick", "backbone=resnet18", "dataset=ucf101", f"dataset.lists={LONG}"]),
]


@pytest.mark.parametrize(("script", "arguments"), LINES)
def test_odd_names_on_command_lines(script, arguments, program):
    done = program(script, *arguments)
    said = f"{done.code} {done.errors}"
    assert done.code not in (0, None), said
    assert "error: " in said
    assert "Traceback" not in said


class Opaque:
    """Something that a checkpoint must not bring to life."""


def test_a_checkpoint_with_objects_is_not_loaded(tmp_path):
    path = tmp_path / "objects.ckpt"
    torch.save({"state_dict": {"network.x": Opaque()}}, path)
    assert attempt(lambda: read_checkpoint(path)).refused
