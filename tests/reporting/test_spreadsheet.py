"""summary.csv: every number, unrounded, and nothing where nothing is known."""

import csv

import pytest

from psc.reporting.costs import ForwardCost
from psc.reporting.groups import group_records
from psc.reporting.spreadsheet import COLUMNS, write_spreadsheet


def test_one_row_per_network(tmp_path, make_record):
    records = [make_record("p2sc3", seed=s, total=1.0 + s / 3) for s in (0, 1)]
    groups = group_records([*records, make_record("3d", kind="real")])
    path = tmp_path / "summary.csv"
    write_spreadsheet(groups, [ForwardCost((1, 1, 16, 16, 16), 2000), None], path)
    with path.open() as file:
        reader = csv.DictReader(file)
        first, second = reader
    assert tuple(reader.fieldnames) == COLUMNS
    texts = ("data", "backbone", "block", "m", "n", "seeds", "commit", "iterations", "dataset")
    assert [first[c] for c in texts] == [
        "synthetic", "unet", "p2sc3", "2", "3", "0 1", "aaaaaaaa", "5", "d"
    ]  # fmt: skip
    numbers = ("parameters", "multiply_adds", "flops")
    assert [int(first[column]) for column in numbers] == [1234567, 1000, 2000]
    assert first["input_shape"] == "1x1x16x16x16"
    mean = 1 + 1 / 6
    assert float(first["vi_sum_mean"]) == pytest.approx(mean, abs=1e-12)
    assert float(first["vi_sum_sd"]) == pytest.approx((1 / 3) / 2**0.5, abs=1e-12)
    assert float(first["vi_split_mean"]) == pytest.approx(mean / 4)
    assert float(first["vi_merge_mean"]) == pytest.approx(mean * 3 / 4)
    assert float(first["no_network_vi_sum"]) == 4
    assert float(first["training_minutes"]) == 1.5
    empty = ("m", "n", "input_shape", "multiply_adds", "flops", "vi_sum_sd")
    assert [second[column] for column in empty] == [""] * 6
    assert second["data"] == "real"
