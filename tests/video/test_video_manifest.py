import h5py
import pytest

from psc.errors import ConfigError, DataError
from psc.video.manifest import (
    MANIFEST,
    Manifest,
    PreparationSettings,
    PreparedVideo,
    UnreadableVideo,
    check_settings,
    read_manifest,
)


@pytest.mark.parametrize(
    ("settings", "source", "expected"),
    [
        ({}, (240, 320), (80, 107)),  # the paper's clips
        ({"short_side": 112}, (240, 320), (112, 149)),
        ({}, (320, 240), (107, 80)),  # upright
        ({}, (80, 80), (80, 80)),
        ({}, (40, 50), (80, 100)),  # enlarged
        ({"size": (64, 64)}, (240, 320), (64, 64)),
    ],
)
def test_frame_sizes(settings, source, expected):
    assert PreparationSettings(**settings).frame_size(*source) == expected


@pytest.mark.parametrize("settings", [{"short_side": 0}, {"size": (64, 0)}])
def test_impossible_sizes(settings):
    with pytest.raises(ConfigError, match="positive pixels"):
        PreparationSettings(**settings)


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        ({}, {}, ""),
        ({"short_side": 80}, {"short_side": 112}, "short_side is 80, not 112"),
        ({"size": (64, 64)}, {"size": (64, 80)}, "size is (64, 64), not (64, 80)"),
        # an exact size makes the short side meaningless
        ({"size": (64, 64), "short_side": 1}, {"size": (64, 64), "short_side": 2}, ""),
        (
            {"version": 1, "kernel": "a"},
            {"version": 2, "kernel": "b"},
            "kernel is a, not b, version",
        ),
    ],
)
def test_differences_are_named(tmp_path, one, other, difference):
    one, other = PreparationSettings(**one), PreparationSettings(**other)
    assert one.differences(other).startswith(difference)
    if difference:
        with pytest.raises(DataError, match="prepared with other settings") as caught:
            check_settings(tmp_path / "A.h5", one, other)
        assert difference in str(caught.value)
    else:
        assert one.differences(other) == ""
        check_settings(tmp_path / "A.h5", one, other)


@pytest.mark.parametrize("size", [None, (48, 64)])
def test_a_manifest_survives_json(size):
    manifest = Manifest(
        PreparationSettings(size=size),
        True,
        (PreparedVideo("v_A_g01_c01", "A", 1, 1, 5, 48, 64, 25.0, "A/v_A_g01_c01.avi", "ab"),),
        (UnreadableVideo("v_A_g01_c02", "A/v_A_g01_c02.avi", "cd", "it is “empty”"),),
    )
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_a_file_that_is_no_shard(tmp_path):
    path = tmp_path / "A.h5"
    contents = [b"", b"text", None, "no json", '{"settings": {}}']
    for content in contents:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            with h5py.File(path, "w") as file:
                if content is not None:
                    file[MANIFEST] = content
        with pytest.raises(DataError, match=r"A\.h5 is no shard .*prepare_ucf101\.py again"):
            read_manifest(path)
