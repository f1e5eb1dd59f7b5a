"""Axes, voxel size and offset of files that h5py and zarr wrote, against what was written."""

import h5py
import numpy as np
import pytest
import zarr

from psc.errors import DataError
from psc.volumes.metadata import nanometres
from psc.volumes.reading import open_volume

RAW = np.random.default_rng(0).integers(0, 255, (4, 6, 8)).astype(np.uint8)  # z, y, x
SPACE = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]


def scaled(*factors):
    return {"type": "scale", "scale": list(factors)}


def moved(*steps):
    return {"type": "translation", "translation": list(steps)}


def ome(path, levels, axes=SPACE, pyramid=None, *, version="0.5", raw=RAW, group="", **more):
    """An OME-Zarr: each level's path and transformations, and those of the whole pyramid."""
    described = {"axes": axes, "datasets": []}
    if pyramid is not None:
        described["coordinateTransformations"] = pyramid
    store = zarr.open_group(str(path), mode="a", zarr_format=3 if version == "0.5" else 2)
    store = store.require_group(group) if group else store
    for level, transformations in levels.items():
        step = 2 ** len(described["datasets"])
        part = np.ascontiguousarray(raw[(slice(None, None, step),) * raw.ndim])
        array = store.create_array(
            level, shape=part.shape, chunks=(2,) * raw.ndim, dtype="u1", **more
        )
        array[...] = part
        entry = {"path": level}
        if transformations is not None:
            entry["coordinateTransformations"] = transformations
        described["datasets"].append(entry)
    multiscales = {"multiscales": [described]}
    store.attrs.update({"ome": multiscales} if version == "0.5" else multiscales)
    return path


def affine(*transformations):
    """The same transformations as a matrix, one after the other."""
    total = np.eye(4)
    for step in transformations:
        matrix = np.eye(4)
        if step["type"] == "scale":
            matrix[:3, :3] = np.diag(step["scale"])
        else:
            matrix[:3, 3] = step["translation"]
        total = matrix @ total
    return tuple(np.diag(total)[:3]), tuple(total[:3, 3])


class TestMultiscales:
    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    @pytest.mark.parametrize(
        ("level", "pyramid"),
        [
            ([scaled(1, 1, 1)], [scaled(30, 8, 8)]),
            ([scaled(30, 8, 8)], None),
            ([scaled(1, 2, 2)], [scaled(30, 4, 4)]),
            ([scaled(3, 2, 2), moved(10, 20, 30)], [scaled(10, 4, 4)]),
            ([scaled(3, 2, 2), moved(1, 2, 3)], [scaled(10, 4, 4), moved(5, 0, -7)]),
            ([scaled(30, 8, 8)], [moved(5, 6, 7)]),
        ],
    )
    def test_transformations_of_level_and_pyramid_are_composed(
        self, tmp_path, version, level, pyramid
    ):
        volume = open_volume(
            ome(tmp_path / "em.zarr", {"0": level}, pyramid=pyramid, version=version)
        )
        size, offset = affine(*level, *(pyramid or ()))
        assert volume.voxel_size == pytest.approx(size)
        is_moved = any(step["type"] == "translation" for step in [*level, *(pyramid or ())])
        assert volume.offset == (pytest.approx(offset) if is_moved else None)

    def test_each_level_has_its_own(self, tmp_path):
        levels = {"s0": [scaled(30, 8, 8)], "s1": [scaled(60, 16, 16), moved(15, 4, 4)]}
        path = ome(tmp_path / "em.zarr", levels)
        assert open_volume(path).voxel_size == (30, 8, 8)
        coarse = open_volume(path, "s1")
        assert (coarse.voxel_size, coarse.offset) == ((60, 16, 16), (15, 4, 4))
        assert np.array_equal(coarse[...], RAW[::2, ::2, ::2])

    @pytest.mark.parametrize("level", ["0", "./0", "images/em/s0", "/0/"])
    def test_the_nearest_group_that_names_the_array_counts(self, tmp_path, level):
        name = level.strip("./")
        path = tmp_path / "em.zarr"
        ome(path, {name: None}, group="volumes/raw")
        group = zarr.open_group(str(path), mode="r+")
        group.attrs.update(resolution=[1, 1, 1])  # of something else, further up
        inner = group["volumes/raw"]
        described = inner.attrs["ome"]
        described["multiscales"][0]["datasets"] = [
            {"path": level, "coordinateTransformations": [scaled(40, 4, 4)]}
        ]
        inner.attrs["ome"] = described
        for volume in (
            open_volume(path),
            open_volume(path, "volumes/raw"),
            open_volume(path / "volumes" / "raw"),
            open_volume(path, f"/volumes//raw/{name}/"),
            open_volume(path / "volumes" / "raw" / name),
        ):
            assert volume.voxel_size == (40, 4, 4)
            assert np.array_equal(volume[...], RAW)

    @pytest.mark.parametrize("order", ["xyz", "zxy", "yzx", "tczyx", "xyzc", "czxyt", "ZYX"])
    def test_axes_go_by_name(self, tmp_path, order):
        axes = [
            {"name": n, "type": "space", "unit": "um"} if n in "zyxZYX" else {"name": n}
            for n in order
        ]
        names = [n.lower() for n in order if n.lower() in "zyx"]
        raw = RAW.transpose(["zyx".index(name) for name in names])
        raw = raw.reshape(
            [raw.shape[names.index(n.lower())] if n.lower() in names else 1 for n in order]
        )
        sizes = {"z": 0.03, "y": 0.008, "x": 0.004}
        scale = scaled(*(sizes.get(n.lower(), 1) for n in order))
        shift = moved(*({"z": 1, "y": 2, "x": 3}.get(n.lower(), 0) for n in order))
        path = ome(
            tmp_path / "em.zarr", {"0": [scale, shift]}, axes, raw=raw, dimension_names=list(order)
        )
        volume = open_volume(path)
        assert volume.axes == tuple(order.lower())
        assert volume.shape == RAW.shape
        assert volume.voxel_size == pytest.approx((30, 8, 4))
        assert volume.offset == pytest.approx((1000, 2000, 3000))
        assert np.array_equal(volume[...], RAW)
        assert np.array_equal(volume[1:3, 2:5, 3:8], RAW[1:3, 2:5, 3:8])

    def test_old_versions_say_no_voxel_size(self, tmp_path):
        raw = RAW[None, None]
        for number, axes in enumerate((None, list("tczyx"))):  # 0.1 and 0.3
            path = ome(tmp_path / f"{number}.zarr", {"0": None}, axes, version="0.4", raw=raw)
            volume = open_volume(path)
            assert np.array_equal(volume[...], RAW)
            assert volume.voxel_size is None
            assert "give no scale" in volume.voxel_size_source

    @pytest.mark.parametrize(
        ("unit", "said"), [(None, "without a unit"), ("pixel", "'pixel', which is no unit")]
    )
    def test_a_scale_without_a_length_is_none(self, tmp_path, unit, said):
        axes = [{"name": n, "type": "space", **({"unit": unit} if unit else {})} for n in "zyx"]
        volume = open_volume(ome(tmp_path / "em.zarr", {"0": [scaled(30, 8, 8)]}, axes))
        assert (volume.voxel_size, volume.offset) == (None, None)
        assert said in volume.voxel_size_source

    def test_a_transformation_that_is_not_understood_is_no_scale(self, tmp_path):
        steps = [scaled(30, 8, 8), {"type": "affine", "affine": [[1]]}]
        volume = open_volume(ome(tmp_path / "em.zarr", {"0": steps}))
        assert volume.voxel_size is None
        assert "'affine', not understood" in volume.voxel_size_source

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"axes": SPACE[:2]}, "it has 3 axes, but its multiscales describe"),
            ({"levels": {"0": [scaled(8, 8)]}}, "scale of its multiscales"),
            ({"levels": {"0": [scaled(8, 0, 8)]}}, "must be three positive numbers"),
            ({"levels": {"0": [scaled(8, "8 nm", 8)]}}, "scale of its multiscales"),
            ({"dimension_names": ["x", "y", "z"]}, "axes are .* and .*; correct one of them"),
            ({"axes": [{"name": n} for n in "cyx"]}, r"\(4, 6, 8\) with axes c, y, x"),
            ({"axes": [{"name": n} for n in "zzx"]}, "with axes z, z, x"),
        ],
    )
    def test_what_contradicts_the_array_is_refused(self, tmp_path, changes, message):
        arguments = {"levels": {"0": [scaled(30, 8, 8)]}, **changes}
        with pytest.raises(DataError, match=message):
            open_volume(ome(tmp_path / "em.zarr", **arguments))

    @pytest.mark.filterwarnings("ignore:.*onsolidated")
    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    def test_stale_consolidated_metadata_are_not_believed(self, tmp_path, version):
        path = ome(tmp_path / "em.zarr", {"0": [scaled(1, 1, 1)]}, version=version)
        zarr.consolidate_metadata(str(path))
        group = zarr.open_group(str(path), mode="r+", use_consolidated=False)
        attributes = dict(group.attrs)
        found = attributes.get("ome", attributes)["multiscales"][0]
        found["datasets"].insert(
            0, {"path": "new", "coordinateTransformations": [scaled(30, 8, 8)]}
        )
        group.attrs.update(attributes)
        group.create_array("new", data=RAW, chunks=(2, 2, 2))
        volume = open_volume(path)
        assert volume.voxel_size == (30, 8, 8)
        assert np.array_equal(volume[...], RAW)


UNITS = {
    1.0: ["nm", "nanometer", "nanometers", "nanometre", "Nanometer", " nm "],
    1e3: ["µm", "μm", "um", "micron", "microns", "micrometer", "micrometres", "\u00b5m"],
    0.1: ["Å", "\u212b", "A\u030a", "angstrom", "Angstroms", "ångström"],
    1e-3: ["pm", "picometer"],
    1e6: ["mm", "millimeter"],
    1e7: ["cm", "centimetre"],
    1e9: ["m", "meter", "metres"],
}


@pytest.mark.parametrize(
    ("unit", "expected"), [(u, nm) for nm, units in UNITS.items() for u in units]
)
def test_units_in_any_spelling(unit, expected):
    assert nanometres(unit) == expected


@pytest.mark.parametrize("unit", ["pixel", "second", "", None, "s", "voxels", 3])
def test_what_is_no_unit_of_length(unit):
    assert nanometres(unit) is None


def write_attributes(path, attributes, kind, raw=RAW, **options):
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            dataset = file.create_dataset("volumes/raw", data=raw)
            dataset.attrs.update(attributes)
    else:
        group = zarr.open_group(str(path), mode="w", zarr_format=int(kind[-1]))
        array = group.create_array("volumes/raw", data=raw, chunks=(2,) * raw.ndim, **options)
        array.attrs.update({k: np.asarray(v).tolist() for k, v in attributes.items()})
    return path


@pytest.mark.parametrize("kind", ["hdf5", "zarr 2", "zarr 3"])
class TestAttributes:
    @pytest.mark.parametrize(
        ("attributes", "size", "offset"),
        [
            ({"resolution": (40, 4, 4), "offset": (400, 20, 8)}, (40, 4, 4), (400, 20, 8)),  # CREMI
            ({"resolution": np.float32([8, 8, 8])}, (8, 8, 8), None),
            ({"voxel_size": [30, 8, 8], "offset": [0, 0, 0]}, (30, 8, 8), (0, 0, 0)),  # funlib
            ({"voxel_size": [30, 8, 8], "units": ["nm"] * 3}, (30, 8, 8), None),
            ({"resolution": [0.04, 0.004, 0.004], "unit": "um"}, (40, 4, 4), None),
            ({"voxel_size": [3, 2, 1], "units": ["um", "nm", "Å"]}, (3000, 2, 0.1), None),
            ({"element_size_um": [0.03, 0.008, 0.004]}, (30, 8, 4), None),  # Fiji
            ({"resolution": (4, 4, 40), "axis_names": list("xyz")}, (40, 4, 4), None),
            ({"resolution": (40, 4, 4), "voxel_size": (40.0, 4.0, 4.0)}, (40, 4, 4), None),
            ({"offset": (400, 20, 8)}, None, (400, 20, 8)),
            ({"offset": (0.4, 0.02, 0.008), "units": "um"}, None, (400, 20, 8)),
        ],
    )
    def test_are_alike_in_all_containers(self, tmp_path, kind, attributes, size, offset):
        raw = RAW.transpose() if "axis_names" in attributes else RAW
        volume = open_volume(write_attributes(tmp_path / "em", attributes, kind, raw))
        assert volume.voxel_size == pytest.approx(size)
        assert volume.offset == (offset if offset is None else pytest.approx(offset))
        assert np.array_equal(volume[...], RAW)

    @pytest.mark.parametrize(
        "value", [8, (8, 8), (8, 8, 0), (8, -8, 8), "8 nm", (8, 8, np.nan), (8, 8, 8, 8)]
    )
    def test_that_are_no_voxel_size_are_refused(self, tmp_path, kind, value):
        path = write_attributes(tmp_path / "em", {"resolution": value}, kind)
        with pytest.raises(DataError, match=r"em.*resolution.* (three positive|3 finite|a number)"):
            open_volume(path)

    @pytest.mark.parametrize(
        ("attributes", "said"),
        [
            ({}, "the file does not say it"),
            ({"resolution": (0.04, 0.004, 0.004)}, "without a unit, and nm cannot be meant"),
            ({"resolution": (4, 4, 4), "unit": "counts"}, "'counts', which is no unit of length"),
        ],
    )
    def test_what_is_unknown_is_said(self, tmp_path, kind, attributes, said):
        volume = open_volume(write_attributes(tmp_path / "em", attributes, kind))
        assert volume.voxel_size is None
        assert said in volume.voxel_size_source

    def test_an_offset_of_too_many_numbers_is_refused(self, tmp_path, kind):
        path = write_attributes(tmp_path / "em", {"offset": (0, 400, 20, 8)}, kind)
        with pytest.raises(DataError, match=r"em.*: attribute 'offset' needs .* each of z, y, x"):
            open_volume(path)

    def test_contradictions_are_refused(self, tmp_path, kind):
        both = {"resolution": (40, 4, 4), "voxel_size": (4, 4, 40)}
        with pytest.raises(DataError, match=r"'resolution' \[40.*contradict"):
            open_volume(write_attributes(tmp_path / "em", both, kind))

    def test_of_a_channel_axis_too(self, tmp_path, kind):
        attributes = {"resolution": (1, 40, 4, 4), "offset": (0, 80, 8, 8)}
        volume = open_volume(write_attributes(tmp_path / "em", attributes, kind, RAW[None]))
        assert (volume.voxel_size, volume.offset) == ((40, 4, 4), (80, 8, 8))
        assert volume.shape == RAW.shape


@pytest.mark.parametrize(
    "said",
    [
        {"volumes": {"resolution": (40, 4, 4)}, "volumes/raw": {"offset": (400, 20, 8)}},
        {"volumes/raw": {"resolution": (40, 4, 4)}, "/": {"offset": (400, 20, 8)}},
        {
            "volumes": {"resolution": (0.04, 0.004, 0.004), "unit": "um"},
            "volumes/raw": {"offset": (400, 20, 8), "units": ["nm", "nm", "nm"]},
        },
        {
            "volumes/raw": {"resolution": (40, 4, 4)},
            "/": {"offset": (0.4, 0.02, 0.008), "unit": "um"},
        },
    ],
)
def test_an_offset_may_be_elsewhere_than_the_voxel_size(tmp_path, said):
    path = write_attributes(tmp_path / "em", {}, "hdf5")
    with h5py.File(path, "a") as file:
        for node, attributes in said.items():
            file[node].attrs.update(attributes)
    volume = open_volume(path)
    assert volume.voxel_size == pytest.approx((40, 4, 4))
    assert volume.offset == pytest.approx((400, 20, 8))


def test_an_offset_counts_beside_multiscales_without_a_translation(tmp_path):
    ome(tmp_path, {"0": [scaled(40, 4, 4)]})
    zarr.open_array(str(tmp_path / "0"), mode="r+").attrs["offset"] = [400, 20, 8]
    volume = open_volume(tmp_path)
    assert (volume.voxel_size, volume.offset) == ((40, 4, 4), (400, 20, 8))


def test_attributes_of_a_group_are_those_of_its_finest_level(tmp_path):
    with h5py.File(tmp_path / "em.h5", "w") as file:
        file["raw/s0"], file["raw/s1"] = RAW, RAW[::2, ::2, ::2]
        file["raw"].attrs["resolution"] = (40, 4, 4)
        file["raw/s1"].attrs["offset"] = (400, 20, 8)
    assert open_volume(tmp_path / "em.h5").voxel_size == (40, 4, 4)
    coarse = open_volume(tmp_path / "em.h5", "raw/s1")
    assert (coarse.voxel_size, coarse.offset) == (None, (400, 20, 8))
    assert "perhaps that of a finer level" in coarse.voxel_size_source


class TestNames:
    def test_of_zarr_3_alone(self, tmp_path):
        path = tmp_path / "em.zarr"
        zarr.create_array(
            str(path), data=RAW.transpose(), chunks=(2, 2, 2), dimension_names=["x", "y", "z"]
        )
        assert np.array_equal(open_volume(path)[...], RAW)

    def test_of_xarray(self, tmp_path):
        names = {"_ARRAY_DIMENSIONS": ["y", "x", "z"]}
        raw = RAW.transpose(1, 2, 0)
        path = write_attributes(tmp_path / "em", {}, "zarr 2", raw)
        zarr.open_array(str(path / "volumes/raw"), mode="r+").attrs.update(names)
        assert np.array_equal(open_volume(path)[...], RAW)

    def test_of_hdf5_dimensions(self, tmp_path):
        with h5py.File(tmp_path / "em.h5", "w") as file:
            file["raw"] = RAW.transpose()
            for dimension, name in zip(file["raw"].dims, "xyz", strict=True):
                dimension.label = name
        assert np.array_equal(open_volume(tmp_path / "em.h5")[...], RAW)

    def test_of_ilastik(self, tmp_path):
        with h5py.File(tmp_path / "em.h5", "w") as file:
            file["exported_data"] = RAW.transpose()[..., None]
            file["exported_data"].attrs["axistags"] = (
                '{"axes": [{"key": "x"}, {"key": "y"}, {"key": "z"}, {"key": "c"}]}'
            )
        assert np.array_equal(open_volume(tmp_path / "em.h5")[...], RAW)

    def test_that_say_nothing_are_said(self, tmp_path):
        path = tmp_path / "em.zarr"
        zarr.create_array(str(path), data=RAW, chunks=(2, 2, 2), dimension_names=["a", "b", "c"])
        volume = open_volume(path)
        assert np.array_equal(volume[...], RAW)
        assert "its axes are called a, b, c; taken as z, y, x" in volume.notes[0]

    @pytest.mark.parametrize(
        "shape", [(1, 4, 6, 8), (4, 6, 8, 1), (1, 1, 4, 6, 8), (4, 6, 1), (1, 6, 8)]
    )
    def test_unnamed_axes_of_one_are_dropped(self, tmp_path, shape):
        with h5py.File(tmp_path / "em.h5", "w") as file:
            file["raw"] = RAW.reshape(-1)[: np.prod(shape)].reshape(shape)
        expected = [n for n in shape if n != 1] if len(shape) > 3 else shape
        assert open_volume(tmp_path / "em.h5").shape == tuple(expected)

    @pytest.mark.parametrize(
        "shape", [(6, 5), (2, 4, 6, 5), (4, 6, 5, 2), (1, 6, 5, 1), (0, 6, 5), (2, 1, 4, 6, 5)]
    )
    def test_what_is_no_single_channel_volume_is_refused(self, tmp_path, shape):
        with h5py.File(tmp_path / "em.h5", "w") as file:
            file["raw"] = np.zeros(shape, np.uint8)
        with pytest.raises(DataError, match=r"em\.h5 \(raw\): expected shape \(D, H, W\), found"):
            open_volume(tmp_path / "em.h5")


class TestContainersOfImages:
    def container(self, path, series):
        """What bioformats2raw writes: images in groups 0, 1, … and nothing at the root."""
        attributes = {"bioformats2raw.layout": 3}
        root = zarr.open_group(str(path), mode="w", zarr_format=2, attributes=attributes)
        root.create_group("OME").attrs["series"] = [str(i) for i in range(series)]
        axes = [{"name": "t"}, {"name": "c"}, *SPACE]
        for i in range(series):
            levels = {"0": [scaled(1, 1, 30, 8, 8)], "1": [scaled(1, 1, 60, 16, 16)]}
            ome(path, levels, axes, raw=RAW[None, None] + i, version="0.4", group=str(i))
        return path

    def test_the_only_image_is_taken_and_said(self, tmp_path):
        path = self.container(tmp_path / "em.zarr", 1)
        for volume in (open_volume(path), open_volume(path, "0"), open_volume(path, "0/0")):
            assert volume.voxel_size == (30, 8, 8)
            assert np.array_equal(volume[...], RAW)
        assert "0/0 was taken, the only volume" in open_volume(path).notes[0]
        assert open_volume(path, "0/1").voxel_size == (60, 16, 16)

    def test_one_of_several_is_asked_for(self, tmp_path):
        path = self.container(tmp_path / "em.zarr", 2)
        with pytest.raises(DataError, match=r"set input_key to one of 0 \(1, 1, 4, 6, 8\), 1 \("):
            open_volume(path)
        assert np.array_equal(open_volume(path, "1")[...], RAW + 1)
        assert np.array_equal(open_volume(path / "1")[...], RAW + 1)


@pytest.mark.parametrize("order", ["zyx", "xyz", "yxz"])
def test_indices_mean_what_they_mean_for_arrays(tmp_path, order):
    raw = RAW.transpose(["zyx".index(name) for name in order])
    volume = open_volume(
        write_attributes(tmp_path / "em", {"axis_names": list(order)}, "hdf5", raw)
    )
    box = (slice(-3, None), slice(None, 4), slice(2, 99))
    for index in (
        ...,
        slice(2, None),
        box[:2],
        box,
        (..., *box),
        (..., box[2]),
        (box[0], ..., box[2]),
    ):
        assert np.array_equal(volume[index], RAW[index])
