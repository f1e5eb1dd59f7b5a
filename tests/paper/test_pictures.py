"""A picture survives its files, and a changed, missing or foreign one is refused."""

import json
from pathlib import Path

import numpy as np
import picture_runs
import pytest

from psc.errors import ConfigError, DataError
from psc.paper.panels import (
    LARGEST,
    PIXELS,
    PROVENANCE,
    Picture,
    data_note,
    read_picture,
    read_runs,
    smallest,
    write_picture,
)
from psc.paper.text import block_label
from psc.training.records import read_record

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def picture():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 9, (3, 6, 5)).astype(np.uint8)
    about = {"kind": "synthetic", "runs": [{"label": "3D"}, {"label": "P₂SC₂"}]}
    return Picture(
        rng.integers(0, 256, (6, 5)).astype(np.uint8),
        labels[0],
        {"3D": labels[1], "P₂SC₂": labels[2]},
        rng.random((6, 5)).astype(np.float16),
        about,
    )


def test_round_trip(picture, tmp_path):
    files = write_picture(picture, tmp_path / "figure")
    assert sorted((tmp_path / "figure").iterdir()) == sorted(files)  # no temporary file is left
    again = read_picture(tmp_path / "figure")
    for name in ("raw", "truth", "difference"):
        np.testing.assert_array_equal(getattr(again, name), getattr(picture, name))
        assert getattr(again, name).dtype == getattr(picture, name).dtype
    assert list(again.predictions) == ["3D", "P₂SC₂"]
    for label, labels in picture.predictions.items():
        np.testing.assert_array_equal(again.predictions[label], labels)
    assert again.provenance["runs"] == picture.provenance["runs"]


def test_the_same_picture_gives_the_same_bytes(picture, tmp_path):
    one, other = (write_picture(picture, tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_changed_pixels_are_refused(picture, tmp_path):
    write_picture(picture, tmp_path)
    content = bytearray((tmp_path / PIXELS).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / PIXELS).write_bytes(content)
    with pytest.raises(DataError, match=r"slices\.npz is not the file"):
        read_picture(tmp_path)


def test_a_changed_number_is_refused(picture, tmp_path):
    write_picture(picture, tmp_path)
    about = json.loads((tmp_path / PROVENANCE).read_text())
    about["kind"] = "real"
    (tmp_path / PROVENANCE).write_text(json.dumps(about))
    with pytest.raises(DataError, match="was changed"):
        read_picture(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 99}'])
def test_what_is_no_provenance_is_refused(picture, tmp_path, content):
    write_picture(picture, tmp_path)
    (tmp_path / PROVENANCE).write_text(content)
    with pytest.raises(DataError, match=PROVENANCE):
        read_picture(tmp_path)


@pytest.mark.parametrize("missing", [PIXELS, PROVENANCE])
def test_a_missing_file_is_named(picture, tmp_path, missing):
    write_picture(picture, tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=missing):
        read_picture(tmp_path)


def test_a_large_picture_leaves_nothing(picture, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1000)).astype(np.uint8)
    large = Picture(noise, picture.truth, {}, picture.difference, {"runs": []})
    with pytest.raises(DataError, match=f"more than {LARGEST:,}"):
        write_picture(large, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_labels_take_the_narrowest_type():
    assert smallest(np.array([0, 255])).dtype == np.uint8
    assert smallest(np.array([0, 256])).dtype == np.uint16
    assert smallest(np.zeros((0,), dtype=int)).size == 0


@pytest.mark.parametrize(
    ("name", "label"),
    [("3d", "3D"), ("p2sc2", "P₂SC₂"), ("p2sc3_calibrated", "P₂SC₃ calibrated"), ("psc", "psc")],
)
def test_blocks_are_written_as_in_the_paper(name, label):
    assert block_label(name) == label


def test_runs_of_one_test_only(tmp_path):
    one = picture_runs.write_em_run(tmp_path, "3d", None)
    same = picture_runs.write_em_run(tmp_path, "p2sc2", None)
    other = picture_runs.write_em_run(
        tmp_path / "other", "p2sc2", None, data=picture_runs.em_data(test="test[5:9]")
    )
    runs, measures = read_runs([one, same])
    assert [run.label for run in runs] == ["3D", "P₂SC₂"]
    assert measures.name == "affinity"
    with pytest.raises(DataError, match="tested on different data"):
        read_runs([one, other])
    with pytest.raises(ConfigError, match="one run of each"):
        read_runs([same, other])
    with pytest.raises(ConfigError, match="at least two"):
        read_runs([one])
    (same / "result.json").unlink()
    with pytest.raises(DataError, match="has not finished"):
        read_runs([one, same])


@pytest.mark.parametrize(
    ("figure", "records"), [("figure-6", EXPERIMENTS / "table-6d" / "records"), ("figure-5", None)]
)
def test_the_committed_pictures_are_of_the_committed_records(figure, records):
    folder = EXPERIMENTS / figure
    about = read_picture(folder).provenance
    assert (folder / PIXELS).stat().st_size <= LARGEST
    assert about["attribution"]
    if records is None:
        assert about["kind"] == "synthetic"  # IBSR's terms
        return
    for run in about["runs"]:
        record = read_record(records / run["run"])
        assert run["record"] == record.seal
        assert run["scores"].items() <= record.metrics["test"].items()


def test_captions_say_whose_data_and_how_long():
    def note(kind, *iterations):
        runs = [{"label": name, "iterations": n} for name, n in zip("ab", iterations, strict=True)]
        return data_note({"attribution": "X", "kind": kind, "runs": runs})

    assert note("real", 1200, 1200) == "X; real, 1,200 iterations."
    assert note("synthetic", 1200, 9) == "X; synthetic, a 1,200, b 9 iterations."
    assert "reduced protocol" in note("real sample", 1, 1)
