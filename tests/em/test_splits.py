"""From configuration to regions: what is read, how often, and what a record says of it."""

import numpy as np
import pytest

from psc.config import compose
from psc.em.data import locate, prepare_synthetic, read_splits
from psc.errors import DataError


def test_a_volume_in_three_slabs_is_read_once(tiny_run):
    splits = read_splits(compose(tiny_run).dataset)
    assert splits.train[0].volume is splits.validation[0].volume is splits.test[0].volume
    assert [part[0].shape[0] for part in (splits.train, splits.validation, splits.test)] == [
        24,
        12,
        12,
    ]
    record = splits.record()
    assert record["kind"] == "real"
    assert record["splits"]["test"] == [str(splits.test[0])]
    assert len(record["files"]) == 1


def test_a_synthetic_volume_marks_everything_that_it_touches(tmp_path, tiny_run, monkeypatch):
    paths = {name: tmp_path / f"{name}.h5" for name in ("train", "validation", "test")}
    overrides = ["dataset=fibsem_synthetic"]
    for i, (name, path) in enumerate(paths.items()):
        overrides.append(f"dataset.{name}=[{{raw:{path},synthetic:{{shape:[20,24,28],seed:{i}}}}}]")
    dataset = compose(overrides).dataset
    prepare_synthetic(dataset)
    splits = read_splits(dataset)
    assert splits.kind == "synthetic"
    assert splits.test[0].shape == (20, 24, 28)
    # Read as the user's own file, under another data set's name: still synthetic.
    disguised = compose(
        ["dataset=fibsem", *(f"dataset.{name}=[{{raw:{path}}}]" for name, path in paths.items())]
    ).dataset
    assert read_splits(disguised).kind == "synthetic"


def test_a_sample_is_not_the_whole_data_set(tiny_run):
    dataset = compose([*tiny_run, "dataset.sample=true"]).dataset
    assert read_splits(dataset).kind == "real sample"


@pytest.mark.sample
def test_the_real_sample(sample_data):
    splits = read_splits(compose(["dataset=fibsem_sample"]).dataset)
    assert splits.kind == "real sample"
    assert [part[0].shape for part in (splits.train, splits.validation, splits.test)] == [
        (140, 250, 250),
        (26, 250, 250),
        (42, 250, 250),
    ]
    assert splits.train[0].volume.raw.dtype == np.uint8


def test_paths_expand_variables_and_name_the_missing_one(tmp_path, monkeypatch):
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    assert locate("$SOMEWHERE/x.h5") == tmp_path / "x.h5"
    with pytest.raises(DataError, match=r"\$NOT_SET_AT_ALL.*environment variable"):
        locate("$NOT_SET_AT_ALL/x.h5")


def test_volumes_without_labels_are_refused(tiny_run, tmp_path):
    import h5py

    path = tmp_path / "raw_only.h5"
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = np.random.default_rng(0).integers(0, 255, (24, 40, 40), np.uint8)
    dataset = compose([*tiny_run, f"dataset.train=[{{raw:{path}}}]"]).dataset
    with pytest.raises(DataError, match="has no labels"):
        read_splits(dataset)
