"""What tests of video compare with: PyAV's sequential decode, and frames that carry numbers."""

import av
import numpy as np
from PIL import Image

from psc.video.data import parse_name, video_key
from psc.video.store import Index, PreparationSettings, PreparedVideo, PreparedVideos, shard_path


def pyav_frames(path):
    """uint8 (T, H, W, 3)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def frame_types(path):
    """I, P or B for every frame."""
    with av.open(str(path)) as container:
        kinds = {1: "I", 2: "P", 3: "B"}
        return "".join(kinds[int(frame.pict_type)] for frame in container.decode(video=0))


def pillow_resized(frames, height, width):
    """Pillow's bilinear filter, which is antialiased."""
    resized = [
        Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        for frame in frames
    ]
    return np.stack([np.asarray(image) for image in resized])


def channels_first(frames):
    """(T, H, W, 3) → (3, T, H, W)."""
    return frames.transpose(3, 0, 1, 2)


def assert_same_frames(decoded, expected, at_most=2):
    """Equal frame by frame, up to rounding that differs between two versions of FFmpeg.

    At most two grey levels, in so few pixels that no other frame of a moving video could pass.
    """
    assert decoded.shape == expected.shape
    for index in range(decoded.shape[1]):
        difference = np.abs(decoded[:, index].astype(int) - expected[:, index])
        assert difference.max() <= at_most, f"frame {index}"
        assert difference.mean() < 0.01, f"frame {index}"


def rolling_picture(count, height=48, width=64, seed=0):
    """uint8 (T, H, W, 3): a picture that moves on from frame to frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    picture = np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)[:height, :width]
    return np.stack([np.roll(picture, (3 * t, 5 * t), (0, 1)) for t in range(count)])


def numbered_frames(count, height, width):
    """uint8 (3, T, H, W) that say where they are from: frame number, row, column."""
    t, y, x = np.ogrid[:count, :height, :width]
    frames = np.zeros((3, count, height, width), np.uint8)
    frames[0], frames[1], frames[2] = t, y, x
    return frames


def write_numbered_store(folder, lengths, *, height=12, width=16):
    """A store of numbered frames; lengths: frames by video name. Returns it open."""
    folder.mkdir(exist_ok=True)
    index = Index(PreparationSettings(size=(height, width)), synthetic=False)
    for name, count in lengths.items():
        said = parse_name(name)
        with shard_path(folder, said.action).open("ab") as shard:
            index.videos[video_key(name)] = PreparedVideo(
                said.action, count, height, width, 25.0, 0, f"{name}.avi", "0", shard.tell(),
            )  # fmt: skip
            shard.write(numbered_frames(count, height, width).tobytes())
    index.write(folder)
    return PreparedVideos(folder)
