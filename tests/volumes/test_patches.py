import numpy as np
import pytest

from psc.errors import ConfigError, DataError
from psc.volumes.labelled import Region
from psc.volumes.patches import PatchCutter, Slab, size_triple


class TestCutter:
    def cut(self, volume, start, slab=(0, None), context=True, **options):
        options = {"input_size": (8, 8, 8), "output_size": (4, 4, 4)} | options
        cutter = PatchCutter(**options)
        return cutter.cut(Slab(Region(volume, *slab, raw_context=context), None), start)

    def test_raw_is_the_window_around_the_box(self, make_volume):
        volume = make_volume()
        patch = self.cut(volume, (3, 5, 7), slab=(6, 16), input_size=(8, 10, 6))
        expected = volume.raw[6 + 1 : 6 + 9, 2:12, 6:12] / np.float32(255)
        np.testing.assert_allclose(patch["raw"][0], expected, rtol=1e-6)

    def test_context_comes_from_across_the_border_or_is_reflected_there(self, make_volume):
        volume = make_volume()
        across = self.cut(volume, (0, 5, 5), slab=(6, 16))
        np.testing.assert_allclose(
            across["raw"][0], volume.raw[4:12, 3:11, 3:11] / np.float32(255), rtol=1e-6
        )
        reflected = self.cut(volume, (0, 5, 5), slab=(6, 16), context=False)
        rows = [8, 7, *range(6, 12)]
        np.testing.assert_allclose(
            reflected["raw"][0], volume.raw[rows, 3:11, 3:11] / np.float32(255), rtol=1e-6
        )

    def test_beyond_the_volume_it_is_reflected(self, make_volume):
        volume = make_volume()
        patch = self.cut(volume, (0, 5, 5))
        rows = [2, 1, *range(6)]
        np.testing.assert_allclose(
            patch["raw"][0], volume.raw[rows, 3:11, 3:11] / np.float32(255), rtol=1e-6
        )

    @pytest.mark.parametrize("zero_label", ["ignore", "boundary"])
    def test_affinities_and_mask_voxel_by_voxel(self, make_volume, zero_label):
        volume = make_volume()
        volume.labels[::3, ::2, ::5] = 0
        # The box sticks out of the slab on both sides along z and on one side along x.
        shape, start = (8, 4, 6), (-2, 5, 13)
        patch = self.cut(
            volume,
            start,
            slab=(6, 10),
            input_size=(10, 6, 8),
            output_size=shape,
            zero_label=zero_label,
        )
        slab = volume.labels[6:10]

        def label(position):
            inside = all(0 <= p < n for p, n in zip(position, slab.shape, strict=True))
            return int(slab[tuple(position)]) if inside else None

        for channel, *position in np.ndindex(3, *shape):
            here = np.array(start) + position
            before = here - np.eye(3, dtype=int)[channel]
            pair = label(here), label(before)
            known = None not in pair and (zero_label == "boundary" or 0 not in pair)
            assert patch["mask"][channel, *position] == known
            if known:
                expected = pair[0] == pair[1] and 0 not in pair
                assert patch["affinities"][channel, *position] == expected

    def test_labels_are_those_behind_the_affinities(self, make_volume):
        volume = make_volume()
        patch = self.cut(volume, (-1, 5, 5), slab=(6, 16), zero_label="boundary")
        assert patch["labels"].shape == (4, 4, 4)
        assert (patch["labels"][0] == 0).all()
        truth = volume.labels[6:9, 5:9, 5:9]
        pairs = np.unique(np.stack([patch["labels"][1:].numpy(), truth]).reshape(2, -1), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]

    @pytest.mark.parametrize("thickness", [1, 2])
    def test_thickening_sees_beyond_the_box_but_not_beyond_the_slab(self, make_volume, thickness):
        volume = make_volume((20, 16, 16))
        volume.labels[:8] = 1
        volume.labels[8:] = 2  # a border between z = 7 and z = 8
        options = {"zero_label": "boundary", "boundary_thickness": thickness}
        # Outputs z = 4 … 7, the border just outside: the last planes become boundary.
        patch = self.cut(volume, (4, 5, 5), **options)
        zero = (patch["labels"] == 0).numpy().all(axis=(1, 2))
        assert zero.tolist() == [4 + z >= 8 - thickness for z in range(4)]
        # The slab ends at the border: nothing is known of another body.
        patch = self.cut(volume, (4, 5, 5), slab=(0, 8), **options)
        assert (patch["labels"] != 0).all()
        assert patch["affinities"].all()
        assert patch["mask"].all()

    def test_dtypes_and_shapes(self, make_volume):
        patch = self.cut(make_volume(), (0, 0, 0), input_size=(8, 10, 6), output_size=(2, 4, 6))
        assert {name: (str(t.dtype), tuple(t.shape)) for name, t in patch.items()} == {
            "raw": ("torch.float32", (1, 8, 10, 6)),
            "affinities": ("torch.float32", (3, 2, 4, 6)),
            "mask": ("torch.bool", (3, 2, 4, 6)),
            "labels": ("torch.int32", (2, 4, 6)),
        }
        assert all(tensor.is_contiguous() for tensor in patch.values())

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"input_size": (8, 9, 8)}, r"\(4, 4, 4\) must .* input size \(8, 9, 8\)"),
            ({"input_size": (8, 2, 8)}, "every difference even and not negative"),
            ({"zero_label": "unknown"}, "'ignore' or 'boundary', found 'unknown'"),
            ({"boundary_thickness": 1}, "set zero_label = 'boundary'"),
            ({"boundary_thickness": -1, "zero_label": "boundary"}, "at least 0 voxels, found -1"),
        ],
    )
    def test_errors(self, make_volume, options, problem):
        with pytest.raises(ConfigError, match=problem):
            self.cut(make_volume(), (0, 0, 0), **options)


class TestSlab:
    def test_labels_are_dense_and_of_the_slab_only(self, make_volume):
        volume = make_volume()
        slab = Slab(Region(volume, 4, 8), None)
        assert slab.labels.dtype == np.int32
        assert slab.labels.shape == (4, 18, 16)
        assert slab.labels.max() == len(np.unique(volume.labels[4:8]))
        assert not np.shares_memory(slab.labels, volume.labels)
        assert np.shares_memory(slab.raw, volume.raw)

    def test_no_labels(self, make_volume):
        with pytest.raises(DataError, match=r"fib\[0:20\]: the volume has no labels \(fib\.h5"):
            Slab(Region(make_volume(labels=None, name="fib")), None)

    def test_grey_values_without_known_scale(self, make_volume):
        volume = make_volume(dtype=np.int16, name="fib")
        with pytest.raises(DataError, match=r"fib\[0:20\]: raw is int16.*intensity_range"):
            Slab(Region(volume), None)
        assert Slab(Region(volume), (0, 255)).raw is volume.raw

    def test_one_bad_plane_of_floats_is_found(self, make_volume):
        raw = np.zeros((20, 18, 16), np.float32)
        raw[17, 3, 3] = 1.5
        with pytest.raises(DataError, match=r"fib\[0:20\]: .*1.5, expected \[0, 1\]"):
            Slab(Region(make_volume(raw=raw, name="fib")), None)


def test_size_triple():
    assert size_triple(5, "input_size") == (5, 5, 5)
    assert size_triple([1, 2, 3], "input_size") == (1, 2, 3)
    for bad in (0, -1, [1, 2], [1, 2, 3, 4], [1, 2.5, 3], [1, 0, 3], True):
        with pytest.raises(ConfigError, match="input_size must be one or three positive integers"):
            size_triple(bad, "input_size")
