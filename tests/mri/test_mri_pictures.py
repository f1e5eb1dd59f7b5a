"""Figures and table of tissues: what is drawn where, read back from figures and file themselves."""

import csv
import math
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from colour_vision import VISION, as_seen
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from psc.errors import ConfigError, DataError
from psc.metrics.tissues import TissueScore, TissueScores
from psc.mri.pictures import (
    DIFFERENCE_COLOUR,
    NETWORK,
    SubjectScores,
    scores_figure,
    slices_figure,
    tissue_colour,
    volumes_figure,
    write_subject_scores,
)
from psc.mri.tissues import CSF, GM, TISSUES, WM

BASELINE = "gaussian mixture"


def row(number, dice, method="network", truth=10.0, predicted=12.0, **other):
    score = TissueScore(dice, 1.0, truth, predicted, 20.0, dice == 0, False)
    tissues = TissueScores(dict.fromkeys(other.get("tissues", TISSUES), score))
    return SubjectScores(f"IBSR_{number:02d}", other.get("part", "test"), method, tissues)


@pytest.fixture
def drawn(monkeypatch):
    """Call a figure's function; returns the matplotlib figure instead of writing it."""

    def draw(function, *arguments, **options):
        figures = []
        monkeypatch.setattr("psc.paper.style.save_png", lambda figure, path: figures.append(figure))
        function(*arguments, "figure.png", **options)
        return figures[0]

    return draw


def points(axes):
    found = [line.get_xydata() for line in axes.lines if line.get_linestyle() == "None"]
    return [np.array(xy) for xy in found if len(xy)]  # a box has a line of its outliers: none here


def test_every_subject_is_a_point_beside_the_baseline(drawn):
    network, baseline = [0.9, 0.85, 0.95, 0.8, 0.9], [0.7, 0.75, 0.6, 0.65, 0.5]
    rows = [row(i, value) for i, value in enumerate(network)]
    rows += [row(i, value, BASELINE) for i, value in enumerate(baseline)]
    figure = drawn(scores_figure, rows, title="SYNTHETIC")
    (axes,) = figure.axes
    columns = points(axes)
    assert len(columns) == 6
    for i, column in enumerate(columns):
        assert column[:, 1].tolist() == (baseline if i % 2 else network)
        assert abs(column[:, 0] - i // 2).max() < 0.5
        assert np.unique(column[:, 0]).size == 5  # none hides another
    assert all(one[:, 0].max() < two[:, 0].min() for one, two in pairwise(columns))
    assert len(axes.patches) == 6
    assert [label.get_text() for label in axes.get_xticklabels()] == ["CSF", "GM", "WM"]
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == f"{np.mean(network):.3f}\n± {np.std(network, ddof=1):.3f}\nn = 5"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["network", BASELINE]
    assert figure.get_suptitle() == "SYNTHETIC"
    assert axes.get_ylabel() == "Dice of the test subjects"


def test_no_box_of_few_subjects_and_missed_ones_are_counted(drawn):
    (axes,) = drawn(scores_figure, [row(1, 0.9), row(2, 0.0), row(3, math.nan)]).axes
    assert not axes.patches
    assert axes.get_ylim()[0] == 0
    assert axes.texts[0].get_text().splitlines() == ["0.450", "± 0.636", "n = 2, 1 missed"]


def test_volumes_are_differences_against_means(drawn):
    truth, predicted = np.array([10.0, 20, 30]), np.array([12.0, 19, 36])
    rows = [
        row(i, 0.9, truth=t, predicted=p)
        for i, (t, p) in enumerate(zip(truth, predicted, strict=True))
    ]
    rows += [row(i, 0.9, BASELINE) for i in range(2)]
    figure = drawn(volumes_figure, rows)
    assert len(figure.axes) == 6
    first = figure.axes[0]
    (found,) = points(first)
    np.testing.assert_allclose(found, np.stack([(truth + predicted) / 2, predicted - truth], 1))
    mean, spread = 7 / 3, 1.96 * np.std([2, -1, 6], ddof=1)
    lines = [line.get_ydata()[0] for line in first.lines if line.get_linestyle() != "None"]
    np.testing.assert_allclose(lines, [0, mean, mean + spread, mean - spread])
    low, high = first.get_ylim()
    assert low < mean - spread < mean + spread < high
    assert [text.get_text() for text in first.texts] == [f"{mean:+.3g}", "+9.22", "−4.55"]
    # Two subjects have no limits of agreement: there is the line at zero only.
    assert len([line for line in figure.axes[3].lines if line.get_linestyle() != "None"]) == 1
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:2] == ["CSF, network", "GM, network"]
    assert titles[5] == f"WM, {BASELINE}"


def test_pictures_are_written_for_any_number_of_subjects(tmp_path):
    for subjects, function in ((1, volumes_figure), (2, scores_figure), (18, volumes_figure)):
        rows = [row(i, 0.5 + 0.02 * i, truth=10.0 + i) for i in range(subjects)]
        path = tmp_path / f"{subjects}.png"
        function(rows, path)
        assert np.asarray(Image.open(path).convert("L")).std() > 5


VOXEL = (1.0, 1.5, 2.0)


@pytest.fixture
def brain():
    """T1, truth and prediction (40, 30, 20); fluid marks one end of each axis."""
    truth = np.zeros((40, 30, 20), dtype=np.uint8)
    truth[8:32, 6:24, 5:15] = GM
    truth[12:28, 10:20, 8:12] = WM
    truth[28:31, 14:16, 9:11] = CSF  # at the right
    truth[19:21, 21:23, 9:11] = CSF  # anterior
    truth[19:21, 14:16, 13:15] = CSF  # superior
    image = np.choose(truth, (0.0, 20.0, 60.0, 100.0)).astype(np.float32)
    prediction = truth.copy()
    prediction[19:21, 7, 9:11] = WM  # wrong at the posterior end
    return image, truth, prediction


def shown(axes):
    """The picture in a panel and where its voxels of a colour are, as (right, up) in [0, 1]."""
    picture = np.asarray(axes.images[0].get_array())

    def centre(colour):
        rows, columns = np.nonzero(np.abs(picture - np.array(colour)).max(axis=-1) < 1e-6)
        height, width = picture.shape[:2]
        return (columns.mean() + 0.5) / width, 1 - (rows.mean() + 0.5) / height

    return picture, centre


def test_slices_follow_the_neurological_convention(drawn, brain):
    figure = drawn(slices_figure, *brain, VOXEL)
    assert len(figure.axes) == 12
    axial, coronal, sagittal = (figure.axes[4 * i : 4 * i + 4] for i in range(3))
    fluid = tissue_colour("csf")
    # Axial: one at the right, one anterior; seen from above, with the subject's right at the right.
    right, up = shown(axial[1])[1](fluid)
    assert right > 0.55
    assert up > 0.55
    # Coronal: one at the right, one superior. Sagittal: one anterior (to the right), one superior.
    for panels in (coronal, sagittal):
        right, up = shown(panels[1])[1](fluid)
        assert right > 0.55
        assert up > 0.55
    # The error is posterior: at the bottom of the axial slice, at the left of the sagittal one.
    assert shown(axial[3])[1](DIFFERENCE_COLOUR)[1] < 0.3
    assert shown(sagittal[3])[1](DIFFERENCE_COLOUR)[0] < 0.3
    assert [text.get_text() for text in axial[0].texts][:3] == ["T1, axial", "L", "R"]
    assert [text.get_text() for text in sagittal[0].texts] == ["T1, sagittal", "P", "A"]
    assert "neurological" in figure.legends[0].get_title().get_text()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["CSF", "GM", "WM", "truth and prediction differ"]


def test_only_what_differs_is_marked(drawn, brain):
    image, truth, _ = brain
    axial = drawn(slices_figure, *brain, VOXEL).axes[:4]
    t1, true, predicted, different = (shown(panel)[0] for panel in axial)
    marked = np.abs(different - np.array(DIFFERENCE_COLOUR)).max(axis=-1) < 1e-6
    assert marked.sum() == 2  # of the four wrong voxels two are in this slice
    np.testing.assert_array_equal(marked, (true != predicted).any(axis=-1))
    np.testing.assert_array_equal(different[~marked], t1[~marked])
    same = drawn(slices_figure, image, truth, truth, VOXEL).axes
    np.testing.assert_array_equal(*(np.asarray(same[i].images[0].get_array()) for i in (0, 3)))


def test_panels_are_as_large_as_their_millimetres(drawn, brain):
    figure = drawn(slices_figure, *brain, VOXEL)
    width, height = figure.get_size_inches()
    # 4 mm around the labels of 24 × 18 × 10 voxels: 4, 3 and 2 voxels at either end.
    millimetres = {"x": 32 * 1.0, "y": (18 + 6) * 1.5, "z": (10 + 4) * 2.0}
    scales = []
    for i, (right, up) in enumerate(("xy", "xz", "yz")):
        panel = figure.axes[4 * i]
        rows, columns = shown(panel)[0].shape[:2]
        assert rows * VOXEL["xyz".index(up)] == millimetres[up]
        assert columns * VOXEL["xyz".index(right)] == millimetres[right]
        box = panel.get_position()
        # Of the widest: the others are at its left.
        shown_width = np.ptp(panel.get_xlim()) * VOXEL["xyz".index(right)]
        assert shown_width == max(millimetres["x"], millimetres["y"])
        scales += [box.width * width / shown_width, box.height * height / millimetres[up]]
    np.testing.assert_allclose(scales, scales[0])
    (bar,) = figure.axes[0].patches
    assert bar.get_width() * 36 == 10  # of 10 and 20 mm the longer that is below 0.3 × 36
    assert "10 mm" in [text.get_text() for text in figure.axes[0].texts]


def test_a_picture_of_a_brain_is_written(brain, tmp_path):
    path = tmp_path / "slices.png"
    slices_figure(*brain, VOXEL, path, title="phantom: SYNTHETIC")
    image = np.asarray(Image.open(path).convert("RGB"))
    assert image.shape[1] == 690
    for tissue in TISSUES:
        assert (image == np.round(255 * np.array(tissue_colour(tissue)))).all(axis=-1).any()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"prediction": np.full((40, 30, 20), 4, np.uint8)}, DataError, "found 4 to 4"),
        ({"path": Path("figure.jpg")}, ConfigError, "PNG"),
    ],
)
def test_impossible_slices_are_refused(change, error, match, brain, tmp_path):
    arguments = dict(zip(("image", "labels", "prediction"), brain, strict=True))
    path = tmp_path / "figure.png"
    with pytest.raises(error, match=match):
        slices_figure(**(arguments | {"voxel_size": VOXEL, "path": path} | change))
    assert not path.exists()


def test_labels_without_a_tissue_are_refused(brain, tmp_path):
    nothing = np.zeros_like(brain[1])
    with pytest.raises(DataError, match="neither truth nor prediction"):
        slices_figure(brain[0], nothing, nothing, VOXEL, tmp_path / "figure.png")


@pytest.mark.parametrize("vision", VISION)
def test_tissues_are_told_apart_with_any_colour_vision(vision):
    colours = np.array([tissue_colour(tissue) for tissue in TISSUES])
    lab = rgb2lab(as_seen(colours, vision)[None])[0]
    assert min(deltaE_ciede2000(one, other) for one, other in combinations(lab, 2)) > 18


def scored(subject, method=NETWORK, dice=1 / 3, tissues=("csf", "gm"), **changes):
    values = {
        "dice": dice, "hd95": 2.5, "volume_truth": 4.0, "volume_predicted": 5.0,
        "volume_difference": 25.0, "missed": False, "invented": False,
    }  # fmt: skip
    score = TissueScore(**(values | changes))
    return SubjectScores(subject, "test", method, TissueScores(dict.fromkeys(tissues, score)))


def test_of_many_tissues_the_worst_are_shown(drawn):
    names = [f"region-{i}" for i in range(30)]
    score = scored("a").scores.tissues["gm"]
    tissues = {name: replace(score, dice=i / 30) for i, name in enumerate(names)}
    rows = [SubjectScores("a", "test", NETWORK, TissueScores(tissues))]
    figure = drawn(scores_figure, rows, title="mine")
    shown_names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown_names == names[:24]
    assert figure.get_suptitle() == "mine, the 24 of 30 tissues with the lowest Dice"
    assert len({tissue_colour(name, names) for name in names[:9]}) == 9


def test_slices_of_any_tissues(drawn, brain):
    image, labels, prediction = brain
    tissues = {f"region{i}": i for i in range(1, 15)}
    others = labels + 10 * (labels > 0).astype(np.uint8)
    figure = drawn(slices_figure, image, others, prediction, VOXEL, tissues=tissues)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[:14] == list(tissues)
    colour = tissue_colour("region12", tissues)
    assert np.isclose(shown(figure.axes[1])[0], colour).all(axis=-1).any()


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_row_is_read_back_unrounded(tmp_path):
    path = tmp_path / "new" / "scores.csv"
    rows = [
        scored("IBSR_01"),
        scored("IBSR_01", "gaussian mixture", dice=0.0, missed=True),
        scored("Läuferin, 2", dice=math.nan, volume_difference=math.nan),
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
