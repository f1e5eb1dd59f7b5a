"""metrics.csv: appended, kept across a resume, robust to a cut-off row."""

import time

import pytest

from psc.errors import DataError
from psc.training.loggers import MetricsFile, read_metrics, training_seconds
from psc.training.records import over_attempts


def test_rows_are_on_disk_as_soon_as_they_are_logged(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsFile(path)
    log.log_metrics({"train/loss": 0.5, "epoch": 0.0, "unknown": 3.0}, step=9)
    log.log_metrics({"validation/loss": 0.25, "epoch": 0.0}, step=9)
    log.log_metrics({"epoch": 0.0}, step=10)  # nothing to say
    rows = read_metrics(path)
    assert [(r["step"], r["train/loss"], r["validation/loss"]) for r in rows] == [
        ("9", "0.5", ""),
        ("9", "", "0.25"),
    ]


def test_a_resume_keeps_what_came_before_and_drops_what_is_computed_again(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsFile(path)
    for step in (4, 9, 14):
        log.log_metrics({"train/loss": float(step)}, step=step)
    MetricsFile(path, first_step=10).log_metrics({"train/loss": 100.0}, step=14)
    assert [r["train/loss"] for r in read_metrics(path)] == ["4.0", "9.0", "100.0"]


def test_a_resume_goes_on_with_the_clock(tmp_path, monkeypatch):
    path, now = tmp_path / "metrics.csv", iter((0, 100, 200, 300, 1000, 1050, 2000, 2010))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    log = MetricsFile(path)
    for step in (4, 9, 14):
        log.log_metrics({"train/loss": 1.0}, step=step)
    MetricsFile(path, first_step=10).log_metrics({"train/loss": 1.0}, step=14)  # 9 was the last
    MetricsFile(path, first_step=15).log_metrics({"train/loss": 1.0}, step=19)
    assert [float(row["seconds"]) for row in read_metrics(path)] == [100, 200, 250, 260]
    assert training_seconds(path) == 260


def test_files_whose_attempts_each_began_at_zero_are_read_as_one_clock(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    path.write_text("step,seconds\n4,100.0\n9,200.0\n14,50.0\n19,90.0\n24,10.0\n")
    assert over_attempts([100.0, 200.0, 50.0, 90.0, 10.0]) == [100, 200, 250, 290, 300]
    assert training_seconds(path) == 300
    now = iter((0, 7))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    MetricsFile(path, first_step=25).log_metrics({"train/loss": 1.0}, step=29)
    assert training_seconds(path) == 307


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsFile(path).log_metrics({"train/loss": 1.0}, step=1)
    with path.open("a") as file:
        file.write("2,0,0.")
    assert len(read_metrics(path)) == 1


def test_a_new_run_starts_with_a_header_only(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsFile(path)
    assert path.read_text().startswith("step,epoch,seconds,train/loss,validation/loss")
    assert read_metrics(path) == []
    assert read_metrics(tmp_path / "none.csv") == []


@pytest.mark.parametrize("rows", ["step\n4\n", "step,seconds\n4,x\n", "step,seconds\nfour,1.0\n"])
def test_a_file_that_was_changed_is_named(tmp_path, rows):
    path = tmp_path / "metrics.csv"
    path.write_text(rows)
    with pytest.raises(DataError, match=r"metrics.csv was changed.*restore it or delete it"):
        MetricsFile(path, first_step=10)
    assert path.read_text() == rows
