"""The CSV of scores: read back it holds what was scored, and it is never half a file."""

import csv
import math

import pytest

from psc.errors import DataError
from psc.metrics.tissues import TissueScore, TissueScores
from psc.mri.pictures import NETWORK, SubjectScores, write_subject_scores


def row(subject, method=NETWORK, dice=1 / 3, tissues=("csf", "gm"), **changes):
    values = {
        "dice": dice, "hd95": 2.5, "volume_truth": 4.0, "volume_predicted": 5.0,
        "volume_difference": 25.0, "missed": False, "invented": False,
    }  # fmt: skip
    score = TissueScore(**(values | changes))
    return SubjectScores(subject, "test", method, TissueScores(dict.fromkeys(tissues, score)))


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_row_is_read_back_unrounded(tmp_path):
    path = tmp_path / "new" / "scores.csv"
    rows = [
        row("IBSR_01"),
        row("IBSR_01", "gaussian mixture", dice=0.0, missed=True),
        row("Läuferin, 2", dice=math.nan, volume_difference=math.nan),
    ]

    write_subject_scores(path, rows)

    found = read(path)
    assert list(found[0])[:6] == ["subject", "part", "method", "dice_csf", "dice_gm", "dice_mean"]
    assert list(found[0])[3:] == list(rows[0].scores.as_row())
    assert [line["subject"] for line in found] == ["IBSR_01", "IBSR_01", "Läuferin, 2"]
    assert [line["method"] for line in found] == ["network", "gaussian mixture", "network"]
    assert {line["part"] for line in found} == {"test"}
    assert float(found[0]["dice_gm"]) == 1 / 3
    assert [line["missed"] for line in found] == ["0", "2", "0"]
    assert (found[2]["dice_csf"], found[2]["dice_mean"], found[2]["hd95_csf"]) == ("", "", "2.5")
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "scores.csv"
    write_subject_scores(path, [row("IBSR_01")])
    before = path.read_bytes()

    def fail(self, rows):
        self.writer.writerow(["half"])
        raise OSError("disk full")

    monkeypatch.setattr(csv.DictWriter, "writerows", fail)
    with pytest.raises(OSError, match="disk full"):
        write_subject_scores(path, [row("IBSR_02")])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_and_different_tissues_are_refused(tmp_path):
    path = tmp_path / "scores.csv"
    with pytest.raises(DataError, match="no scores to write"):
        write_subject_scores(path, [])
    with pytest.raises(
        DataError, match=r"IBSR_02 \(network\) was scored on gm, but IBSR_01 on csf"
    ):
        write_subject_scores(path, [row("IBSR_01"), row("IBSR_02", tissues=("gm",))])
    assert not path.exists()
