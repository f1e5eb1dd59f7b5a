from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import deltaE_ciede2000, rgb2lab

from psc.em.pictures import PALETTE, assign_colours, colour_image, match_labels
from psc.errors import DataError

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def as_seen(colours: np.ndarray, vision: str) -> np.ndarray:
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(VISION[vision]), 0, 1)
    return np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)


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


def test_the_image_shows_each_label_in_its_colour_and_nothing_for_0():
    image = colour_image(np.array([[0, 5], [9, 5]]), {5: (1.0, 0.5, 0.0), 9: (0.0, 0.0, 1.0)})
    expected = [[[0, 0, 0, 0], [1, 0.5, 0, 1]], [[0, 0, 1, 1], [1, 0.5, 0, 1]]]
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, np.array(expected, np.float32))


def test_wrong_label_images_are_refused():
    with pytest.raises(DataError, match=r"no colour for the labels \[9\]"):
        colour_image(np.array([[0, 9]]), {})
    with pytest.raises(DataError, match=r"shape \(H, W\)"):
        assign_colours([np.ones((2, 2, 2), dtype=np.int64)])
    with pytest.raises(DataError, match="float64"):
        colour_image(np.ones((2, 2)), {1: (0.0, 0.0, 0.0)})
