"""summary.csv: every number, unrounded, and nothing where nothing is known."""

import csv

import pytest

from psc.paper.groups import group_records
from psc.paper.measures import AFFINITY, VIDEO, ForwardCost
from psc.paper.summary import columns, write_spreadsheet


def test_one_row_per_network(tmp_path, make_record):
    records = [make_record("p2sc3", seed=s, total=1.0 + s / 3) for s in (0, 1)]
    groups = group_records([*records, make_record("3d", kind="real")])
    path = tmp_path / "summary.csv"
    write_spreadsheet(groups, [ForwardCost((1, 1, 16, 16, 16), 2000), None], path)
    with path.open() as file:
        reader = csv.DictReader(file)
        first, second = reader
    assert tuple(reader.fieldnames) == columns([AFFINITY])
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


def test_columns_of_segmentation_are_as_they_were():
    assert ",".join(columns([AFFINITY])) == (
        "dataset,data,backbone,block,m,n,parameters,input_shape,multiply_adds,flops,iterations,"
        "vi_split_mean,vi_split_sd,vi_merge_mean,vi_merge_sd,vi_sum_mean,vi_sum_sd,"
        "adapted_rand_error_mean,adapted_rand_error_sd,no_network_vi_sum,training_minutes,seeds,"
        "commit"
    )


def test_accuracies_are_shares_of_1(tmp_path, make_video_record):
    records = [make_video_record(seed=seed, top1=0.5 + seed / 100) for seed in (0, 1)]
    path = tmp_path / "summary.csv"
    write_spreadsheet(group_records(records), [None], path)
    with path.open() as file:
        (row,) = csv.DictReader(file)
    assert not [column for column in row if "vi_" in column]
    assert float(row["top1_mean"]) == pytest.approx(0.505)
    assert float(row["top1_sd"]) == pytest.approx(0.01 / 2**0.5)
    assert float(row["top5_mean"]) == pytest.approx(0.63)
    assert float(row["clip_top1_mean"]) == pytest.approx(0.2525)
    assert float(row["chance_top1"]) == pytest.approx(1 / 60)


def test_both_applications_share_a_file(tmp_path, make_record, make_video_record):
    path = tmp_path / "summary.csv"
    write_spreadsheet(group_records([make_record(), make_video_record()]), [None, None], path)
    with path.open() as file:
        reader = csv.DictReader(file)
        neurons, actions = reader
    assert tuple(reader.fieldnames) == columns([AFFINITY, VIDEO])
    chosen = ("backbone", "vi_sum_mean", "no_network_vi_sum", "top1_mean", "seeds")
    assert [neurons[column] for column in chosen] == ["unet", "2.0", "4.0", "", "0"]
    assert [actions[column] for column in chosen] == ["resnet34", "", "", "0.5", "0"]
