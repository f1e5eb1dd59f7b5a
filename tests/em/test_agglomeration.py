import subprocess
import sys

import numpy as np
import pytest

from psc.em.settings import SCORING_FUNCTIONS
from psc.em.watershed import agglomerate
from psc.errors import ConfigError, DataError

THRESHOLDS = (0.05, 0.2, 0.8)


def three_fragments():
    """Slabs 1 | 2 | 3 along x; affinity 0.9 between the first two, 0.3 between the last two."""
    affinities = np.ones((3, 4, 4, 6), np.float32)
    affinities[2, :, :, 2], affinities[2, :, :, 4] = 0.9, 0.3
    fragments = np.broadcast_to(np.repeat([1, 2, 3], 2), (4, 4, 6)).astype(np.uint64)
    return affinities, fragments


@pytest.mark.parametrize("scoring", SCORING_FUNCTIONS)
def test_merges_where_one_minus_affinity_is_below_the_threshold(scoring):
    # All scoring functions agree on constant affinities, and none needs a compiler.
    affinities, fragments = three_fragments()
    result = dict(agglomerate(affinities, fragments, THRESHOLDS, scoring=scoring))
    assert list(result) == list(THRESHOLDS)
    np.testing.assert_array_equal(result[0.05], fragments)
    a, b, c = result[0.2][0, 0, [0, 2, 4]]
    assert a == b != c
    assert np.unique(result[0.8]).size == 1


def test_scoring_functions_see_different_affinities():
    # One high affinity among low ones: the published scoring starts from the highest.
    affinities = np.ones((3, 3, 3, 4), np.float32)
    affinities[2, :, :, 2] = 0.1
    affinities[2, 0, 0, 2] = 0.9
    fragments = np.broadcast_to([1, 1, 2, 2], (3, 3, 4)).astype(np.uint64)

    def segments(scoring):
        ((_, segmentation),) = agglomerate(affinities, fragments, [0.5], scoring=scoring)
        return np.unique(segmentation).size

    assert segments("aff50_his256") == 1
    assert segments("hist_quant_50") == 2
    assert segments("mean") == 2


def test_results_are_independent_and_arguments_untouched():
    affinities, fragments = three_fragments()
    affinities.flags.writeable = fragments.flags.writeable = False
    (_, first), (_, second), (_, third) = agglomerate(affinities, fragments, THRESHOLDS)
    assert [np.unique(s).size for s in (first, second, third)] == [3, 2, 1]
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(second, third)
    first[:] = 99
    assert 99 not in second


def test_changing_a_result_does_not_change_the_next():
    affinities, fragments = three_fragments()
    steps = agglomerate(affinities, fragments, THRESHOLDS)
    next(steps)[1][:] = 0
    assert np.unique(next(steps)[1]).size == 2


def test_sparse_ids_cost_no_memory_and_are_kept():
    affinities, fragments = three_fragments()
    sparse = fragments + np.uint64(2**60)  # would be a table of 2**60 entries
    for threshold, segmentation in agglomerate(affinities, sparse, THRESHOLDS):
        assert segmentation.dtype == np.uint64
        assert set(np.unique(segmentation)) <= set(np.unique(sparse)), threshold


def test_any_integer_dtype_and_memory_order():
    affinities, fragments = three_fragments()
    reordered = np.asfortranarray(fragments.astype(np.int32))
    for (_, a), (_, b) in zip(
        agglomerate(affinities, fragments, THRESHOLDS),
        agglomerate(np.asfortranarray(affinities), reordered, THRESHOLDS),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_background_stays_background():
    affinities, fragments = three_fragments()
    fragments[fragments == 2] = 0
    for _, segmentation in agglomerate(affinities, fragments, [0.1, 1.0]):
        np.testing.assert_array_equal(segmentation == 0, fragments == 0)


def test_thresholds_come_in_ascending_order_once_each():
    affinities, fragments = three_fragments()
    steps = agglomerate(affinities, fragments, [0.8, 0.05, 0.8, 0.2])
    assert [threshold for threshold, _ in steps] == [0.05, 0.2, 0.8]


def test_the_last_steps_need_not_be_taken():
    affinities, fragments = three_fragments()
    steps = agglomerate(affinities, fragments, THRESHOLDS)
    next(steps)
    steps.close()
    assert len(list(agglomerate(affinities, fragments, THRESHOLDS))) == 3


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_extreme_affinities(value):
    affinities, fragments = three_fragments()
    ((_, segmentation),) = agglomerate(np.full_like(affinities, value), fragments, [0.5])
    assert np.unique(segmentation).size == (3 if value == 0 else 1)


def test_standard_output_is_silent_during_and_usable_between(capfd):
    affinities, fragments = three_fragments()
    for threshold, _ in agglomerate(affinities, fragments, THRESHOLDS):
        print(threshold)
    assert capfd.readouterr() == ("0.05\n0.2\n0.8\n", "")


@pytest.mark.parametrize("thresholds", [[-0.1, 0.5], [0.5, 1.1], [float("nan")]])
def test_refuses_impossible_thresholds_at_the_call(thresholds):
    with pytest.raises(ConfigError, match="must lie in"):
        agglomerate(*three_fragments(), thresholds)


def test_refuses_no_threshold():
    with pytest.raises(ConfigError, match="at least one"):
        agglomerate(*three_fragments(), [])


def test_refuses_unknown_scoring_and_names_the_known():
    with pytest.raises(ConfigError, match=r"scoring=median.*aff50_his256"):
        agglomerate(*three_fragments(), [0.5], scoring="median")


def test_refuses_fragments_of_another_shape():
    affinities, fragments = three_fragments()
    with pytest.raises(DataError, match=r"\(4, 4, 6\), found \(4, 4, 5\)"):
        agglomerate(affinities, fragments[:, :, 1:], [0.5])


def test_refuses_affinities_with_nan():
    affinities, fragments = three_fragments()
    affinities[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="nan"):
        agglomerate(affinities, fragments, [0.5])


def test_refuses_fragments_that_are_no_integers():
    affinities, fragments = three_fragments()
    with pytest.raises(DataError, match="float64"):
        next(agglomerate(affinities, fragments.astype(float), [0.5]))


def test_a_machine_without_waterz_can_import_the_pipeline():
    program = """
import sys
sys.modules["waterz"] = None  # as if it were not installed
import psc.em.watershed
try:
    import waterz
except ImportError:
    print("pipeline without waterz")
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "pipeline without waterz", result.stderr
