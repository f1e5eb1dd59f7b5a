"""Own data sets: files by pattern, BIDS, nnU-Net; values of labels; parts of the subjects."""

import functools
import gzip
import json
import logging
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny_brains
import torch
from tiny_brains import CODES

from psc.applications import segment_file
from psc.config import compose
from psc.config.compose import from_plain
from psc.config.schema import SegmentConfig
from psc.errors import CheckpointError, ConfigError, DataError
from psc.mri.data import read_cohort
from psc.mri.finding import find_images, find_own_subjects, find_subjects
from psc.mri.settings import IBSRConfig, OwnMRIConfig
from psc.mri.tissues import IBSR, TissueCodes
from psc.training.checkpoints import checkpoint_paths
from psc.training.folder import run_name


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def config(folder=None, **keys):
    keys = {"label_values": CODES} | keys
    return OwnMRIConfig(name="own_mri", folder=None if folder is None else str(folder), **keys)


def found(folder, **keys):
    return {
        name: tuple(p.relative_to(folder).as_posix() for p in (files.image, files.unfilled))
        for name, files in find_own_subjects(config(folder, **keys)).items()
    }


class TestFiles:
    def test_bids(self, tmp_path):
        touch(
            tmp_path,
            *("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_dseg.nii.gz"),
            *("sub-01/anat/sub-01_T2w.nii.gz", "sub-01/func/sub-01_task-rest_bold.nii.gz"),
            *("sub-02/ses-a/anat/sub-02_ses-a_T1w.nii", "participants.tsv"),
            "derivatives/manual/sub-02/ses-a/anat/sub-02_ses-a_desc-tissues_dseg.nii.gz",
        )
        assert found(tmp_path) == {
            "sub-01": ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_dseg.nii.gz"),
            "sub-02": (
                "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii",
                "derivatives/manual/sub-02/ses-a/anat/sub-02_ses-a_desc-tissues_dseg.nii.gz",
            ),
        }

    def test_nnunet(self, tmp_path):
        touch(tmp_path, "imagesTr/b_001_0000.nii.gz", "labelsTr/b_001.nii.gz", "imagesTs/x.nii.gz")
        labels = {"background": 0, "left lung": 3, "heart": 1}
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
        mine = config(tmp_path, label_values=None)
        assert mine.outputs() == ("background", "heart", "left_lung")
        assert TissueCodes.of(mine.values()).values == ((0,), (1,), (3,))
        assert found(tmp_path, label_values=None) == {
            "b_001": ("imagesTr/b_001_0000.nii.gz", "labelsTr/b_001.nii.gz")
        }
        decathlon = {"0": "background", "3": "left lung", "1": "heart"}
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": decathlon}))
        assert config(tmp_path, label_values=None).values() == mine.values()
        touch(tmp_path, "imagesTr/b_001_0001.nii.gz")
        with pytest.raises(DataError, match=r"several channels.*dataset\.images=imagesTr"):
            found(tmp_path)
        assert len(found(tmp_path, images="imagesTr/{subject}_0001.nii.gz")) == 1

    @pytest.mark.parametrize(
        ("images", "labels"),
        [
            ("{subject}.nii.gz", "{subject}_seg.nii.gz"),
            ("{subject}_t1.nii.gz", "{subject}.nii.gz"),
            ("t1/{subject}.nii.gz", "drawn/{subject}/by_*.nii.gz"),
            ("{subject}/t[1]/{subject}.nii", "{subject}/{subject}_*.nii"),
        ],
    )
    def test_patterns(self, tmp_path, images, labels):
        for name in ("a", "b_7"):
            touch(
                *(tmp_path, *(p.format(subject=name).replace("*", "me") for p in (images, labels)))
            )
        names = {"a", "b_7"}
        assert set(found(tmp_path, images=images, labels=labels)) == names
        anywhere = config(images=f"{tmp_path}/{images}", labels=f"{tmp_path}/{labels}")
        for name, files in find_own_subjects(anywhere).items():
            assert files.image == tmp_path / images.format(subject=name)
            assert files.unfilled == tmp_path / labels.format(subject=name).replace("*", "me")

    @pytest.mark.parametrize(
        ("files", "keys", "message"),
        [
            (["scan_1.nii.gz"], {}, r"dataset.images: nothing matches .*T1w.*nearest are .*scan_1"),
            ([], {}, "holds no NIfTI file"),
            (["scans/p1_t1.nii.gz", "l/p1.nii.gz"],
             {"images": "scan/{subject}_t1.nii.gz", "labels": "l/{subject}.nii.gz"},
             r"nothing matches .*scan/\{subject\}.*nearest are .*scans/p1_t1"),
            (["i/a.nii", "i/b.nii", "l/a.nii"], {}, r"b: an image \(.*i/b.nii\), but no labels"),
            (["i/a.nii", "l/b.nii"], {}, "a: an image"),
            (["i/a.nii", "l/a.nii"], {"subjects": ["a", "c"]}, "no image of c; there are a"),
            (["s/a_1.nii", "s/a_2.nii", "l/a.nii"], {"images": "s/{subject}_*.nii"},
             r"a has 2 files for dataset.images: .*a_1.nii, .*a_2.nii"),
        ],
    )  # fmt: skip
    def test_refused(self, tmp_path, files, keys, message):
        touch(tmp_path, *files)
        if any(name.startswith(("i/", "s/")) for name in files):
            keys = {"images": "i/{subject}.nii", "labels": "l/{subject}.nii"} | keys
        with pytest.raises(DataError, match=message):
            find_own_subjects(config(tmp_path, **keys))

    def test_chosen_subjects_need_labels_others_do_not(self, tmp_path, caplog):
        touch(tmp_path, "i/a.nii", "i/b.nii", "l/a.nii", "l/c.nii")
        keys = {"images": "i/{subject}.nii", "labels": "l/{subject}.nii"}
        with caplog.at_level(logging.WARNING):
            assert list(found(tmp_path, subjects=["a"], **keys)) == ["a"]
        assert "labels but no image: c" in caplog.text

    def test_volumes_to_predict(self, tmp_path):
        touch(tmp_path, "x_0000.nii.gz", "y.nii", ".hidden.nii", "notes.txt", "deeper/z.nii")
        assert set(find_images(str(tmp_path))) == {"x", "y"}
        assert set(find_images(f"{tmp_path}/deeper/{{subject}}.nii")) == {"z"}
        touch(tmp_path, "sub-1/anat/sub-1_T1w.nii")
        assert set(find_images(str(tmp_path))) == {"sub-1"}
        with pytest.raises(DataError, match="no NIfTI file"):
            find_images(str(tmp_path / "sub-1"))

    def test_second_channels_and_our_own_labels_are_no_volumes_to_predict(self, tmp_path, caplog):
        touch(tmp_path / "a", "b_0001.nii.gz", "b_0002.nii.gz", "b_0001_tissues.nii.gz")
        assert set(find_images(str(tmp_path / "a"))) == {"b_0001", "b_0002"}
        assert set(find_images(f"{tmp_path}/a/{{subject}}.nii.gz")) == {"b_0001", "b_0002"}
        assert "passed over, as named like what is written: b_0001_tissues" in caplog.text
        assert set(find_images(f"{tmp_path}/a/{{subject}}_tissues.nii.gz")) == {"b_0001"}
        touch(tmp_path / "a", "b_0000.nii.gz")
        with pytest.raises(DataError, match=r"several channels \(b_0001\.nii\.gz\)") as caught:
            find_images(str(tmp_path / "a"))
        one, each = re.findall(r"input=(\S+\.gz)", str(caught.value))
        assert (set(find_images(one)), len(find_images(each))) == ({"b"}, 3)
        touch(tmp_path / "out", "b_tissues.nii.gz")
        with pytest.raises(DataError, match="no NIfTI file to label"):
            find_images(str(tmp_path / "out"))

    def test_a_pattern_without_matches(self, tmp_path):
        touch(tmp_path, "x.nii")
        with pytest.raises(DataError, match=r"^input: nothing matches .*nearest are"):
            find_images(f"{tmp_path}/{{subject}}_t1.nii")


class TestCodes:
    def test_classes_are_in_the_order_of_names(self):
        codes = TissueCodes.of({"wm": (250,), "background": (7, 0), "csf": (10, 11), "gm": (150,)})
        assert codes.tissues == IBSR.tissues
        data = np.array([[[0, 7, 10, 11, 150, 250]]], dtype=np.int16)
        classes = codes.classes_of(data, "labels.nii")
        assert classes.tolist() == [[[0, 0, 1, 1, 2, 3]]]
        assert codes.written(classes).tolist() == [[[7, 7, 10, 10, 150, 250]]]
        assert codes.written(classes).dtype == np.uint8
        assert str(codes) == "7 or 0 background, 10 or 11 csf, 150 gm, 250 wm"

    def test_large_values_are_written_back(self):
        codes = TissueCodes.of({"a": (14_175,)})
        assert codes.written(np.array([0, 1], np.uint8)).tolist() == [0, 14_175]

    def test_values_of_no_tissue_are_counted(self):
        codes = TissueCodes.of({"csf": (10,)})
        data = np.array([0, 10, 11, 11, 300, -4, 2**40])
        with pytest.raises(
            DataError,
            match=r"of no tissue: -4 \(1 voxels\), 11 \(2 voxels\), 300 .*expected 0 background,"
            r" 10 csf, so name them in dataset\.label_values",
        ):
            codes.classes_of(data, "labels.nii")

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"csf": 10, "gm": 10}, "10 stands twice"),
            ({"csf": 0}, "0 stands twice"),
            ({"csf": -1}, "0 to 65535"),
            ({"csf": 1.5}, "0 to 65535"),
            ({"csf": True}, "0 to 65535"),
            ({"csf": []}, "0 to 65535"),
            ({"mean": 1}, "is no name"),
            ({"grey matter": 1}, "is no name"),
            ({"background": 5}, "0 tissues"),
            (None, r"label_values=null: name the tissues"),
            ([1], r"must be \{tissue"),
        ],
    )
    def test_impossible_maps(self, tmp_path, values, message):
        with pytest.raises(ConfigError, match=message):
            config(tmp_path, label_values=values)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ({"a": [1, 2], "b": [2]}, "2 stands twice"),
            ({"a": 1, "ignore": 2}, "voxels to ignore"),
            ([1], "cannot be read as nnU-Net"),
            ({"a": "1"}, "cannot be read as nnU-Net"),
        ],
    )
    def test_impossible_nnunet_labels(self, tmp_path, labels, message):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
        with pytest.raises(ConfigError, match=message):
            config(tmp_path, label_values=None)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"folder": None}, "folder=null: give dataset.folder"),
        ({"images": "a.nii"}, r"images=a.nii: must have \{subject\}"),
        ({"split": {}, "folds": 2}, "either a split or folds"),
        ({"split": 3}, "split=3"),
        ({"folds": 3, "fold": 3}, r"fold=3: must lie in \[0, 3\)"),
        ({"folds": 3, "fold_seed": -1}, "fold_seed=-1"),
        ({"voxel_size": [1, 1]}, "voxel_size"),
        ({"voxel_size": [1, 0, 1]}, "three positive mm"),
        ({"voxel_size": [1, float("inf"), 1]}, "three positive mm"),
    ],
)
def test_impossible_settings(keys, message):
    with pytest.raises(ConfigError, match=message):
        config(**({"folder": "x"} | keys))


def test_folds_are_the_default():
    assert config("x").folds == 5
    assert config("x", split={"test": ["a"]}).folds is None


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    return tiny_brains.write_bids(tmp_path_factory.mktemp("own"))


def test_labels_stay_as_they_are(bids):
    """Unlike IBSR's configuration, which fills the brain."""
    for codes in (CODES, {"csf": 10, "other": [150, 250]}):
        cohort = read_cohort(config(bids, label_values=codes, folds=3))
        for subject in cohort.subjects:
            truth = tiny_brains.labels_of(int(subject.name[-2:]))
            classes = truth if codes is CODES else np.minimum(truth, 2)
            np.testing.assert_array_equal(subject.native_labels, classes)
        assert cohort.label_treatment == "labels as they are in their files"


def test_what_is_read_is_said(bids):
    subjects, voxels, labels = read_cohort(config(bids, folds=3, fold=1)).description()
    assert "6 subjects: train 3 (" in subjects
    assert "fold 1 (from 0) of 3" in subjects
    assert voxels == "voxels of 1×1.5×1 mm as in their files"
    assert labels.endswith("classes: 0 background, 10 csf, 150 gm, 250 wm")
    resampled = read_cohort(config(bids, voxel_size=[1.5, 1.5, 1.5])).description()[1]
    assert resampled == "voxels of 1.5×1.5×1.5 mm, resampled from 1×1.5×1 mm as in their files"


def test_every_subject_is_tested_in_one_fold(bids):
    tested = [
        read_cohort(config(bids, folds=3, fold=fold)).split.parts["test"] for fold in range(3)
    ]
    assert sorted(sum(tested, ())) == [f"sub-0{i}" for i in range(1, 7)]


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (
            {"folds": 7},
            ConfigError,
            r"dataset\.folds=7: .* at most the number of subjects, 6.*split",
        ),
        ({"split": {"test": ["sub-01"]}}, DataError, "no subject in validation"),
        ({"split": {"tests": ["sub-01"]}}, ConfigError, "must be lists of train"),
        ({"split": {"test": ["sub-01"], "validation": ["sub-09"]}}, DataError, "missing.*sub-09"),
        ({"split": {"test": ["sub-01"], "validation": ["sub-01"]}}, DataError, "stand twice"),
        ({"label_values": {"csf": 10, "wm": 250}}, DataError, r"dseg.*of no tissue: 150 \(\d+ vox"),
    ],
)
def test_what_cannot_be_split_or_read(bids, keys, error, message):
    with pytest.raises(error, match=message):
        read_cohort(config(bids, **keys))


def test_one_volume_under_two_names_is_not_trained_on_and_tested(bids, tmp_path):
    shutil.copytree(bids, tmp_path / "b")
    one, two = (tmp_path / f"b/sub-0{i}/anat/sub-0{i}_T1w.nii.gz" for i in (1, 2))
    two.write_bytes(gzip.compress(gzip.decompress(one.read_bytes()), 1))  # other bytes
    split = {"validation": ["sub-03"], "test": ["sub-01"]}
    with pytest.raises(DataError, match=r"sub-01 \(test\) and sub-02 \(train\) are one volume"):
        read_cohort(config(tmp_path / "b", split=split))


def test_a_tissue_that_none_trains_on_is_told(bids):
    more = CODES | {"lesion": 7}
    assert (
        "no subject that trains has any lesion"
        in read_cohort(config(bids, label_values=more)).description()[-1]
    )


def test_listed_subjects(bids):
    split = {"validation": ["sub-03"], "test": ["sub-01", "sub-06"]}
    cohort = read_cohort(config(bids, split=split, subjects=None))
    assert cohort.split.parts["train"] == ("sub-02", "sub-04", "sub-05")
    assert cohort.split.parts["test"] == ("sub-01", "sub-06")


@functools.cache
def composed(*more):
    return compose(
        [
            *("backbone=densenet", "block=3d", "budget=quick", "dataset=own_mri"),
            *("dataset.images=a/{subject}/t1.nii.gz", "dataset.labels=b/{subject}_*.nii.gz"),
            *more,
        ]
    )


class TestConfiguration:
    def test_classes_follow_the_tissues(self):
        made = composed("dataset.label_values={a: 1, b: 2, c: [3, 9], d: 4, background: [0, 8]}")
        assert made.backbone.classes == 5
        assert made.dataset.images == "a/{subject}/t1.nii.gz"
        assert from_plain(json.loads(json.dumps(asdict(made))), "x.ckpt") == made
        with pytest.raises(ConfigError, match=r"backbone\.classes=7.*takes 2 .*background, a"):
            composed("dataset.label_values={a: 1}", "backbone.classes=7")

    def test_the_fold_is_in_the_name(self):
        made = composed("dataset.label_values={csf: 10}")
        second = replace(made, dataset=replace(made.dataset, fold=2))
        assert run_name(asdict(second)).startswith("own_mri-densenet-3d-fold2-seed0-")
        split = replace(made, dataset=replace(made.dataset, folds=None, split={"test": ["x"]}))
        assert "fold" not in run_name(asdict(split))


def test_ibsr_and_own_data_are_found_side_by_side(bids, tmp_path):
    """The same tissues have the same classes, whichever configuration reads them."""
    assert len(find_subjects(bids.parent / "made")) == 6
    own = config(bids).outputs()
    assert IBSRConfig(name="ibsr", folder="x", split="y").outputs() == own


def test_an_ensemble_of_other_tissues_is_refused(tmp_path):
    made = composed("dataset.label_values={csf: 10}")
    for name, value in (("one", 10), ("two", 11)):
        other = replace(made, dataset=replace(made.dataset, label_values={"csf": value}))
        content = {"state_dict": {"network.x": torch.zeros(1)}, "psc_config": asdict(other)}
        torch.save(content, tmp_path / f"{name}.ckpt")
    where = {"input": "t1.nii.gz", "output": str(tmp_path / "out.nii.gz")}
    with pytest.raises(CheckpointError, match=r"two\.ckpt and .*one\.ckpt have other tissues"):
        segment_file(SegmentConfig(checkpoint=f"{tmp_path}/*.ckpt", **where))
    with pytest.raises(CheckpointError, match="nothing matches"):
        segment_file(SegmentConfig(checkpoint=f"{tmp_path}/no*.ckpt", **where))


def test_names_of_several_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.ckpt", "it's.ckpt", "fold=1.ckpt", "[x].ckpt", "1e3"):
        Path(name).touch()
    for given, names in {
        "a,b.ckpt": ["a,b.ckpt"],
        "[x].ckpt": ["[x].ckpt"],
        "['a,b.ckpt', it's.ckpt,1e3]": ["a,b.ckpt", "it's.ckpt", "1e3"],
        "[fold*.ckpt, fold=1.ckpt]": ["fold=1.ckpt"],
        "gone, too.ckpt": ["gone, too.ckpt"],  # reading it says so
    }.items():
        assert checkpoint_paths(given) == [Path(name) for name in names]
    for wrong in ("[]", "[a,,b]", "[1e3,]", "[none*]"):
        with pytest.raises(CheckpointError, match="nothing matches"):
            checkpoint_paths(wrong)
