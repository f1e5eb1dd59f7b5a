"""Figures 5 and 6 show the slice and the regions where two networks really differ."""

import numpy as np
import picture_runs
import pytest
import tiny_brains
from matplotlib.patches import Ellipse

from psc.errors import ConfigError, DataError
from psc.mri.data import read_subject
from psc.mri.finding import find_subjects
from psc.mri.nifti import write_nifti
from psc.paper.panels import (
    PUBLISHABLE,
    draw_runs,
    em_figure,
    keep_picture,
    pick_em,
    pick_tissues,
    read_picture,
    read_runs,
    tissue_figure,
)
from psc.training.records import FILE_NAME


def pick(tmp_path, first, second, *, truth=None, voxel_size=(8.0, 8.0, 8.0)):
    raw, whole = picture_runs.em_volumes()
    truth = whole if truth is None else truth
    folders = [
        picture_runs.write_em_run(
            tmp_path, block, (raw, truth, labels), split=split, voxel_size=voxel_size
        )
        for block, labels, split in (("3d", first, 0.5), ("p2sc2", second, 0.125))
    ]
    return pick_em(read_runs(folders)[0], "somebody"), raw, truth


def test_slice_and_region_of_the_largest_difference(tmp_path):
    _, truth = picture_runs.em_volumes()
    second = truth.copy()
    second[1, 2:4, 2:4] = 99
    second[3, 16:21, 3:8] = 99  # more of it than in slice 1
    picture, raw, _ = pick(tmp_path, truth, second)
    assert picture.provenance["slice"] == {
        "volume": "test-0.h5", "axis": "z", "index": 3, "in_file": 103
    }  # fmt: skip
    np.testing.assert_array_equal(picture.raw, raw[3])
    differs = picture.difference > picture.difference.min()
    rows, columns = np.nonzero(picture.difference == picture.difference.max())
    assert differs.any()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 20, 3, 7)

    figure = em_figure(picture, regions=1)
    for panel in figure.axes[1:]:
        (ellipse,) = (patch for patch in panel.patches if isinstance(patch, Ellipse))
        x, y = ellipse.center
        assert (x, y) == pytest.approx((5, 18), abs=1.5)
    assert not any(isinstance(patch, Ellipse) for patch in figure.axes[0].patches)


def test_bodies_have_the_number_of_the_true_body_that_they_cover(tmp_path):
    _, truth = picture_runs.em_volumes()
    first = np.where(truth == 11, np.uint64(5), np.uint64(2**40))  # the same, other ids
    second = first.copy()
    second[2, :4, :4] = 1
    picture, _, _ = pick(tmp_path, first, second)
    np.testing.assert_array_equal(picture.predictions["3D"], picture.truth)
    assert picture.truth.dtype == np.uint8
    outside = np.ones((24, 24), dtype=bool)
    outside[:4, :4] = False
    np.testing.assert_array_equal(picture.predictions["P₂SC₂"][outside], picture.truth[outside])
    assert not np.isin(picture.predictions["P₂SC₂"][:4, :4], picture.truth).any()


def test_differences_count_only_where_the_truth_is_known(tmp_path):
    _, truth = picture_runs.em_volumes()
    second = truth.copy()
    second[4, :, :12] = 3
    second[1, :6, :6] = 3
    unknown = truth.copy()
    unknown[4] = 0
    assert pick(tmp_path / "a", truth, second)[0].provenance["slice"]["index"] == 4
    picture, _, _ = pick(tmp_path / "b", truth, second, truth=unknown)
    assert picture.provenance["slice"]["index"] == 1


def test_unassigned_voxels_of_the_first_run_differ_too(tmp_path):
    _, truth = picture_runs.em_volumes()
    first = truth.copy()
    first[2, 5:15, 5:15] = 0
    assert pick(tmp_path, first, truth)[0].provenance["slice"]["index"] == 2


def test_titles_scores_and_honesty(tmp_path):
    _, truth = picture_runs.em_volumes()
    picture, _, _ = pick(tmp_path, truth, np.ones_like(truth))
    figure = em_figure(picture)
    texts = [[text.get_text() for text in panel.texts] for panel in figure.axes]
    assert len(texts) == 4
    assert texts[0][0] == "raw"
    assert "50 nm" in texts[0]  # at most 0.3 of 24 pixels of 8 nm
    assert texts[1][0] == "(a) ground truth"
    assert texts[2][:2] == ["(b) 3D", "VI 0.50 split + 0.25 merge"]
    assert texts[3][:2] == ["(c) P₂SC₂", "VI 0.12 split + 0.25 merge"]
    around = " ".join(text.get_text() for text in figure.texts)
    assert "SYNTHETIC" in around
    assert "somebody" in around


def test_no_scale_bar_without_a_voxel_size(tmp_path):
    _, truth = picture_runs.em_volumes()
    picture, _, _ = pick(tmp_path, truth, np.ones_like(truth), voxel_size=None)
    assert not any("nm" in text.get_text() for text in em_figure(picture).axes[0].texts)


def test_lost_or_foreign_volumes_are_named(tmp_path):
    raw, truth = picture_runs.em_volumes()
    one = picture_runs.write_em_run(tmp_path, "3d", (raw, truth, truth))
    lost = picture_runs.write_em_run(tmp_path / "lost", "p2sc2", None)
    foreign = picture_runs.write_em_run(tmp_path / "foreign", "p2sc2", (raw + 1, truth, truth))
    with pytest.raises(DataError, match=r"holds no test-\*\.h5.*evaluate\.py"):
        pick_em(read_runs([one, lost])[0], "")
    with pytest.raises(DataError, match="not of the volume"):
        pick_em(read_runs([one, foreign])[0], "")
    (foreign / "evaluation" / "test-0.h5").write_bytes(b"no HDF5")
    with pytest.raises(DataError, match="not an HDF5 file"):
        pick_em(read_runs([one, foreign])[0], "")
    assert (one / FILE_NAME).is_file()


SUBJECT = "IBSR_04"
SCORES = {"dice_gm": 0.875, "dice_wm": 0.5, "dice_csf": 0.25}


@pytest.fixture
def cohort(tmp_path):
    """A data folder, and its test subject."""
    tiny_brains.write_cohort(tmp_path)
    return tmp_path, read_subject(find_subjects(tmp_path / "brains")[SUBJECT], labels="filled")


def write_run(folder, subject, block, labels):
    config = picture_runs.config_of(block, *tiny_brains.overrides(folder))
    test = {**SCORES, "dice_mean": 0.5}
    data = {
        "kind": "real",
        "splits": {"test": [SUBJECT]},
        "files": [dict(file) for file in subject.files],
    }
    run = picture_runs.write_run(
        folder / "runs", f"mri-{block}", config, test, data, metrics={"subjects": {SUBJECT: SCORES}}
    )
    if labels is not None:
        (run / "evaluation").mkdir()
        place = run / "evaluation" / f"{SUBJECT}_tissues.nii.gz"
        write_nifti(place, labels.astype(np.uint8), like=subject.native)
    return run


def test_slice_region_and_orientation_of_the_largest_difference(cohort):
    folder, subject = cohort
    truth = subject.native_labels
    second = truth.copy()
    # Subject's right (large first index), front (large second one), in slice 14 of the third axis.
    assert (truth[16:18, 10:12, 14] > 0).all()
    second[16:18, 10:12, 14] = 0
    runs = [write_run(folder, subject, *each) for each in (("3d", truth), ("p2sc2", second))]
    picture = pick_tissues(read_runs(runs)[0], "somebody")
    about = picture.provenance
    assert about["slice"] == {"volume": SUBJECT, "axis": "superior", "index": 14}
    assert about["pixel_size"] == pytest.approx([1.5, 1.0])  # (anterior, right)
    # All of the brain is in the picture, and the right and front of it to the right and above.
    for label, labels in (("3D", truth), ("P₂SC₂", second)):
        shown = picture.predictions[label]
        assert np.count_nonzero(shown) == np.count_nonzero(labels[..., 14])
    rows, columns = np.nonzero(picture.difference)
    brain_rows, brain_columns = np.nonzero(picture.truth)
    assert rows.size == 4
    assert rows.mean() < brain_rows.mean()
    assert columns.mean() > brain_columns.mean()
    np.testing.assert_array_equal(picture.predictions["3D"], picture.truth)

    figure = tissue_figure(picture)
    assert len(figure.axes) == 4
    for panel in figure.axes[1:]:
        (ellipse,) = (patch for patch in panel.patches if isinstance(patch, Ellipse))
        assert ellipse.center == pytest.approx((columns.mean(), rows.mean()), abs=0.6)
    height, width = picture.raw.shape
    for panel in figure.axes:  # nothing drawn on a picture shifts it
        assert panel.get_xlim() == (-0.5, width - 0.5)
        assert panel.get_ylim() == (height - 0.5, -0.5)
    assert "GM 87.5, WM 50.0, CSF 25.0" in figure.axes[2].texts[1].get_text()
    assert not any("SYNTHETIC" in text.get_text() for text in figure.texts)
    marked = type(picture)(
        picture.raw, picture.truth, picture.predictions, picture.difference,
        {**about, "kind": "synthetic"},
    )  # fmt: skip
    assert any("SYNTHETIC" in text.get_text() for text in tissue_figure(marked).texts)


def test_equal_predictions_have_no_ellipse(cohort):
    folder, subject = cohort
    runs = [write_run(folder, subject, block, subject.native_labels) for block in ("3d", "p2sc2")]
    figure = tissue_figure(pick_tissues(read_runs(runs)[0], ""))
    assert not any(isinstance(p, Ellipse) for panel in figure.axes for p in panel.patches)


def test_lost_labels_and_changed_data_are_named(cohort):
    folder, subject = cohort
    runs = [
        write_run(folder, subject, "3d", subject.native_labels),
        write_run(folder, subject, "p2sc2", None),
    ]
    with pytest.raises(DataError, match=rf"p2sc2.*{SUBJECT}_tissues.*evaluate\.py"):
        pick_tissues(read_runs(runs)[0], "")
    tiny_brains.write_subject(folder / "brains", 4, scale=2.0)
    with pytest.raises(DataError, match="is not the file"):
        pick_tissues(read_runs(runs)[0], "")


def write_runs(folder, **data):
    raw, truth = picture_runs.em_volumes()
    return [
        picture_runs.write_em_run(
            folder, block, (raw, truth, labels), data=picture_runs.em_data(**data)
        )
        for block, labels in (("3d", truth), ("p2sc2", np.ones_like(truth)))
    ]


def test_synthetic_runs_are_collected_once(tmp_path):
    runs, place = write_runs(tmp_path / "runs"), tmp_path / "experiments"
    keep_picture(runs, place)
    picture = read_picture(place / "figure-6")
    assert list(picture.predictions) == ["3D", "P₂SC₂"]
    assert "fibsem_synthetic" in picture.provenance["attribution"]
    (runs[0] / "evaluation" / "test-0.h5").unlink()  # refused before volumes are read
    (place / "figure-6" / "provenance.json").unlink()  # one of the two is enough
    with pytest.raises(ConfigError, match="--overwrite"):
        keep_picture(runs, place)


def test_real_data_only_if_known_to_be_publishable(tmp_path):
    place = tmp_path / "experiments"
    private = write_runs(tmp_path / "private", kind="real")
    with pytest.raises(ConfigError, match=r"volume\.h5.*not known to be publishable"):
        keep_picture(private, place)
    assert not place.exists()
    known = next(iter(PUBLISHABLE))
    keep_picture(write_runs(tmp_path / "open", kind="real", sha256=known), place)
    assert "CC BY" in read_picture(place / "figure-6").provenance["attribution"]
    pdf, png = draw_runs(private, tmp_path / "drawn")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [pdf.name, png.name]


def test_videos_have_no_picture(tmp_path):
    data = {
        "kind": "synthetic",
        "splits": {"split": "1", "classes": 6, "videos": {"train": 1, "test": 1}},
        "files": [],
    }
    scores = {"top1": 0.5, "top5": 1.0, "clip_top1": 0.5}
    runs = [
        picture_runs.write_run(
            tmp_path, block, picture_runs.config_of(block, "backbone=resnet18"), scores, data
        )
        for block in ("3d", "p2sc2")
    ]
    with pytest.raises(ConfigError, match="no figure shows pictures of video"):
        keep_picture(runs, tmp_path / "experiments")
