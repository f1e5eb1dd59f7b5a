"""scripts/prepare_ucf101.py as a user starts, interrupts and repeats it."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from psc.video.store import PreparedVideos
from psc.video.synthetic import write_avi

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "prepare_ucf101.py"

sys.path.insert(0, str(ROOT / "scripts"))
import prepare_ucf101  # noqa: E402

CLASSES = [f"Class{letter}" for letter in "ABCDEF"]
FRAMES = 12


@pytest.fixture
def films(tmp_path):
    rng = np.random.default_rng(0)
    for action in CLASSES:
        frames = rng.integers(0, 256, (FRAMES, 48, 64, 3), dtype=np.uint8)
        write_avi(tmp_path / "films" / action / f"v_{action}_g01_c01.avi", frames)
    return tmp_path / "films"


def prepare(*arguments):
    """Exit status of the script, run in this process."""
    try:
        prepare_ucf101.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code
    return 0


def test_prepares_reports_and_fails_only_when_asked_to(films, tmp_path, capsys):
    output = tmp_path / "prepared"
    broken = films / "ClassA" / "v_ClassA_g02_c01.avi"
    broken.write_text("not, a video")
    options = (films, "--output", output, "--size", 24, 32, "--workers", 1)
    assert prepare(*options) == 0
    shown = capsys.readouterr()
    assert "6 videos prepared, 0 were there already" in shown.out
    assert "1 could not be prepared and are left out" in shown.err
    assert "7/7" in shown.err  # the progress bar
    with (output / "unreadable.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["source"] == "ClassA/v_ClassA_g02_c01.avi"
    assert "not an AVI file" in row["reason"]
    assert PreparedVideos(output).read("v_classa_g01_c01", 0, FRAMES).shape == (3, 12, 24, 32)

    assert prepare(*options, "--strict") == 1
    assert "0 videos prepared, 6 were there already" in capsys.readouterr().out

    broken.unlink()
    assert prepare(*options, "--strict") == 0
    assert not (output / "unreadable.csv").exists()


def test_errors_are_one_line_and_a_status(tmp_path):
    assert prepare(tmp_path / "nowhere", "--output", tmp_path / "prepared") == (
        f"error: {tmp_path / 'nowhere'} is not a folder; give the one that UCF101.rar unpacks to"
    )


def test_an_interruption_is_no_traceback(films, tmp_path, monkeypatch, capsys):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_ucf101, "prepare_videos", interrupted)
    assert prepare(films, "--output", tmp_path / "prepared") == 130
    assert "run it again to go on" in capsys.readouterr().err


def test_defaults_are_the_paper_s_and_downloads_land_there():
    chosen = prepare_ucf101._parser().parse_args([])
    assert (chosen.short_side, chosen.size) == (80, None)
    assert chosen.videos == ROOT / "data" / "ucf101" / "UCF-101"
    assert chosen.output == ROOT / "data" / "ucf101" / "prepared"


def children(process):
    return [
        int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{process}/status").read_text()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
def test_killed_with_its_workers_at_work_it_resumes(films, tmp_path, capsys):
    output = tmp_path / "prepared"
    options = [films, "--output", output, "--short-side", "24", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, options)], stderr=subprocess.DEVNULL
    )
    wait_for(lambda: list(output.glob("*.h5")))
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers
    wait_for(lambda: not any(alive(worker) for worker in workers))
    before = len(list(output.glob("*.h5")))
    assert before >= 1

    assert prepare(*options[:-1], 1) == 0
    assert f"{6 - before} videos prepared, {before} were" in capsys.readouterr().out
    assert len(PreparedVideos(output).videos) == 6
    assert sorted(p.name for p in output.iterdir()) == [f"{action}.h5" for action in CLASSES]
