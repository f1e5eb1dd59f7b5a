"""That nothing but the order of the pictures depends on the class."""

import collections

import numpy as np
import pytest

from psc.errors import ConfigError
from psc.video.synthetic import CLASSES, HEIGHT, PICTURES, WIDTH, draw_scene


@pytest.fixture(scope="module")
def scene():
    return draw_scene(0, 3, 1)


def test_pictures(scene):
    assert scene.pictures.shape == (PICTURES, HEIGHT, WIDTH, 3)
    assert scene.pictures.dtype == np.uint8
    assert len({picture.tobytes() for picture in scene.pictures}) == PICTURES
    assert sorted(scene.sizes) == list(range(PICTURES))
    assert 64 <= scene.frames <= 96


@pytest.mark.parametrize("length", [PICTURES, 3 * PICTURES])
def test_any_frames_without_their_order_are_the_same_in_every_class(scene, length):
    """Windows of whole rounds, anywhere: the same pictures, equally often. So are single frames."""
    for action in CLASSES:
        order = scene.order(action)
        assert len(order) == scene.frames
        for start in range(scene.frames - length + 1):
            shown = collections.Counter(order[start : start + length].tolist())
            assert shown == dict.fromkeys(range(PICTURES), length // PICTURES)


def test_the_order_is_the_class(scene):
    orders = {tuple(scene.order(action)[:PICTURES].tolist()) for action in CLASSES}
    assert len(orders) == len(CLASSES)


def steps(values):
    """Steps of a cyclic quantity from frame to frame, from -8 to 7."""
    return (np.diff(values) + PICTURES // 2) % PICTURES - PICTURES // 2


@pytest.mark.parametrize(
    ("action", "step"),
    [("BeadsSinking", 1), ("BeadsRising", -1), ("DiscsGrowing", 1), ("DiscsShrinking", -1)],
)
def test_steady_motions(scene, action, step):
    order = scene.order(action)
    moving, other = order, scene.sizes[order]
    if action.startswith("Discs"):
        moving, other = other, moving
    assert (steps(moving) == step).all()
    assert len(set(steps(other).tolist())) > 4  # disorder


@pytest.mark.parametrize("action", ["BeadsBobbing", "DiscsPulsing"])
def test_motions_to_and_fro(scene, action):
    order = scene.order(action)
    moving = scene.sizes[order] if action.startswith("Discs") else order
    changes = np.diff(moving)
    assert np.abs(changes).max() == 2
    turns = np.flatnonzero(np.diff(np.sign(changes)))
    assert (np.diff(turns) == PICTURES // 2).all()


def test_beads_sink_from_picture_to_picture_and_close_the_loop(scene):
    """The picture moved by a step is the next one, where nothing but beads is in a column."""
    lanes = [slice(64 * lane + 14, 64 * lane + 50) for lane in range(5)]
    shift, errors = 5, []
    for lane in lanes:
        pictures = scene.pictures[:, :, lane].astype(int)
        moved = np.roll(pictures, shift, axis=1)[:, 20:-20]
        following = np.roll(pictures, -1, axis=0)[:, 20:-20]
        unmoved = pictures[:, 20:-20]
        errors.append(np.abs(moved - following).mean() < 0.5 * np.abs(unmoved - following).mean())
    beads = [lane for lane, moves in enumerate(errors) if moves]
    assert beads in ([0, 2, 4], [1, 3])


def test_discs_are_as_large_as_the_sizes_say(scene):
    """The picture changes the more in the lanes of discs, the more their size does."""
    lanes = [slice(64 * lane + 5, 64 * lane + 59) for lane in range(5)]
    by_size = scene.pictures[np.argsort(scene.sizes)].astype(int)
    growing = []
    for lane in lanes:
        difference = np.abs(by_size[:, :, lane] - by_size[:1, :, lane]).sum((1, 2, 3))
        growing.append(bool((np.diff(difference) > 0).all()))
    discs = [lane for lane, grows in enumerate(growing) if grows]
    assert discs in ([0, 2, 4], [1, 3])


def test_a_scene_is_a_function_of_seed_group_and_clip(scene):
    again = draw_scene(0, 3, 1)
    np.testing.assert_array_equal(scene.pictures, again.pictures)
    np.testing.assert_array_equal(scene.sizes, again.sizes)
    assert (scene.first, scene.frames) == (again.first, again.frames)
    for other in (draw_scene(1, 3, 1), draw_scene(0, 4, 1), draw_scene(0, 3, 2)):
        assert (other.pictures != scene.pictures).mean() > 0.05
        assert (other.sizes != scene.sizes).any()


def test_a_group_looks_alike_and_unlike_others():
    def colour(group, clip):
        return np.median(draw_scene(0, group, clip).pictures[0], axis=(0, 1))

    colours = {group: [colour(group, clip) for clip in (1, 2)] for group in range(1, 7)}
    within = max(np.abs(one - two).max() for one, two in colours.values())
    between = min(
        np.abs(colours[a][0] - colours[b][0]).max() for a in colours for b in colours if a < b
    )
    assert within < 26  # brightness differs by a tenth
    assert between > 4


def test_an_unknown_class(scene):
    with pytest.raises(ConfigError, match=r"BeadsBobbing.*found 'Juggling'"):
        scene.order("Juggling")
