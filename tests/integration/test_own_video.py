"""docs/your-own-data.md, video: every command as it is typed there; other layouts; bad input."""

import csv
import os
import re
import shlex
import shutil
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from started import Started

from psc.config import compose
from psc.errors import ConfigError, DataError
from psc.training.records import read_record
from psc.video.application import VideoApplication
from psc.video.decoding import decode_video
from psc.video.listing import list_clips, split_clips

PROJECT = Path(__file__).parents[2]
DOCUMENT = (PROJECT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
SECTION = re.split(r"^## ", DOCUMENT.split("\n## Video")[1], flags=re.MULTILINE)[0]
COMMANDS = [
    line
    for code in re.findall(r"^```\n(.*?)^```$", SECTION, flags=re.MULTILINE | re.DOTALL)
    for line in code.splitlines()
]
SMALL = [
    "backbone.base_width=2",
    "budget=quick",
    "recipe.iterations=2",
    "recipe.validate_every=2",
    "recipe.batch_size=2",
    "recipe.frames=4",
    "recipe.size=16",
    "recipe.test_clips=2",
    "dataset.short_side=16",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
]
CODECS = {".mp4": "h264", ".mkv": "mpeg4", ".avi": "mpeg4", ".webm": "libvpx", ".mov": "mpeg4"}


def film(path, frames=6, seed=0, codec=None, start=0, last=None, tags=None, **options):
    """Write a film of that many frames, with B-frames where its codec has any.

    They begin at ``start`` (frames), and the ``last`` is shown for so many.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec or CODECS.get(path.suffix, "mpeg4"), rate=25)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 10
        stream.metadata.update(tags or {})
        packets = []
        for t in range(frames):
            image = np.ascontiguousarray(np.roll(picture, 3 * t, axis=1))
            shown = av.VideoFrame.from_ndarray(image, format="rgb24")
            shown.pts, shown.time_base = start + t, Fraction(1, 25)
            packets += stream.encode(shown)
        packets += stream.encode()
        if last is not None:
            max(packets, key=lambda packet: packet.pts).duration = last
        for packet in packets:
            container.mux(packet)
    return path


def table(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def typed(folder, command, status=0):
    """Run a command in a folder, a training on a small network; returns what it printed."""
    program, script, *arguments = shlex.split(command)
    assert program == "python"
    small = [*SMALL, "dataset.prepared=prepared"] if script == "train.py" else []
    with tempfile.TemporaryDirectory() as output:
        started = Started(Path(output) / "text", script, *arguments, *small, folder=folder)
        code, text = started.wait(), started.text
    assert code == status, text
    return text


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Class folders as somebody has them: containers mixed, other files, a broken one."""
    place = tmp_path_factory.mktemp("own_video")
    endings = [".mp4", ".mkv", ".avi", ".webm", ".mov"]
    for number, (label, i) in enumerate((c, i) for c in ("run", "walk", "sit") for i in range(5)):
        film(place / f"clips/{label}/a {label}, {i}{endings[i]}", 3 if i == 0 else 6, number)
    (place / "clips/run/notes.txt").write_text("sunny")
    (place / "clips/walk/broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(300))
    film(place / "new_clips/one.mp4", seed=50)
    film(place / "new_clips/walk/two.mkv", seed=51)
    (place / "new_clips/three.mov").write_bytes(b"no film at all")
    return place


@pytest.fixture(scope="module")
def trained(place):
    """What the first command of the document printed, and the run that it left."""
    said = typed(place, COMMANDS[0])
    (run,) = (place / "runs").glob("own_video-resnet18-p2sc2-seed0-*")
    return said, run


@pytest.mark.slow
def test_class_folders_are_trained_on_and_nothing_is_left_out_silently(trained):
    said, run = trained
    assert "clips: 15 clips of 3 to 6 frames, 3 classes: run 5, sit 5, walk 5" in said
    assert "left out, no clips of a class: 1 (run/notes.txt (no video))" in said
    assert re.search(r"cannot be read: 1 \(walk/broken\.mp4: .*no frame can be decoded", said)
    assert "looped, shorter than 4: 3 (" in said
    assert "clips of one recording may stand in several parts" in said
    record = read_record(run)
    assert record.data["kind"] == "own"
    assert sum(record.data["splits"]["videos"].values()) == 15
    assert (record.data["splits"]["classes"], record.data["splits"]["missing_videos"]) == (3, 1)
    assert record.config["dataset"]["classes"] == ["run", "sit", "walk"]
    assert record.config["backbone"]["classes"] == 3
    written = rows(run / "evaluation/predictions.csv")
    assert sorted(row["class"] for row in written) == ["run", "sit", "walk"]
    right = np.mean([row["class"] == row["predicted"] for row in written])
    assert record.metrics["test"]["top1"] == pytest.approx(right)


@pytest.mark.slow
def test_its_table_and_classes_of_new_clips(trained, place):
    _, run = trained
    compare, classify = COMMANDS[1:3]
    (row,) = [line for line in typed(place, compare).splitlines() if line.startswith("| p2sc2 |")]
    assert f"{100 * read_record(run).metrics['test']['top1']:.1f}" in row

    said = typed(place, classify.replace("<run>", run.name), status=1)
    assert "1 of 3 clips could not be classified" in said
    assert "three.mov: no frame can be decoded" in said
    one, three, two = sorted(rows(place / "predictions.csv"), key=lambda row: row["path"])
    assert (three["path"], three["class_1"]) == ("new_clips/three.mov", "")
    assert "no frame can be decoded" in three["problem"]
    assert (one["label"], two["label"]) == ("", "walk")
    for row in (one, two):
        assert sorted(row[f"class_{i}"] for i in (1, 2, 3)) == ["run", "sit", "walk"]
        shares = [float(row[f"probability_{i}"]) for i in (1, 2, 3)]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        assert row["problem"] == ""
    # Without any of the data; what the test protocol predicted is predicted again.
    tested = rows(run / "evaluation/predictions.csv")
    listed = [f'"clips/{row["video"]}",{row["class"]}' for row in tested]
    table(place / "again.csv", "path,label", *listed, "gone.mp4,walk")
    checkpoint = f"[{run}/checkpoints/best.ckpt, {run}/checkpoints/best.ckpt]"
    again = f"python scripts/classify.py 'checkpoint={checkpoint}' input=again.csv top=1"
    assert "gone.mp4: no such file" in typed(place, f"{again} output=again/out.csv", status=1)
    found = rows(place / "again/out.csv")
    assert [row["problem"] for row in found] == ["", "", "", "no such file"]
    assert [row["label"] for row in found] == [*(row["class"] for row in tested), "walk"]
    for row, before in zip(found, tested, strict=False):
        assert (row["path"], row["class_1"]) == (f"clips/{before['video']}", before["predicted"])
        assert float(row["probability_1"]) == pytest.approx(float(before["probability"]), abs=2e-4)
    assert "exists; give another file" in typed(place, f"{again} output=again/out.csv", status=1)
    assert "is the input" in typed(place, f"{again} output=again.csv overwrite=true", status=1)


@pytest.mark.slow
def test_other_clips_of_some_classes_are_evaluated_by_their_names(trained, place):
    _, run = trained
    film(place / "later/walk/x.avi", 9)
    film(place / "later/sit/y.mp4", 9)
    said = typed(place, COMMANDS[3].replace("<run>", run.name) + " dataset.prepared=later_prepared")
    (folder,) = run.glob("evaluation-own_video-*")
    assert str(folder.name) in said
    metrics = read_record(folder).metrics
    assert set(metrics) == {"test"}
    assert [row["class"] for row in rows(folder / "predictions.csv")] == ["sit", "walk"]
    (other,) = (place / "later_prepared").glob("index.json")
    assert '"short_side": 16' in other.read_text()  # as it was trained
    same = f"python evaluate.py checkpoint={run}/checkpoints/best.ckpt dataset=own_video"
    same += " dataset.folder=clips dataset.prepared=prepared"
    typed(place, f"{same} output=same")
    assert read_record(place / "same").metrics == read_record(run).metrics
    refused = typed(place, f"{same} output=other dataset.shares=[0,0,1]", status=1)
    assert re.search(
        r"own_video: (run|sit|walk)/a .*, \d.* of the test part trained .*best\.ckpt", refused
    )
    film(place / "strange/swim/y.mp4")
    film(place / "strange/walk/y.mp4")
    refused = "python evaluate.py checkpoint={} dataset=own_video dataset.folder=strange"
    assert "swim" in typed(place, refused.format(run / "checkpoints/best.ckpt"), status=1)


def described(tmp_path, *overrides):
    """The split that a configuration means, and what is said."""
    dataset = compose(["backbone=resnet18", "dataset=own_video", *overrides, *SMALL]).dataset
    found = list_clips(
        dataset.folder,
        dataset.csv,
        classes=dataset.classes,
        allow_missing=dataset.allow_missing,
    )
    return split_clips(found, dataset.outputs(), shares=dataset.shares, seed=dataset.split_seed)


def names(part):
    return [video.name for video in part]


def clips_of(tmp_path, **counts):
    """Files that are listed and never opened."""
    for label, count in counts.items():
        for i in range(count):
            path = tmp_path / "clips" / label / f"{i}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return f"dataset.folder={tmp_path / 'clips'}"


def test_a_random_split_is_by_class_seeded_and_has_shares(tmp_path):
    folder = clips_of(tmp_path, a=20, b=10, c=3)
    split, said = described(tmp_path, folder)
    counts = {
        name: [Counter(v.label for v in part)[i] for i in range(3)]
        for name, part in split.parts.items()
    }
    assert counts == {"train": [14, 7, 1], "validation": [2, 1, 1], "test": [4, 2, 1]}
    assert "clips of one recording" in said[-1]
    assert described(tmp_path, folder)[0] == split
    assert described(tmp_path, folder, "dataset.split_seed=1")[0] != split
    some, _ = described(tmp_path, folder, "dataset.shares=[0.5,0.2,0.3]", "dataset.classes=[b,a]")
    assert (some.classes, len(some.parts["test"])) == (("b", "a"), 9)


def test_groups_stay_together_and_parts_are_kept(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.mp4").touch()
    grouped = [f"{i}.mp4,{'ab'[i % 2]},p{i // 2}" for i in range(12)]
    path = table(tmp_path / "my clips.csv", "Path,Label,Group", *grouped)
    split, said = described(tmp_path, f"dataset.csv={path}")
    assert said == []
    parts = [{video.group for video in part} for part in split.parts.values()]
    assert [len(groups) for groups in parts] == [4, 1, 1]
    assert sum(len(part) for part in split.parts.values()) == 12
    parted = [f"{i}.mp4;{'ab'[i % 2]};{['training', 'val', 'test'][i // 2 % 3]}" for i in range(12)]
    path = table(tmp_path / "parts.csv", "path;label;part", *parted)
    split, said = described(tmp_path, f"dataset.csv={path}")
    assert names(split.parts["validation"]) == ["2.mp4", "3.mp4", "8.mp4", "9.mp4"]
    assert said == []


@pytest.mark.parametrize("label", "ab")
def test_a_group_in_two_parts_is_refused_in_whichever_classes(tmp_path, label):
    for i in range(12):
        (tmp_path / f"{i}.mp4").touch()
    both = [f"{i}.mp4,{'ab'[i % 2]},p{i // 2},{['train', 'test'][i % 4 // 2]}" for i in range(12)]
    both[0] = "0.mp4,a,p0,train"
    both[2] = f"2.mp4,{label},p0,test"
    path = table(tmp_path / "leak.csv", "path,label,group,part", *both)
    with pytest.raises(DataError, match=r": group p0 \(train, test\).*keep each in one part"):
        described(tmp_path, f"dataset.csv={path}")


@pytest.mark.parametrize(("part", "extra"), [("train", ""), ("val", ""), ("train", ",test")])
def test_what_parts_alone_cannot_test_is_said_with_what_helps(tmp_path, part, extra):
    for i in range(12):
        (tmp_path / f"{i}.mp4").touch()
    lines = [f"{i}.mp4,{'ab'[i % 2]},{'test' if extra and i > 7 else part}" for i in range(12)]
    path = table(tmp_path / "parts.csv", "path,label,part", *lines)
    more = ["dataset.classes=[a,b,c]"] if extra else []
    helps = r"no clip of class c.*evaluate: .*\{test: FILE\}" if extra else "all clips are of part"
    with pytest.raises(DataError, match=helps):
        described(tmp_path, f"dataset.csv={path}", *more)
    if extra:
        split, _ = described(tmp_path, f"dataset.csv={{test: {path}}}", *more)
        assert [len(part) for part in split.parts.values()] == [0, 0, 12]
    else:
        table(path, "path,label", *(line.rpartition(",")[0] for line in lines))
        assert described(tmp_path, f"dataset.csv={path}")


def test_kinetics_as_it_is(tmp_path):
    """A CSV for each split, files plain or below their label; what cannot be had any more."""
    header = "label,youtube_id,time_start,time_end,split"
    for name, split, ids in (("train", "train", range(8)), ("val", "validate", range(8, 12))):
        lines = [f"{['air drumming', 'yoga'][i % 2]},-id_{i},{i},{i + 10},{split}" for i in ids]
        table(tmp_path / f"{name}.csv", header, *lines)
    for i in range(12):
        below = ["air drumming/", "", "yoga/"][i % 2 * (1 + i % 3 % 2)]
        path = tmp_path / "videos" / f"{below}-id_{i}_{i:06d}_{i + 10:06d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    files = f"dataset.csv=[{tmp_path}/train.csv,{tmp_path}/val.csv]"
    split, said = described(tmp_path, files, f"dataset.folder={tmp_path}/videos")
    assert split.classes == ("air drumming", "yoga")
    assert len(split.parts["test"]) == 4  # those of val
    assert (len(split.parts["train"]), len(split.parts["validation"])) == (6, 2)
    assert "validation clips are tested" in said[0]
    path.unlink()
    with pytest.raises(DataError, match=r"1 of 12 clips are not there: -id_11_000011_000021\.mp4"):
        described(tmp_path, files, f"dataset.folder={tmp_path}/videos")
    split, _ = described(
        tmp_path, files, f"dataset.folder={tmp_path}/videos", "dataset.allow_missing=true"
    )
    assert (len(split.parts["test"]), split.missing) == (3, ("-id_11_000011_000021.mp4",))
    mapped = f"dataset.csv={{train: {tmp_path}/train.csv, test: {tmp_path}/val.csv}}"
    split, _ = described(
        tmp_path, mapped, f"dataset.folder={tmp_path}/videos", "dataset.allow_missing=true"
    )
    assert len(split.parts["test"]) == 3


def test_folders_of_parts(tmp_path):
    for part, count in (("train", 4), ("val", 1), ("test", 2)):
        for label in "ab":
            for i in range(count):
                path = tmp_path / "clips" / part / label / f"{i}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    split, said = described(tmp_path, f"dataset.folder={tmp_path}/clips")
    assert [len(part) for part in split.parts.values()] == [8, 2, 4]
    assert (split.classes, said) == (("a", "b"), [])
    (tmp_path / "clips/extra/a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"parts \(test, train, val\) beside others \(extra\)"):
        described(tmp_path, f"dataset.folder={tmp_path}/clips")


BAD = {
    "a class with few": ({"a": 5, "b": 1}, (), r"one side only: b \(1, none in test\)"),
    "an empty class": ({"a": 5, "b": 0}, (), r"b holds no video .it holds nothing.; add clips"),
    "a class that is none": ({"a": 5, "b": 4}, ("classes=[a,bb]",), "no clip of class bb.*mean b"),
    "no class": ({}, (), "clips is empty|no such folder"),
    "one class": ({"a": 5}, (), "must be two at least"),
    "shares": ({"a": 5, "b": 4}, ("shares=[1,1,0]",), "must be three from 0 to 1"),
    "two spellings": ({"a": 5, "A": 4}, (), "class A is spelled in two ways"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders(case, tmp_path):
    counts, overrides, message = BAD[case]
    folder = clips_of(tmp_path, **counts)
    for label in counts:
        (tmp_path / "clips" / label).mkdir(exist_ok=True)
    with pytest.raises((ConfigError, DataError), match=message):
        described(tmp_path, folder, *(f"dataset.{key}" for key in overrides))


BAD_TABLES = {
    "no header": (["0.mp4,a", "1.mp4,b"], r"must name the columns path, label .*'0\.mp4,a'"),
    "no clip": (["path,label"], "lists no clip"),
    "gone": (["path,label", "0.mp4,a", "00.mp4,b"], r"1 of 2 .*: 00\.mp4; .* holds 0\.mp4"),
    "twice": (["path,label", "0.mp4,a", "./0.mp4,b"], r"line 3: .* stands in .*line 2 already"),
    "no label": (["path,label", "0.mp4,"], "line 2 has no label"),
    "part": (["path,label,part", "0.mp4,a,trian"], "line 2: part is 'trian'"),
    "some parts": (["path,label,part", "0.mp4,a,train", "1.mp4,b,"], r"1 of 2 .*1\.mp4; say it"),
    "column twice": (["path,label,Label", "0.mp4,a,b"], "names the column label twice"),
    "comma": (["path,label", "0.mp4,a,b"], "more values than the 2 columns"),
    "one side": (
        ["path,label,part", "0.mp4,a,train", "1.mp4,b,test", "2.mp4,a,test"],
        r"one side only: b \(1, none in train\)",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables(case, tmp_path):
    lines, message = BAD_TABLES[case]
    for i in range(4):
        (tmp_path / f"{i}.mp4").touch()
    path = table(tmp_path / "clips.csv", *lines)
    with pytest.raises(DataError, match=message):
        described(tmp_path, f"dataset.csv={path}")


def test_copies_and_a_training_without_clips(tmp_path):
    for name in ("a0", "a1"):
        film(tmp_path / f"{name}.mp4", seed=int(name == "a1"))
    shutil.copy(tmp_path / "a0.mp4", tmp_path / "b0.mp4")
    rows = [f"{name}.mp4,{name[0]},test" for name in ("a0", "a1", "b0")]
    path = table(tmp_path / "c.csv", "path,label,part", *rows)
    config = compose(
        [
            *("backbone=resnet18", "dataset=own_video", f"dataset.csv={path}"),
            *(f"dataset.prepared={tmp_path}/p", *SMALL),
        ]
    )
    application = VideoApplication(config)
    said = [line for line in application.reads() if "one file in two" in line]
    assert len(said) == 1
    assert said[0].endswith("or classes, which spoils scores: 1 (a0.mp4 and b0.mp4)")
    with pytest.raises(DataError, match=r"no clip to train on \(evaluate\.py"):
        application.training_data(None, 0)


def test_clips_that_none_can_read_are_refused(tmp_path):
    folder = clips_of(tmp_path, a=3, b=3)
    config = compose(
        ["backbone=resnet18", "dataset=own_video", folder, f"dataset.prepared={tmp_path}/p", *SMALL]
    )
    with pytest.raises(DataError, match=r"no clip can be read: a/0\.mp4: .* is empty"):
        VideoApplication(config)


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+skip_trailer"}
OPTIONS = {
    "fast.mp4": {"movflags": "faststart"},
    "fragments.mp4": FRAGMENTS,
    "index.mp4": FRAGMENTS | {"movflags": "frag_keyframe+empty_moov"},
}


@pytest.mark.parametrize(
    "name",
    ["a.mp4", "a.mkv", "a.webm", "a.mov", "a.ts", "a.m2ts", *OPTIONS],
)
def test_other_containers_are_whole_or_refused(tmp_path, name):
    """Every frame in order; cut off in the middle, none that says where it ends is accepted."""
    codec = "mpeg2video" if name.endswith("ts") else None
    path = film(tmp_path / name, 50, codec=codec, **OPTIONS.get(name, {}))
    with av.open(str(path)) as container:
        expected = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    found = decode_video(path)
    assert len(expected) == 50
    assert np.array_equal(found.frames, expected.transpose(3, 0, 1, 2))
    assert (found.fps, found.concealed) == (25, 0)
    assert found.unmeasured == (name in ("a.ts", "a.m2ts", "fragments.mp4"))
    os.truncate(path, path.stat().st_size // 2 + 1)
    with pytest.raises(DataError, match=r"truncated|damaged|no frame can be decoded"):
        decode_video(path)
    if name in ("a.ts", "fragments.mp4"):  # a whole number of packets, of fragments
        content = path.read_bytes()
        end = len(content) // 188 * 188 if name == "a.ts" else content.rindex(b"moof") - 4
        os.truncate(path, end)
        half = decode_video(path)
        assert half.unmeasured
        assert half.frames.shape[1] < 40


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4"])
@pytest.mark.parametrize(
    "odd",
    [
        {"start": 60},
        {"last": 75},
        {"tags": {"DURATION-eng": "00:10:00.000000000"}},  # of what it was cut from
        {"tags": {"DURATION-eng": "12.5"}},
        {"tags": {"DURATION": "N/A"}},
    ],
    ids=["late", "a long last frame", "stale", "malformed", "no duration"],
)
def test_an_intact_film_is_whole_whatever_its_clock_and_tags_say(tmp_path, name, odd):
    path = film(tmp_path / name, 50, **odd)
    found = decode_video(path)
    assert (found.frames.shape[1], found.concealed, found.unmeasured) == (50, 0, False)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match=r"truncated|no frame can be decoded"):
        decode_video(path)


def test_a_film_is_turned_as_it_says(tmp_path):
    """The matrix of a telephone that was held upright: a quarter turn clockwise."""
    path = film(tmp_path / "a.mp4")
    upright = decode_video(path).frames
    content = path.read_bytes()
    one, w = (1 << 16).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    zero, minus = bytes(4), (-(1 << 16)).to_bytes(4, "big", signed=True)
    head = content.index(b"tkhd")
    start = content.index(one + zero * 3 + one + zero * 3 + w, head)
    turned = zero + one + zero + minus + zero * 4 + w
    path.write_bytes(content[:start] + turned + content[start + 36 :])
    assert np.array_equal(decode_video(path).frames, np.rot90(upright, -1, (2, 3)))


@pytest.mark.parametrize("name", ["notes.txt", "picture.png"])
def test_text_and_pictures_are_no_films(tmp_path, name):
    from PIL import Image

    path = tmp_path / name
    if name.endswith("png"):
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)
    else:
        path.write_text("sunny, little wind\n" * 20)
    with pytest.raises(DataError, match="no frame can be decoded"):
        decode_video(path)


@pytest.mark.parametrize("start", ["soon", "inf", "nan", ""])
def test_a_time_that_is_no_number_of_seconds_is_named(tmp_path, start):
    row = f"walk,abc,{start},10,train"
    (tmp_path / "k.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{row}\n")
    with pytest.raises(DataError, match=r"k\.csv, line 2: time_start and time_end must be seconds"):
        list_clips(None, str(tmp_path / "k.csv"))
