"""Figure 5 shows the slice, the tissues and the regions where two predictions really differ."""

import numpy as np
import picture_runs
import pytest
import tiny_brains
from matplotlib.patches import Ellipse

from psc.errors import DataError
from psc.mri.data import find_subjects, read_subject
from psc.mri.nifti import write_nifti
from psc.paper.panels import _edges, pick_tissues, tissue_figure
from psc.paper.pictures import read_runs

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
        write_nifti(place, labels, like=subject.native, dtype=np.uint8)
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


def test_outlines_run_between_pixels():
    mask = np.zeros((4, 5), dtype=bool)
    mask[1:3, 2] = True  # rows 1 and 2 of column 2: 0.5 to 2.5 down, 1.5 to 2.5 across
    pieces = set()
    for x, y in _edges(mask):
        for i in range(0, x.size, 3):
            assert np.isnan(x[i + 2]) or np.isnan(y[i + 2])
            pieces.add((*x[i : i + 2].tolist(), *y[i : i + 2].tolist()))
    assert pieces == {
        (1.5, 2.5, 0.5, 0.5), (1.5, 2.5, 2.5, 2.5),
        (1.5, 1.5, 0.5, 1.5), (1.5, 1.5, 1.5, 2.5), (2.5, 2.5, 0.5, 1.5), (2.5, 2.5, 1.5, 2.5),
    }  # fmt: skip
