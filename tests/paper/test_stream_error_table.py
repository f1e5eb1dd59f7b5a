import pytest
import torch

from psc.block.block import separable_width
from psc.decomposition import compose, factorise
from psc.paper.energy import stream_error_table, stream_errors


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_stream_is_the_truncated_svd_either_way():
    weight = normal(6, 4, 3, 3, 3)
    expected = float(factorise(weight, 0, separable_width(4, 6))[1])
    assert stream_errors(weight, 1) == pytest.approx((expected, expected), abs=1e-12)


def test_at_equal_weights_summed_streams_gain_and_concatenated_ones_lose():
    # Summed streams have Eq. 5's number of weights; concatenated ones share fewer 2D filters.
    weight = normal(12, 8, 3, 3, 3)
    one, two = stream_errors(weight, 1), stream_errors(weight, 2)
    assert two[1] < one[1]
    assert two[0] > one[0]


def test_the_table_has_a_row_for_every_m():
    separable = compose(normal(1, 2, 1, 3, 3), normal(4, 1, 3, 1, 1, seed=1))
    rows = stream_error_table({"layer": separable}).splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [
        [f"| {label}", m] for label in ("trained", "random") for m in "123"
    ]
    assert rows[0] == "| trained | 1 | 0.000 | 0.000 |"
    assert "0.000" not in rows[3]
