"""Sections and close-ups: the voxels that they show, what is coloured, and where the ring is."""

import numpy as np
import pytest

from psc.em.bodies import body_errors
from psc.viewing.report import overview, worst_places
from psc.viewing.scene import Layer, Scene


def scene_of(truth, segmentation, tmp_path, voxel_size=(8.0, 8.0, 8.0), **others):
    raw = np.arange(truth.size, dtype=np.float64).reshape(truth.shape)
    affinities = np.zeros((3, *truth.shape), np.float16)
    affinities[0] = 1
    layers = {
        "raw": Layer("raw", "grey", raw),
        "affinities": Layer("affinities", "affinities", affinities),
        "segmentation": Layer("segmentation", "labels", segmentation),
        "ground truth": Layer("ground truth", "labels", truth),
    } | others
    errors = tuple(body_errors(truth, segmentation, offset=(100, 0, 0)))
    return Scene("a run", tmp_path, layers, voxel_size, (100, 0, 0), errors)


def grey(image):
    return (image[..., 0] == image[..., 1]) & (image[..., 1] == image[..., 2])


@pytest.fixture
def split(tmp_path):
    """Body 7 in x < 20 is cut at z = 5 into segments 1 and 2; body 9 beside it is one segment."""
    truth = np.full((10, 16, 30), 9, np.uint64)
    truth[:, :, :20] = 7
    segmentation = np.full(truth.shape, 3, np.uint64)
    segmentation[:, :, :20] = 1
    segmentation[5:, :, :20] = 2
    return scene_of(truth, segmentation, tmp_path)


def test_a_close_up_of_a_split_shows_the_body_and_its_pieces_only(split):
    (row,) = worst_places(split, 3)
    (error,) = split.errors
    assert row.heading == f"Split: {error.bits:.4f} bits"
    assert "Body 7 is cut into 2 segments" in row.text
    assert "z, y, x = " + ", ".join(map(str, error.location)) in row.text
    assert "xy" not in row.text  # across z only one piece is seen: another plane is chosen
    titles = [picture.title for picture in row.pictures]
    assert titles == ["raw", "affinities", "ground truth", "segmentation"]
    truth, segmentation = (picture.image for picture in row.pictures[2:])
    assert truth.shape == (10, 30, 3)  # (z, x)
    assert not grey(truth[:, :20]).any()
    assert grey(truth[:, 20:]).all()
    assert grey(segmentation[:, 20:]).all()
    hue = segmentation.astype(int)[..., 0] - segmentation[..., 2]
    assert np.ptp(hue[:5, :20]) <= 3  # one colour above the cut, another below
    assert np.ptp(hue[5:, :20]) <= 3
    assert abs(hue[2, 3] - hue[7, 3]) > 10
    z, x = row.pictures[0].mark
    assert (z, x) == (error.location[0] - 100 + 0.5, error.location[2] + 0.5)


def test_a_close_up_of_a_merge_shows_the_segment_and_its_bodies(split, tmp_path):
    turned = scene_of(
        split.layers["segmentation"].voxels, split.layers["ground truth"].voxels, tmp_path
    )
    (row,) = worst_places(turned, 1)
    assert "Segment 7 joins 2 bodies" in row.text
    truth, segmentation = (picture.image for picture in row.pictures[2:])
    assert grey(segmentation[:, 20:]).all()
    assert not grey(segmentation[:, :20]).any()
    hue = truth.astype(int)[..., 0] - truth[..., 2]
    assert abs(hue[2, 3] - hue[7, 3]) > 10


def test_the_overview_cuts_every_layer_at_one_voxel(split):
    rows = overview(split)
    z, y, x = split.start
    assert [row.heading for row in rows] == [
        f"xy section at z = {z + 100}",
        f"xz section at y = {y}",
        f"yz section at x = {x}",
    ]
    for row, shape in zip(rows, [(16, 30), (10, 30), (10, 16)], strict=True):
        assert len(row.pictures) == len(split.layers)
        assert {picture.image.shape for picture in row.pictures} == {(*shape, 3)}
    raw, affinities = rows[0].pictures[:2]
    section = split.layers["raw"].voxels[z]
    assert np.array_equal(np.argsort(section.mean(1)), np.argsort(raw.image[..., 0].mean(1)))
    assert (affinities.image == (255, 0, 0)).all()  # z is red


def test_close_ups_are_cubes_of_space(tmp_path):
    truth = np.ones((60, 300, 300), np.uint64)
    segmentation = np.ones_like(truth)
    segmentation[:, :, 298:] = 2  # at the border: the window stays inside
    scene = scene_of(truth, segmentation, tmp_path, voxel_size=(32.0, 8.0, 8.0))
    (row,) = worst_places(scene, 1)
    picture = row.pictures[0]
    extent = [n * size for n, size in zip(picture.image.shape, picture.pixel_size, strict=False)]
    assert extent == [128 * 8.0] * 2
    assert 0 <= picture.mark[1] < picture.image.shape[1]


def test_large_sections_are_thinned_out(tmp_path):
    truth = np.ones((2, 5, 1300), np.uint64)
    scene = Scene("", tmp_path, {"ground truth": Layer("ground truth", "labels", truth)}, None)
    picture = overview(scene)[0].pictures[0]
    assert picture.image.shape == (2, 434, 3)
    assert picture.pixel_size == (3.0, 3.0)
