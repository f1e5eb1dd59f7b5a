"""Every frame of a film, in order, against PyAV; odd films that players play; damaged ones."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from video_oracle import (
    assert_same_frames,
    channels_first,
    frame_types,
    pillow_resized,
    pyav_frames,
    rolling_picture,
)

from psc.errors import ConfigError, DataError
from psc.video.decoding import decode_video, read_header, resize_frames
from psc.video.synthetic import write_avi

# B-frames; B-frames and two key frames; 29.97 frames per second.
REAL = ["Hammering_g12_c03", "BoxingSpeedBag_g09_c01", "Biking_g02_c03"]
FRAMES = 40


def small(height, width):
    return height // 3, width // 3


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """An encoded film with B-frames and several key frames, every frame another."""
    path = tmp_path_factory.mktemp("film") / "v_Rolling_g01_c01.avi"
    write_avi(path, rolling_picture(110, 120, 160))
    return path


@pytest.fixture
def write(tmp_path):
    """Function: encode the frames of these numbers; the others become empty chunks."""

    def encode(numbers=range(FRAMES), *, codec="mpeg4", b_frames=0, height=48, width=64, rate=25):
        path = tmp_path / "film.avi"
        frames = rolling_picture(FRAMES, height, width)
        if height % 2:  # versions of FFmpeg differ in how they enlarge an odd number of colour rows
            frames[:] = frames[..., :1]
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height = width, height
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            context = stream.codec_context
            context.time_base, context.gop_size = Fraction(1, rate), 12
            context.max_b_frames, context.qmin, context.qmax = b_frames, 2, 2
            for t in numbers:
                frame = av.VideoFrame.from_ndarray(frames[t], format="rgb24")
                frame.pts, frame.time_base = t, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return encode


def chunks(content):
    """Offset and size of the content of every video chunk of an AVI file."""
    position, found = content.index(b"movi") + 4, []
    while (kind := content[position + 2 : position + 4]) in (b"dc", b"wb"):
        size = int.from_bytes(content[position + 4 : position + 8], "little")
        if kind == b"dc":
            found.append((position + 8, size))
        position += 8 + size + size % 2
    return found


def not_coded(content, number, increment_bits=5):
    """The file with the chunk of a P-frame replaced by "not coded" (vop_coded = 0, ISO 14496-2)."""
    start, size = chunks(content)[number]
    bits = "".join(f"{byte:08b}" for byte in content[start + 4 : start + 12])
    assert content[start : start + 4] == b"\0\0\1\xb6"
    assert bits[:2] == "01"
    coded = bits.index("0", 2) + 1 + 1 + increment_bits + 1  # seconds, marker, time, marker
    assert bits[coded] == "1"
    head = bits[:coded] + "0" + "1" * (-(coded + 1) % 8)
    vop = b"\0\0\1\xb6" + int(head, 2).to_bytes(len(head) // 8, "big")
    return content[:start] + vop.ljust(size, b"\x7f") + content[start + size :]


def test_frames_are_pyavs_in_order(film):
    assert {"I", "P", "B"} == set(frame_types(film))
    assert frame_types(film).count("I") > 2
    video = decode_video(film)
    expected = channels_first(pyav_frames(film))
    assert video.frames.dtype == np.uint8
    assert video.frames.flags.c_contiguous
    assert (video.fps, video.concealed) == (25, 0)
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


def test_resizing_comes_after_decoding(film):
    resized = decode_video(film, small).frames
    expected = pillow_resized(pyav_frames(film), *small(120, 160))
    assert resized.shape == (3, 110, 40, 53)
    # Two implementations round to neighbouring grey levels here and there.
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
    header = read_header(film)
    assert (header.frames, header.height, header.width) == (110, 120, 160)


@pytest.mark.parametrize(
    "options",
    [
        {"b_frames": 2},
        {"codec": "mjpeg"},
        {"codec": "msmpeg4v2"},
        {"numbers": [0]},
        {"numbers": range(5)},
        {"height": 33, "width": 35},
        {"height": 2, "width": 1000},
        {"height": 32, "width": 48},  # decord gives four colours
        {"rate": 7},
    ],
    ids=str,
)
def test_odd_films_are_whole(write, options):
    path = write(**options)
    video = decode_video(path)
    assert_same_frames(video.frames, channels_first(pyav_frames(path)))
    assert video.concealed == 0
    assert video.fps == options.get("rate", 25)


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content[: content.rindex(b"idx1")],  # the index is cut off
        lambda content: content.replace(b"idx1", b"JUNK"),
        lambda content: content[:48] + (0).to_bytes(4, "little") + content[52:],  # announced frames
        lambda content: content[:48] + (3).to_bytes(4, "little") + content[52:],
        lambda content: content[:48] + (9999).to_bytes(4, "little") + content[52:],
        lambda content: content[:4] + bytes(4) + content[8:],  # size of the file, not filled in
        lambda content: content + bytes(5000),
    ],
    ids=["no index", "other index", "count 0", "count 3", "count 9999", "size 0", "zeros behind"],
)
def test_an_intact_film_is_not_refused_for_what_its_header_or_index_says(write, edit, b_frames):
    path = write(b_frames=b_frames)
    path.write_bytes(edit(path.read_bytes()))
    video = decode_video(path)
    assert_same_frames(video.frames, channels_first(pyav_frames(path)))
    assert video.frames.shape[1] == FRAMES
    assert video.concealed == 0


@pytest.mark.parametrize(
    "numbers",
    [
        [0, *range(2, FRAMES)],
        [0, 1, 2, 5, 6, 10, 11, 12, 30, 31, FRAMES - 1],  # a variable frame rate
        range(0, FRAMES, 2),
    ],
    ids=["one", "variable", "every other"],
)
def test_a_frame_of_no_bytes_shows_the_one_before(write, numbers):
    path = write(numbers)
    content = path.read_bytes()
    sizes = [size for _, size in chunks(content)]
    assert [number for number, size in enumerate(sizes) if size] == list(numbers)
    pictures = channels_first(pyav_frames(path))
    assert pictures.shape[1] == len(numbers)
    video = decode_video(path)
    assert video.concealed == len(sizes) - len(numbers)
    shown = [max(i for i, n in enumerate(numbers) if n <= t) for t in range(len(sizes))]
    assert_same_frames(video.frames, pictures[:, shown])


@pytest.mark.parametrize("b_frames", [0, 2])
def test_frames_of_no_bytes_before_the_first_picture_and_behind_the_last(write, b_frames):
    path = write(b_frames=b_frames)
    content = path.read_bytes().replace(b"idx1", b"JUNK")
    content = content[:48] + (FRAMES + 7).to_bytes(4, "little") + content[52:]
    start, end = content.index(b"movi") + 4, content.rindex(b"JUNK")
    size = int.from_bytes(content[start - 8 : start - 4], "little") + 7 * 8
    parts = [content[: start - 8], size.to_bytes(4, "little"), b"movi", b"00dc\0\0\0\0" * 3]
    path.write_bytes(b"".join([*parts, content[start:end], b"00dc\0\0\0\0" * 4, content[end:]]))
    pictures, video = channels_first(pyav_frames(path)), decode_video(path)
    assert video.concealed == 7
    shown = np.clip(np.arange(FRAMES + 7) - 3, 0, FRAMES - 1)
    if b_frames:  # whose numbers are one too high; nothing tells
        shown = np.clip(np.arange(FRAMES + 7) - 4, 0, FRAMES - 1)
    assert_same_frames(video.frames, pictures[:, shown])


def test_frames_of_no_bytes_among_frames_that_are_decoded_out_of_order(write):
    path = write([n for n in range(FRAMES) if n % 7 != 5], b_frames=2)
    content = path.read_bytes()
    slots, pictures = len(chunks(content)), channels_first(pyav_frames(path))
    video = decode_video(path)
    assert video.frames.shape[1] == slots
    assert video.concealed == slots - pictures.shape[1] > 3
    again = (video.frames[:, 1:] == video.frames[:, :-1]).all(axis=(0, 2, 3))
    assert again.sum() == video.concealed
    distinct = video.frames[:, np.concatenate([[True], ~again])]
    assert_same_frames(distinct, pictures)  # all of them, in order


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("count", [1, 6])
def test_a_picture_that_is_not_coded_is_the_one_before(write, b_frames, count):
    """As in one clip of 120 of UCF101: a frame less is decoded than announced, by every peer."""
    path = write(b_frames=b_frames)
    content = path.read_bytes()
    kinds = [(content[start + 4] >> 6, number) for number, (start, _) in enumerate(chunks(content))]
    for _, number in [kind for kind in kinds if kind[0] == 1][2 : 2 + count]:
        content = not_coded(content, number)
    path.write_bytes(content)
    pictures = channels_first(pyav_frames(path))
    assert (read_header(path).frames, pictures.shape[1]) == (FRAMES, FRAMES - count)
    video = decode_video(path)
    assert (video.frames.shape[1], video.concealed) == (FRAMES, count)
    again = (video.frames[:, 1:] == video.frames[:, :-1]).all(axis=(0, 2, 3))
    distinct = video.frames[:, np.concatenate([[True], ~again])]
    assert_same_frames(distinct, pictures)


def test_a_picture_that_cannot_be_decoded_is_concealed_and_counted(write):
    path = write()
    content = bytearray(path.read_bytes())
    start, size = chunks(content)[20]
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    video = decode_video(path)
    assert (video.frames.shape[1], video.concealed) == (FRAMES, 1)
    np.testing.assert_array_equal(video.frames[:, 20], video.frames[:, 19])


@pytest.mark.sample
@pytest.mark.parametrize("name", REAL)
def test_a_real_clip_of_which_a_chunk_is_lost_keeps_its_length(sample_data, tmp_path, name):
    """Two have sound and P and B in one chunk, so that what depends on it is lost, too."""
    path = sample_data / "ucf101" / "UCF-101" / name.split("_")[0] / f"v_{name}.avi"
    content = bytearray(path.read_bytes())
    start, size = max(chunks(content)[30:40], key=lambda chunk: chunk[1])
    content[start : start + size] = bytes(size)
    (tmp_path / "film.avi").write_bytes(content)
    video = decode_video(tmp_path / "film.avi", small)
    assert video.frames.shape[1] == read_header(path).frames
    assert 1 <= video.concealed <= 3


def test_a_whole_film_of_which_too_much_cannot_be_decoded_is_damaged(write):
    path = write()
    content = bytearray(path.read_bytes())
    for start, size in chunks(content)[10:20]:
        content[start : start + size] = bytes(size)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged: \d+ of its 40 frames cannot be decoded"):
        decode_video(path)


@pytest.mark.parametrize(("lost", "accepted"), [(1, True), (2, True), (3, False)])
def test_a_truncated_film_may_lack_two_frames(write, lost, accepted):
    path = write()
    content = path.read_bytes()
    path.write_bytes(content[: chunks(content)[FRAMES - lost][0] - 8])
    if accepted:
        assert decode_video(path).frames.shape[1] == FRAMES - lost
    else:
        with pytest.raises(DataError, match=r"truncated or damaged.* 40 frames, 37 could"):
            decode_video(path)


def damaged(content, name):
    half = len(content) // 2
    return {
        "zero bytes": b"",
        "text": b"not a video\n" * 50,
        "header only": content[:60],
        "a few kilobytes": content[:3000],
        "truncated": content[:half],
        "zeros within": content[:half] + bytes(40_000) + content[half + 40_000 :],
        "zeros to the end": content[:half] + bytes(len(content) - half),
        "random": content[:4000] + np.random.default_rng(0).bytes(len(content) - 4000),
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zero bytes", "is empty"),
        ("text", r"no frame can be decoded .*; it begins with b'not a video"),
        ("header only", "cut off within its header"),
        ("a few kilobytes", "damaged|truncated|no frame can be decoded"),
        ("truncated", r"truncated or damaged: its header announces 110 frames, \d+ could"),
        ("zeros within", "damaged"),
        ("zeros to the end", "damaged"),
        ("random", "damaged|truncated|no frame can be decoded"),
    ],
)
def test_damaged_files_say_so(film, tmp_path, name, message):
    path = tmp_path / "damaged.avi"
    path.write_bytes(damaged(film.read_bytes(), name))
    with pytest.raises(DataError, match=message) as caught:
        decode_video(path)
    assert "damaged.avi" in str(caught.value)
    assert "again" in str(caught.value)


def test_a_film_of_an_unknown_codec_is_not_to_be_downloaded_again(write):
    path = write()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"FMP4", b"Zzz9").replace(b"\0\0\1", b"\0\0\7"))
    with pytest.raises(DataError, match="no frame can be decoded") as caught:
        decode_video(path)
    assert "again" not in str(caught.value)


def test_however_a_film_is_damaged_its_frames_are_counted(write):
    """An error, or PyAV's frames and those that are concealed."""
    path = write(b_frames=2)
    content = path.read_bytes()
    told = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        damaged = bytearray(content)
        for _ in range(int(rng.choice([1, 3, 10, 30]))):
            damaged[rng.integers(6000, len(content) - 1500)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            video = decode_video(path)
        except DataError:
            told += 1
        else:
            told += video.concealed > 0
            assert video.frames.shape[1] in (FRAMES - 2, FRAMES - 1, FRAMES), seed
    assert 0 < told < 12


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"gone\.avi cannot be read \(No such file"):
        decode_video(tmp_path / "gone.avi")
