import os
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import h5py
import numpy as np
import pytest
from colour_vision import VISION, as_seen
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from psc.em.pictures import (
    PALETTE,
    Box,
    affinity_figure,
    assign_colours,
    disagreement,
    match_labels,
    overlay,
    region_ellipse,
    segmentation_figure,
    worst_regions,
    worst_slice,
)
from psc.errors import ConfigError, DataError
from psc.metrics import variation_of_information

SIDE = 60  # pixels of a slice
DEPTH = 5
pytestmark = pytest.mark.usefixtures("full_resolution")


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
    raw: np.ndarray, truth: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    predictions = {"right": truth, "wrong": with_an_error(truth)}
    segmentation_figure(raw, truth, predictions, tmp_path / "with.png")
    monkeypatch.setattr("psc.em.pictures._REGIONS", 0)
    segmentation_figure(raw, truth, predictions, tmp_path / "without.png")
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


def test_a_scale_bar_only_where_the_voxel_size_is_known(
    raw: np.ndarray, truth: np.ndarray, tmp_path: Path
):
    segmentation_figure(raw, truth, {"a": truth}, tmp_path / "none.png")
    segmentation_figure(raw, truth, {"a": truth}, tmp_path / "bar.png", voxel_size_nm=(8, 8, 8))
    changed = (pixels(tmp_path / "bar.png") != pixels(tmp_path / "none.png")).any(axis=2)
    rows, columns = np.nonzero(panel(changed, 0, 3))
    side = panel(changed, 0, 3).shape[0]
    assert rows.min() > 0.7 * side  # lower left; 100 nm are 12.5 of the 60 pixels
    assert 0.03 * side < columns.min() < 0.05 * side
    np.testing.assert_allclose(np.ptp(columns) / side, 12.5 / SIDE, atol=0.05)
    assert not panel(changed, 1, 3).any()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"predictions": {}}, ConfigError, "at least one prediction"),
        ({"predictions": {"a": np.ones((2, 3, 4), np.int64)}}, DataError, "a has shape"),
        ({"raw": np.ones((SIDE, SIDE))}, DataError, "raw must have shape"),
        ({"path": Path("figure.jpg")}, ConfigError, "PNG"),
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
    (row, column), (rows, columns) = region_ellipse(bits, (slice(4, 20), slice(16, 32)))
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


@pytest.mark.parametrize("vision", VISION)
def test_any_two_colours_of_the_palette_are_told_apart(vision: str):
    lab = rgb2lab(as_seen(np.array(PALETTE), vision)[None])[0]
    nearest = min(deltaE_ciede2000(one, other) for one, other in combinations(lab, 2))
    assert nearest > 14  # 1 is just noticeable side by side, 10 at a glance


def rows(text: str) -> np.ndarray:
    return np.array([[int(c) for c in line] for line in text.split()], dtype=np.int32)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        pytest.param("1122 1122", "7733 7733", "1122 1122", id="permuted"),
        pytest.param("1111 2222", "5556 8888", "1113 2222", id="split keeps the larger piece's id"),
        pytest.param("1112 1112", "4444 4444", "1111 1111", id="merge takes the larger cell's id"),
        pytest.param("1122 1122", "0733 0733", "0122 0122", id="unassigned stays 0"),
        pytest.param("1100 1100", "5577 5577", "1122 1122", id="nothing known there: a free id"),
        # 6 lies in cell 1 and by one voxel in cell 2, which nobody claims: still not cell 2.
        pytest.param("1111111 1111122", "5555666 5555566", "1111333 1111133", id="sliver"),
    ],
)
def test_predicted_segments_are_named_after_the_true_ones(
    truth: str, predicted: str, expected: str
):
    matched = match_labels(rows(truth), rows(predicted))
    assert matched.dtype == np.uint64
    np.testing.assert_array_equal(matched, rows(expected))


labels = arrays(np.uint64, (3, 4, 5), elements=st.sampled_from([0, 1, 2, 3, 2**63 + 5, 2**64 - 1]))


@settings(max_examples=60, deadline=None)
@given(truth=labels, predicted=labels)
def test_matching_changes_names_only(truth: np.ndarray, predicted: np.ndarray):
    matched = match_labels(truth, predicted)
    renamed = {(int(p), int(m)) for p, m in zip(predicted.flat, matched.flat, strict=True)}
    assert len(renamed) == len({p for p, _ in renamed}) == len({m for _, m in renamed})
    assert all((p == 0) == (m == 0) for p, m in renamed)


def test_matching_needs_the_same_shape():
    with pytest.raises(DataError, match="shape"):
        match_labels(np.ones((2, 2), np.int32), np.ones((2, 3), np.int32))


def random_cells(seed: int) -> np.ndarray:
    """Cells around random points, (60, 60), ids 1 to 40."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 60, (40, 2))
    grid = np.stack(np.meshgrid(*[np.arange(60)] * 2, indexing="ij"), -1)
    return 1 + np.linalg.norm(grid[:, :, None] - points, axis=-1).argmin(-1)


@pytest.mark.parametrize("seed", range(5))
def test_cells_that_touch_in_any_panel_differ_in_colour(seed: int):
    panels = [random_cells(seed), random_cells(seed + 100)]
    colours = assign_colours(panels)
    assert set(colours) == set(np.unique(panels).tolist())
    for panel in panels:
        for one, other in ((panel[1:], panel[:-1]), (panel[:, 1:], panel[:, :-1])):
            for pair in np.stack([one, other], -1)[one != other]:
                assert colours[int(pair[0])] != colours[int(pair[1])]


def test_cells_apart_by_a_thin_membrane_differ_in_colour():
    strip = np.zeros((4, 60), dtype=np.int64)
    for i in range(20):
        strip[:, 3 * i : 3 * i + 2] = i + 1
    colours = assign_colours([strip])
    assert all(colours[i] != colours[i + 1] for i in range(1, 20))


def test_a_lone_cell_has_the_same_colour_in_every_figure():
    alone = np.full((5, 5), 17)
    with_others = np.kron([[17, 0], [0, 4]], np.ones((9, 9), dtype=np.int64))
    assert assign_colours([alone])[17] == assign_colours([with_others])[17]


def test_more_neighbours_than_colours_share_the_least_used():
    pairs = np.array(list(combinations(range(1, 2 * len(PALETTE) + 1), 2)))
    colours = assign_colours([pairs.T])  # every label stands above or below every other
    assert Counter(colours.values()) == dict.fromkeys(PALETTE, 2)


def test_labels_are_painted_over_the_grey_image_and_0_is_not():
    grey = np.full((2, 2), 0.5, np.float32)
    image = overlay(grey, np.array([[0, 5], [9, 5]]), {5: (1.0, 0.5, 0.0), 9: (0.0, 0.0, 1.0)})
    five = [0.75, 0.5, 0.25]
    expected = [[[0.5] * 3, five], [[0.25, 0.25, 0.75], five]]
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, np.array(expected, np.float32))


def test_wrong_label_images_are_refused():
    with pytest.raises(DataError, match=r"shape \(H, W\)"):
        assign_colours([np.ones((2, 2, 2), dtype=np.int64)])
    with pytest.raises(DataError, match="float64"):
        overlay(np.ones((2, 2), np.float32), np.ones((2, 2)), {1: (0.0, 0.0, 0.0)})


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((300,), np.uint8), ((17, 23), np.int64), ((9, 10, 11), np.uint64)],
)
def test_the_maps_average_to_variation_of_information(shape: tuple[int, ...], dtype: type):
    rng = np.random.default_rng(len(shape))
    truth = rng.integers(0, 6, shape).astype(dtype)
    predicted = np.where(rng.random(shape) < 0.3, rng.integers(0, 9, shape), truth).astype(dtype)
    if dtype is np.uint64:
        truth[truth == 5] = 2**64 - 1
    found = disagreement(truth, predicted)
    vi = variation_of_information(truth, predicted)
    np.testing.assert_array_equal(found.known, truth != 0)
    assert found.split[found.known].mean(dtype=np.float64) == pytest.approx(vi.split, rel=1e-6)
    assert found.merge[found.known].mean(dtype=np.float64) == pytest.approx(vi.merge, rel=1e-6)
    assert found.vi == pytest.approx((vi.split, vi.merge), rel=1e-6)
    assert not found.total[truth == 0].any()
    assert found.split.dtype == found.merge.dtype == np.float32
    assert found.split.shape == found.merge.shape == shape


def test_a_split_and_a_merge_by_hand():
    truth = np.array([1, 1, 1, 1, 2, 2, 3, 3, 0])
    predicted = np.array([7, 7, 7, 5, 2, 2, 2, 2, 2])
    found = disagreement(truth, predicted)
    # 1 was cut 3:1, so its parts cost log2(4/3) and log2(4) bits; 2 and 3 became one, 1 bit each.
    cheap = np.log2(4 / 3)
    np.testing.assert_allclose(found.split, [cheap, cheap, cheap, 2, 0, 0, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(found.merge, [0, 0, 0, 0, 1, 1, 1, 1, 0], rtol=1e-6)


def test_a_perfect_prediction_has_none():
    truth = np.random.default_rng(0).integers(0, 5, (6, 7, 8))
    found = disagreement(truth, np.where(truth > 0, 10 - truth, 0))
    assert not found.total.any()
    assert worst_regions(found.total, (2, 2, 2), 3) == []


def test_wrong_labels_are_refused():
    with pytest.raises(DataError, match="shape"):
        disagreement(np.ones((2, 2), np.int32), np.ones((3, 2), np.int32))
    with pytest.raises(DataError, match="nothing to compare"):
        disagreement(np.zeros((2, 2), np.int32), np.ones((2, 2), np.int32))


def slow_worst_regions(bits: np.ndarray, size: tuple[int, ...], count: int) -> list[Box]:
    boxes = [
        tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
        for start in product(*(range(n - s + 1) for n, s in zip(bits.shape, size, strict=True)))
    ]
    chosen: list[Box] = []
    while boxes and len(chosen) < count:
        best = max(boxes, key=lambda box: bits[box].sum())
        chosen.append(best)
        boxes = [
            box
            for box in boxes
            if any(a.stop <= b.start or b.stop <= a.start for a, b in zip(box, best, strict=True))
        ]
    return chosen


@pytest.mark.parametrize(
    ("shape", "size"),
    [((40,), (6,)), ((12, 15), (4, 5)), ((7, 8, 6), (3, 2, 4)), ((5, 6), (5, 2)), ((3, 3), (1, 1))],
)
def test_worst_regions_equal_an_exhaustive_search(shape: tuple[int, ...], size: tuple[int, ...]):
    bits = np.random.default_rng(7).exponential(size=shape).astype(np.float32)
    expected = slow_worst_regions(bits.astype(np.float64), size, 4)
    assert worst_regions(bits, size, 4) == expected


def test_worst_regions_find_the_planted_errors_and_nothing_else():
    bits = np.zeros((50, 50), dtype=np.float32)
    bits[10:13, 40:44] = 3
    bits[30:36, 5:7] = 5
    found = worst_regions(bits, (8, 8), 5)
    assert [bits[box].sum() for box in found] == [60, 36]


def test_a_box_larger_than_the_array_is_cut_to_it():
    assert worst_regions(np.ones((4, 3)), (9, 2), 1) == [(slice(0, 4), slice(0, 2))]


def test_worst_slice_is_the_one_with_the_largest_sum():
    bits = np.zeros((4, 3, 3), dtype=np.float32)
    bits[1, 0, 0] = 5
    bits[2] = 1
    assert worst_slice(bits) == 2


@pytest.mark.sample
def test_maps_of_a_published_segmentation_average_to_its_known_vi():
    folder = os.environ.get("PSC_SAMPLE_DATA")
    if not folder:
        pytest.skip("PSC_SAMPLE_DATA is not set")
    em = Path(folder) / "em"
    with h5py.File(em / "fib25/training_sample2_z000-207.h5") as file:
        truth = file["volumes/labels/neuron_ids"][166:208]
    predicted = np.load(em / "ffn_result/sample-training2.npz")["segmentation"][166:208]
    found = disagreement(truth, predicted)
    # Measured with scikit-image's variation_of_information, 0 as one predicted segment.
    assert found.vi == pytest.approx((0.62147, 0.53153), abs=1e-5)
