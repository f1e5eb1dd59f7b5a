"""Every frame of a video, in order, against PyAV; and files that are not what they should be."""

import numpy as np
import pytest
import torch
from video_oracle import (
    assert_same_frames,
    channels_first,
    frame_types,
    pillow_resized,
    pyav_frames,
)

from psc.errors import ConfigError, DataError
from psc.video.decoding import decode_video, read_avi_header, resize_frames
from psc.video.synthetic import write_avi

# B-frames; B-frames and two key frames; 29.97 frames per second.
REAL = ["Hammering_g12_c03", "BoxingSpeedBag_g09_c01", "Biking_g02_c03"]


def small(height, width):
    return height // 3, width // 3


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """An encoded film with B-frames and several key frames, every frame another."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (30, 40, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = np.stack([np.roll(picture, (3 * t, 5 * t), (0, 1)) for t in range(110)])
    path = tmp_path_factory.mktemp("film") / "v_Rolling_g01_c01.avi"
    write_avi(path, frames)
    return path


def test_frames_are_pyavs_in_order(film):
    assert {"I", "P", "B"} == set(frame_types(film))
    assert frame_types(film).count("I") > 2
    video = decode_video(film)
    expected = channels_first(pyav_frames(film))
    assert video.frames.dtype == np.uint8
    assert video.frames.flags.c_contiguous
    assert video.fps == 25
    assert_same_frames(video.frames, expected)
    with pytest.raises(AssertionError):  # the comparison would notice a shift by one frame
        assert_same_frames(video.frames[:, 1:], expected[:, :-1])


@pytest.mark.sample
@pytest.mark.parametrize("name", REAL)
def test_frames_of_real_clips_are_pyavs(sample_data, name):
    path = sample_data / "ucf101" / "UCF-101" / name.split("_")[0] / f"v_{name}.avi"
    video, expected = decode_video(path), pyav_frames(path)
    assert_same_frames(video.frames, channels_first(expected))
    assert abs(video.fps - (29.97 if name == REAL[2] else 25)) < 0.01
    resized = decode_video(path, small).frames[:, :60]
    # Two implementations round to neighbouring grey levels here and there.
    difference = np.abs(
        resized - channels_first(pillow_resized(expected[:60], 80, 106)).astype(int)
    )
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_resizing_comes_after_decoding(film):
    resized = decode_video(film, small).frames
    expected = pillow_resized(pyav_frames(film), *small(120, 160))
    assert resized.shape == (3, 110, 40, 53)
    difference = np.abs(resized - channels_first(expected).astype(int))
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_resizing_is_a_rounded_triangle_filter():
    frames = torch.randint(0, 256, (2, 3, 12, 18), dtype=torch.uint8)

    def weights(source, target):
        scale = source / target
        centres = (np.arange(target) + 0.5) * scale
        positions = np.arange(source) + 0.5
        filters = np.clip(1 - np.abs(positions - centres[:, None]) / scale, 0, None)
        return filters / filters.sum(1, keepdims=True)

    rows, columns = weights(12, 5), weights(18, 6)
    expected = np.einsum("yh,tchw,xw->tcyx", rows, frames.numpy().astype(float), columns)
    resized = resize_frames(frames, (5, 6))
    assert resized.dtype == torch.uint8
    assert np.abs(resized.numpy() - expected).max() < 1.01
    assert resize_frames(frames, (12, 18)) is frames


@pytest.mark.parametrize("size", [(0, 5), (5, -1)])
def test_frames_have_at_least_a_pixel(size):
    with pytest.raises(ConfigError, match="positive"):
        resize_frames(torch.zeros((1, 3, 8, 8), dtype=torch.uint8), size)


def test_header(film):
    header = read_avi_header(film)
    assert (header.frames, header.height, header.width) == (110, 120, 160)


@pytest.mark.parametrize(("excess", "accepted"), [(-5, True), (2, True), (3, False)])
def test_a_header_may_be_wrong_by_two_frames(film, tmp_path, excess, accepted):
    content = bytearray(film.read_bytes())
    content[48:52] = (110 + excess).to_bytes(4, "little")
    path = tmp_path / "film.avi"
    path.write_bytes(content)
    if accepted:
        assert decode_video(path).frames.shape[1] == 110
    else:
        with pytest.raises(DataError, match="announces 113 frames, 110 could be decoded"):
            decode_video(path)


def test_a_video_of_five_frames(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)
    write_avi(tmp_path / "short.avi", frames)
    assert decode_video(tmp_path / "short.avi").frames.shape == (3, 5, 48, 64)


def damaged(content, name):
    half = len(content) // 2
    return {
        "zero bytes": b"",
        "text": b"not a video\n" * 50,
        "header only": content[:60],
        "a few kilobytes": content[:3000],
        "truncated": content[:half],
        "zeros within": content[:half] + bytes(40_000) + content[half + 40_000 :],
        "random": content[:4000] + np.random.default_rng(0).bytes(len(content) - 4000),
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zero bytes", "is empty"),
        ("text", r"not an AVI file, whatever its name: it begins with b'not a video"),
        ("header only", "no AVI header"),
        ("a few kilobytes", "damaged|truncated"),
        ("truncated", r"truncated or damaged: its header announces 110 frames, \d+ could"),
        ("zeros within", "damaged"),
        ("random", "damaged|truncated"),
    ],
)
def test_damaged_files_say_so(film, tmp_path, name, message):
    path = tmp_path / "damaged.avi"
    path.write_bytes(damaged(film.read_bytes(), name))
    with pytest.raises(DataError, match=message) as caught:
        decode_video(path)
    assert "damaged.avi" in str(caught.value)
    assert "again" in str(caught.value)


def test_no_gap_is_filled_with_copies(tmp_path):
    """However a file is damaged: an error, or as many frames as PyAV finds."""
    path = tmp_path / "film.avi"
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    write_avi(path, np.stack([np.roll(picture, (3 * t, 5 * t), (0, 1)) for t in range(40)]))
    content = path.read_bytes()
    refused = 0
    for seed in range(85, 105):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        for _ in range(int(rng.choice([1, 3, 10, 30]))):
            damaged[rng.integers(6000, len(content) - 1500)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            frames = decode_video(path).frames
        except DataError:
            refused += 1
        else:
            assert frames.shape[1] == len(pyav_frames(path)), seed
    assert 0 < refused < 20


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"gone\.avi cannot be read \(No such file"):
        decode_video(tmp_path / "gone.avi")
