from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psc.em.pictures import Region, affinity_figure, region_ellipse, segmentation_figure
from psc.errors import ConfigError, DataError

SIDE = 60  # pixels of a slice
DEPTH = 5


@pytest.fixture(scope="module")
def raw() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (DEPTH, SIDE, SIDE)).astype(np.uint8)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Nine square cells of 20 x 20, the same in every slice."""
    cells = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((20, 20), dtype=np.int64))
    return np.broadcast_to(cells, (DEPTH, SIDE, SIDE)).copy()


def with_an_error(truth: np.ndarray) -> np.ndarray:
    """A piece of 7 x 7 cut out of the cell at the upper right, in slice 3 only."""
    wrong = truth.copy()
    wrong[3, 5:12, 48:55] = 77
    return wrong


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int64)


def panel(image: np.ndarray, index: int, count: int) -> np.ndarray:
    """The pixels of one square panel: margins and gaps of 0.05 inches, 300 pixels per inch."""
    side = (6.9 * 300 - 30 - 15 * (count - 1)) / count
    left = 15 + index * (side + 15)
    bottom = image.shape[0] - 15
    # One pixel less all round: the outermost are blended with the background.
    columns = slice(round(left) + 1, round(left + side) - 1)
    return image[round(bottom - side) + 1 : bottom - 1, columns]


def test_the_picture_is_one_page_wide_and_shows_every_panel(
    raw: np.ndarray, truth: np.ndarray, tmp_path: Path
):
    path = tmp_path / "figure.png"
    segmentation_figure(raw, truth, {"right": truth, "wrong": with_an_error(truth)}, path)
    image = pixels(path)
    side = (6.9 * 300 - 30 - 45) / 4
    assert image.shape == (int(side + 30 + 75), 2070, 3)
    shown = [panel(image, i, 4) for i in range(4)]
    assert all(part.std() > 20 for part in shown)
    grey = shown[0]
    assert (grey.max(axis=2) == grey.min(axis=2)).all()  # raw has no colour, the others have
    assert all((part.max(axis=2) - part.min(axis=2)).mean() > 20 for part in shown[1:])


def test_a_perfect_prediction_looks_like_the_truth(
    raw: np.ndarray, truth: np.ndarray, tmp_path: Path
):
    path = tmp_path / "figure.png"
    segmentation_figure(raw, truth, {"renumbered": 100 - truth}, path)
    image = pixels(path)
    true, predicted = panel(image, 1, 3), panel(image, 2, 3)
    np.testing.assert_array_equal(true, predicted)


def test_the_ellipse_is_around_the_planted_error(
    raw: np.ndarray, truth: np.ndarray, tmp_path: Path
):
    predictions = {"right": truth, "wrong": with_an_error(truth)}
    segmentation_figure(raw, truth, predictions, tmp_path / "with.png")
    segmentation_figure(raw, truth, predictions, tmp_path / "without.png", regions=0)
    difference = (pixels(tmp_path / "with.png") != pixels(tmp_path / "without.png")).any(axis=2)
    for i in range(3):
        assert not panel(difference, i, 4).any()
    ring = np.argwhere(panel(difference, 3, 4)) * SIDE / panel(difference, 3, 4).shape[0]
    # The error is the largest disagreement, but the rest of its cell has some too: ellipses that
    # contain none of the error must lie inside that cell.
    assert ring[:, 0].min() < 5
    assert ring[:, 0].max() > 12
    assert ring[:, 1].min() < 48
    assert ring[:, 1].max() > 55
    assert ring[:, 0].max() < 30
    assert ring[:, 1].min() > 30


def test_the_default_slice_is_the_one_with_the_error(
    raw: np.ndarray, truth: np.ndarray, tmp_path: Path
):
    wrong = {"wrong": with_an_error(truth)}
    segmentation_figure(raw, truth, wrong, tmp_path / "default.png")
    segmentation_figure(raw, truth, wrong, tmp_path / "3.png", slice_index=3)
    segmentation_figure(raw, truth, wrong, tmp_path / "2.png", slice_index=2)
    np.testing.assert_array_equal(pixels(tmp_path / "default.png"), pixels(tmp_path / "3.png"))
    assert (pixels(tmp_path / "default.png") != pixels(tmp_path / "2.png")).any()


def test_a_scale_bar_only_where_the_voxel_size_is_known(
    raw: np.ndarray, truth: np.ndarray, tmp_path: Path
):
    segmentation_figure(raw, truth, {"a": truth}, tmp_path / "none.png", slice_index=0)
    segmentation_figure(
        raw, truth, {"a": truth}, tmp_path / "bar.png", slice_index=0, voxel_size_nm=8
    )
    changed = (pixels(tmp_path / "bar.png") != pixels(tmp_path / "none.png")).any(axis=2)
    rows, columns = np.nonzero(panel(changed, 0, 3))
    side = panel(changed, 0, 3).shape[0]
    assert rows.min() > 0.7 * side  # lower left; 100 nm are 12.5 of the 60 pixels
    assert 0.03 * side < columns.min() < 0.05 * side
    np.testing.assert_allclose(np.ptp(columns) / side, 12.5 / SIDE, atol=0.05)
    assert not panel(changed, 1, 3).any()


def test_captions_replace_the_scores(raw: np.ndarray, truth: np.ndarray, tmp_path: Path):
    for name, captions in {"vi": None, "own": {"a": "trained for a day"}, "empty": {}}.items():
        segmentation_figure(
            raw, truth, {"a": truth}, tmp_path / f"{name}.png", captions=captions, slice_index=0
        )
    titles = {n: pixels(tmp_path / f"{n}.png")[:88, 1400:] for n in ("vi", "own", "empty")}
    ink = {n: int((title < 128).sum()) for n, title in titles.items()}
    assert ink["own"] > ink["empty"]
    assert ink["vi"] > ink["empty"]
    assert (titles["own"] != titles["vi"]).any()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"predictions": {}}, ConfigError, "at least one prediction"),
        ({"predictions": {"a": np.ones((2, 3, 4), np.int64)}}, DataError, "a has shape"),
        ({"raw": np.ones((SIDE, SIDE))}, DataError, "raw must have shape"),
        ({"slice_index": DEPTH}, ConfigError, "from 0 to 4, found 5"),
        ({"slice_index": -1}, ConfigError, "found -1"),
        ({"captions": {"b": "?"}}, ConfigError, "captions"),
        ({"voxel_size_nm": 0.0}, ConfigError, "positive"),
        ({"path": "figure.jpg"}, ConfigError, "PNG"),
    ],
)
def test_impossible_figures_are_refused(
    change: dict, error: type, match: str, raw: np.ndarray, truth: np.ndarray, tmp_path: Path
):
    path = tmp_path / "figure.png"
    arguments = {"raw": raw, "truth": truth, "predictions": {"a": truth}, "path": path}
    with pytest.raises(error, match=match):
        segmentation_figure(**(arguments | change))
    assert not path.exists()


def test_the_ellipse_is_centred_on_the_bits_of_its_box():
    bits = np.zeros((40, 40), dtype=np.float32)
    bits[10:13, 20:30] = 2
    bits[30, 5] = 100  # outside the box
    (row, column), (rows, columns) = region_ellipse(bits, Region((4, 16), (20, 32), 60.0))
    assert (row, column) == pytest.approx((11, 24.5))
    assert rows == 4  # a quarter of the box's 16
    assert columns == pytest.approx(2.5 * np.sqrt((10**2 - 1) / 12))


def affinities_with_one_dark_channel() -> np.ndarray:
    affinities = np.full((3, DEPTH, SIDE, SIDE), 1.0, dtype=np.float32)
    affinities[1] = 0.0
    return affinities


def test_the_affinity_figure_shows_z_y_x(raw: np.ndarray, tmp_path: Path):
    path = tmp_path / "affinities.png"
    affinity_figure(raw, affinities_with_one_dark_channel(), path)
    image = pixels(path)
    side = (6.9 * 300 - 30 - 45 - 126) / 4
    assert image.shape == (int(side + 30 + 37.5), 2070, 3)
    middles = [image[-200, round(15 + i * (side + 15) + side / 2)] for i in range(4)]
    np.testing.assert_array_equal(middles[1], middles[3])
    assert middles[1].sum() > 400 > 150 > middles[2].sum()
    column = image[:, round(4 * (side + 15) + 15 + 12)]  # through the colour bar
    assert len(np.unique(column, axis=0)) > 100


@pytest.mark.parametrize(
    ("affinities", "match"),
    [
        (np.zeros((2, DEPTH, SIDE, SIDE)), r"\(3, D, H, W\)"),
        (np.zeros((3, DEPTH, SIDE, SIDE + 1)), "affinities has shape"),
        (np.full((3, DEPTH, SIDE, SIDE), 4.0), "found 4 to 4 in slice 2; apply the sigmoid"),
        (np.full((3, DEPTH, SIDE, SIDE), np.nan), "found nan"),
    ],
)
def test_wrong_affinities_are_refused(
    affinities: np.ndarray, match: str, raw: np.ndarray, tmp_path: Path
):
    with pytest.raises(DataError, match=match):
        affinity_figure(raw, affinities, tmp_path / "affinities.png")
