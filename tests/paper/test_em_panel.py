"""Figure 6 shows the slice, the bodies and the regions where two segmentations really differ."""

import numpy as np
import picture_runs
import pytest
from matplotlib.patches import Ellipse

from psc.errors import DataError
from psc.paper.panels import em_figure, pick_em
from psc.paper.pictures import read_runs
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
    with pytest.raises(DataError, match="damaged"):
        pick_em(read_runs([one, foreign])[0], "")
    assert (one / FILE_NAME).is_file()
