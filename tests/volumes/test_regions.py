from dataclasses import replace

import numpy as np
import pytest

from psc.errors import ConfigError
from psc.volumes.reading import Region, check_disjoint


def test_a_region_knows_its_slab(make_volume):
    region = Region(make_volume((20, 18, 16), name="fib"), 4, 9)
    assert region.shape == (5, 18, 16)
    assert str(region) == "fib[4:9]"
    whole = Region(make_volume((20, 18, 16)))
    assert (whole.stop, whole.shape) == (20, (20, 18, 16))


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (6, 5), (0, 21), (20, None)])
def test_slabs_outside_the_volume(make_volume, start, stop):
    with pytest.raises(ConfigError, match=r"fib: slab .* give 0 <= start < stop <= 20"):
        Region(make_volume(name="fib"), start, stop)


def test_disjoint_slabs_pass(make_volume):
    volume, other = make_volume(), make_volume(seed=1)
    train = [Region(volume, 0, 10), Region(volume, 5, 12), Region(other, 12, 20)]
    splits = {"train": train, "validation": [Region(volume, 12, 15)], "test": []}
    assert check_disjoint(splits) is None  # and one slice lower they touch:
    with pytest.raises(ConfigError, match="share data"):
        check_disjoint(splits | {"validation": [Region(volume, 11, 15)]})


@pytest.mark.parametrize(("start", "stop"), [(9, 12), (0, 20), (3, 4)])
def test_overlap_names_both_regions(make_volume, start, stop):
    volume = make_volume(name="fib")
    splits = {"train": [Region(volume, 0, 10)], "test": [Region(volume, start, stop)]}
    with pytest.raises(ConfigError, match=r"'train' and 'test'") as caught:
        check_disjoint(splits)
    assert "fib[0:10]" in str(caught.value)
    assert f"fib[{start}:{stop}]" in str(caught.value)


def test_a_copy_under_another_name_is_found(make_volume):
    volume = make_volume(name="fib")
    # As if slices 6 to 15 had been saved as a file of their own, in another memory order.
    part = replace(volume, raw=np.asfortranarray(volume.raw[6:16]), labels=None, name="copy")
    check_disjoint({"train": [Region(volume, 0, 6)], "test": [Region(part)]})
    with pytest.raises(ConfigError, match=r"2 slices in common \(z = 6 to 7 of fib\)"):
        check_disjoint({"train": [Region(volume, 0, 8)], "test": [Region(part)]})
    check_disjoint({"train": [Region(volume, 0, 8)], "test": [Region(part, 2)]})


def test_padding_of_one_grey_value_is_no_copy(make_volume):
    first, second = make_volume(seed=1), make_volume(seed=2)
    first.raw[:3] = second.raw[:3] = 0
    check_disjoint({"train": [Region(first)], "test": [Region(second)]})
    # but within one volume it is the same slices
    with pytest.raises(ConfigError, match="1 slices in common"):
        check_disjoint({"train": [Region(first, 0, 2)], "test": [Region(first, 1, 3)]})


def test_the_voxel_size_makes_no_other_volume(make_volume):
    volume = make_volume()
    again = replace(volume, voxel_size=(8.0, 8.0, 8.0))
    with pytest.raises(ConfigError, match="share data"):
        check_disjoint({"train": [Region(volume, 0, 10)], "validation": [Region(again, 9, 12)]})
