"""From NIfTI to record and back to NIfTI: the MRI application on tiny brains, on real files."""

import csv
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tiny_brains
import torch
import yaml

from psc.applications import build_application, segment_file
from psc.config import compose
from psc.config.compose import CONFIG_DIRECTORY
from psc.config.schema import EvaluateConfig, SegmentConfig
from psc.errors import CheckpointError, ConfigError, DataError
from psc.mri.settings import IBSRConfig, OwnMRIConfig
from psc.networks.build import build_network
from psc.paper.compare import comparison_text
from psc.paper.groups import group_records
from psc.training.evaluation import evaluate_checkpoint
from psc.training.training import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory, real_pictures):
    """A finished run: record and folder of everything."""
    folder = tmp_path_factory.mktemp("tissue")
    tiny_brains.write_cohort(folder)
    with real_pictures():
        return train(tiny_brains.configuration(folder)), folder


@pytest.fixture
def checkpoint(finished):
    record, folder = finished
    return folder / "runs" / record.run / "checkpoints" / "best.ckpt"


def test_a_run_leaves_scores_and_where_they_come_from(finished):
    record, folder = finished
    run = folder / "runs" / record.run
    assert json.loads((run / "result.json").read_text())["metrics"] == record.metrics
    for part, subjects in (("validation", 1), ("test", 1)):
        scores = record.metrics[part]
        assert scores["subjects"] == subjects
        assert all(0 <= scores[f"dice_{tissue}"] <= 1 for tissue in ("csf", "gm", "wm", "mean"))
    assert set(record.metrics["subjects"]) == {"IBSR_03", "IBSR_04"}
    assert record.metrics["baseline"]["test"]["dice_wm"] > 0.8
    assert record.data["kind"] == "real"
    assert record.data["splits"]["train"] == ["IBSR_01", "IBSR_02"]
    assert set(record.data["labels"]) == {f"IBSR_0{i}" for i in range(1, 5)}
    assert len(record.data["files"]) == 8
    assert record.throughput["gflop_per_iteration"] > 0
    columns = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "validation/loss", "validation/dice_gm"} <= set(columns)
    with (run / "evaluation" / "subjects.csv").open() as file:
        rows = list(csv.DictReader(file))
    (row,) = [r for r in rows if (r["method"], r["part"]) == ("network", "test")]
    assert float(row["dice_gm"]) == pytest.approx(record.metrics["test"]["dice_gm"])
    assert len(rows) == 4  # network and baseline, validation and test
    for name in ("dice.png", "volumes.png", "IBSR_04_slices.png"):
        assert (run / "evaluation" / name).is_file()


def test_the_written_labels_are_what_was_scored_in_the_subjects_own_space(finished):
    record, folder = finished
    source = nibabel.load(folder / "brains/IBSR_04/IBSR_04_ana_strip.nii.gz")
    written = nibabel.load(folder / "runs" / record.run / "evaluation" / "IBSR_04_tissues.nii.gz")
    assert written.shape == source.shape
    assert nibabel.aff2axcodes(written.affine) == nibabel.aff2axcodes(source.affine) != tuple("RAS")
    np.testing.assert_array_equal(written.affine, source.affine)
    truth = np.asanyarray(
        nibabel.load(folder / "brains/IBSR_04/IBSR_04_segTRI_fill_ana.nii.gz").dataobj
    )
    prediction = np.asanyarray(written.dataobj)
    for tissue, value in (("csf", 1), ("gm", 2), ("wm", 3)):
        a, b = truth == value, prediction == value
        dice = 2 * (a & b).sum() / (a.sum() + b.sum())
        assert record.metrics["test"][f"dice_{tissue}"] == pytest.approx(dice)


def test_its_summary_has_dice_of_the_network_and_of_intensity_alone(finished):
    record, _ = finished
    text = comparison_text(group_records([record]))
    for scores in (record.metrics["test"], record.metrics["baseline"]["test"]):
        assert f"| {100 * scores['dice_gm']:.1f} | {100 * scores['dice_wm']:.1f} |" in text
    assert "intensity alone" in text


def test_evaluating_its_checkpoint_gives_the_same_scores(finished, checkpoint, tmp_path):
    again = evaluate_checkpoint(
        EvaluateConfig(checkpoint=str(checkpoint), output=str(tmp_path / "out"), accelerator="cpu")
    )
    assert again.metrics == finished[0].metrics


def test_a_subject_without_labels_is_segmented_as_the_evaluation_did(
    finished, checkpoint, tmp_path
):
    record, folder = finished
    output = tmp_path / "new" / "labels.nii.gz"
    config = SegmentConfig(
        checkpoint=str(checkpoint),
        input=str(folder / "brains/IBSR_04/IBSR_04_ana_strip.nii.gz"),
        output=str(output),
        accelerator="cpu",
    )
    segment_file(config)
    evaluated = folder / "runs" / record.run / "evaluation" / "IBSR_04_tissues.nii.gz"
    found, expected = nibabel.load(output), nibabel.load(evaluated)
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), np.asanyarray(expected.dataobj))
    with pytest.raises(ConfigError, match="exists; give another file"):
        segment_file(config)
    config.overwrite = True
    assert segment_file(config) == output


def test_an_ensemble_of_equal_networks_on_a_folder_is_the_network(finished, checkpoint, tmp_path):
    """What cannot be read is told at the end and stops no other."""
    record, folder = finished
    (tmp_path / "in").mkdir()
    source = folder / "brains/IBSR_04/IBSR_04_ana_strip.nii.gz"
    (tmp_path / "in/b.nii.gz").write_bytes(source.read_bytes())
    (tmp_path / "in/a.nii.gz").write_bytes(source.read_bytes()[:900])
    (tmp_path / "other.ckpt").write_bytes(checkpoint.read_bytes())
    config = SegmentConfig(
        checkpoint=f"[{checkpoint}, {tmp_path / 'other.ckpt'}]",
        input=str(tmp_path / "in"),
        output=str(tmp_path / "out"),
        accelerator="cpu",
        progress=False,
    )
    with pytest.raises(DataError, match=r"1 of 2 volumes could not be segmented.*\n.*a\.nii\.gz"):
        segment_file(config)
    evaluated = folder / "runs" / record.run / "evaluation" / "IBSR_04_tissues.nii.gz"
    found, expected = nibabel.load(tmp_path / "out/b_tissues.nii.gz"), nibabel.load(evaluated)
    np.testing.assert_array_equal(np.asanyarray(found.dataobj), np.asanyarray(expected.dataobj))


def test_own_data_of_the_same_tissues_are_evaluated_and_of_others_are_not(
    finished, checkpoint, tmp_path
):
    bids = tiny_brains.write_bids(tmp_path, subjects=4)
    own = {"name": "own_mri", "folder": str(bids)}
    split = {"validation": ["sub-03"], "test": ["sub-04"]}
    where = {"checkpoint": str(checkpoint), "output": str(tmp_path / "out"), "accelerator": "cpu"}
    lacking = OwnMRIConfig(**own, label_values={"csf": 10, "wm": [150, 250]}, split=split)
    with pytest.raises(ConfigError, match=r"own_mri has \('background', 'csf', 'wm'\), but .*gm"):
        evaluate_checkpoint(EvaluateConfig(dataset=lacking, **where))
    shuffled = {"wm": 250, "csf": 10, "gm": 150}  # classes are in the order of names all the same
    same = OwnMRIConfig(**own, label_values=shuffled, split=split)
    again = evaluate_checkpoint(EvaluateConfig(dataset=same, **where))
    scores, expected = again.metrics["test"], finished[0].metrics["test"]
    for tissue in ("csf", "gm", "wm"):  # the same labels; intensities of another scale
        assert scores[f"volume_truth_{tissue}"] == pytest.approx(expected[f"volume_truth_{tissue}"])
    written = nibabel.load(tmp_path / "out" / "sub-04_tissues.nii.gz")
    assert {10, 250} <= set(np.unique(written.dataobj)) <= {0, 10, 150, 250}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"output": "labels.png"}, ConfigError, r"name it \*.nii.gz"),
        ({"input": "missing.nii.gz"}, DataError, "missing.nii.gz"),
        ({"checkpoint": "missing.ckpt"}, CheckpointError, "missing.ckpt"),
        ({"accelerator": "tpu"}, ConfigError, "accelerator=tpu"),
    ],
)
def test_segmenting_refuses_what_cannot_work(
    finished, checkpoint, tmp_path, changes, error, message
):
    good = {
        "checkpoint": str(checkpoint),
        "input": str(finished[1] / "brains/IBSR_04/IBSR_04_ana_strip.nii.gz"),
        "output": str(tmp_path / "labels.nii.gz"),
    }
    with pytest.raises(error, match=message):
        segment_file(SegmentConfig(**(good | changes)))
    assert not list(tmp_path.iterdir())


def test_the_input_is_never_overwritten(finished, checkpoint, tmp_path):
    source = finished[1] / "brains/IBSR_04/IBSR_04_ana_strip.nii.gz"
    before = source.read_bytes()
    with pytest.raises(ConfigError, match="is the input"):
        segment_file(
            SegmentConfig(
                checkpoint=str(checkpoint), input=str(source), output=str(source), overwrite=True
            )
        )
    assert source.read_bytes() == before


def test_a_network_of_another_task_segments_no_brain(tmp_path):
    path = tmp_path / "neurons.ckpt"
    config = compose(["backbone=unet", "block=3d", "dataset=fibsem", "budget=quick"])
    torch.save({"state_dict": {"network.x": torch.zeros(1)}, "psc_config": asdict(config)}, path)
    with pytest.raises(CheckpointError, match="labels no tissues"):
        segment_file(
            SegmentConfig(
                checkpoint=str(path),
                input="brain.nii.gz",
                output=str(tmp_path / "labels.nii.gz"),
            )
        )


def test_folds_test_every_subject_once(finished):
    _, folder = finished
    tested = []
    for fold in range(4):
        config = tiny_brains.configuration(folder, folds=4, fold=fold, validation_subjects=1)
        splits = build_application(config).data_record()["splits"]
        assert len(splits["train"]) == 2
        tested += splits["test"]
    assert sorted(tested) == [f"IBSR_0{i}" for i in range(1, 5)]


def test_another_fold_of_the_same_subjects_is_refused(finished):
    folds = {"folds": 4, "validation_subjects": 1}
    one, two = (tiny_brains.configuration(finished[1], **folds, fold=k).dataset for k in (1, 2))
    split = tiny_brains.configuration(finished[1]).dataset
    assert one.fitted(replace(one, folder="elsewhere")) == one
    assert split.fitted(replace(split, split=f"elsewhere/{Path(split.split).name}")) == split
    for asked in (two, split):
        with pytest.raises(
            ConfigError, match=r"trained with dataset.folds=4 dataset.fold=1 .*same"
        ):
            asked.fitted(one)
    values = {"name": "own_mri", "folder": "f", "label_values": {"gm": 1, "wm": 2}}
    own = OwnMRIConfig(**values, fold=1)
    with pytest.raises(ConfigError, match=r"dataset.fold=1"):
        OwnMRIConfig(**values).fitted(own)
    others = OwnMRIConfig(**values, split={"validation": ["x"], "test": ["y"]})
    assert others.fitted(own) == others


def test_it_is_evaluated_on_the_grid_and_the_brain_that_it_was_trained_with():
    values = {"name": "own_mri", "folder": "f", "label_values": {"wm": 2}}
    own = OwnMRIConfig(**values, voxel_size=[2.0, 2.0, 2.0], brain_above=7.0)
    for other in (
        OwnMRIConfig(**values),
        OwnMRIConfig(**values | {"folder": "new"}, brain_above=3),
    ):
        fitted = other.fitted(own)
        assert fitted.voxel_size == own.voxel_size
        assert fitted.brain_above == (other.brain_above or own.brain_above)
    with pytest.raises(ConfigError, match=r"voxel_size=\[1.0, 1.0, 1.0\].*trained at \[2.0"):
        OwnMRIConfig(**values, voxel_size=[1.0, 1.0, 1.0]).fitted(own)
    assert own.fitted(OwnMRIConfig(**values)).voxel_size == own.voxel_size


def as_own(place, **keys):
    """The files of ``tiny_brains`` as a user's own."""
    kinds = {"images": "ana_strip", "labels": "segTRI_fill_ana"}
    paths = {k: f"{place}/{{subject}}/IBSR_*_{kind}.nii.gz" for k, kind in kinds.items()}
    return OwnMRIConfig(name="own_mri", label_values={"csf": 1, "gm": 2, "wm": 3}, **paths, **keys)


@pytest.fixture
def evaluate(checkpoint, tmp_path):
    """Function: the record of its evaluation on other data."""

    def evaluated(dataset, path=checkpoint):
        output = str(tmp_path / "evaluation")
        return evaluate_checkpoint(
            EvaluateConfig(checkpoint=str(path), dataset=dataset, output=output, accelerator="cpu")
        )

    return evaluated


@pytest.mark.parametrize(
    ("part", "names", "refused"),
    [
        ("test", ["d", "a"], "a"),  # trained
        ("test", ["c"], "c"),  # chose
        ("validation", ["b"], "b"),
    ],
)
def test_subjects_that_trained_are_not_tested_whatever_they_are_called(
    finished, evaluate, tmp_path, part, names, refused
):
    for number, name in enumerate("abcd", 1):
        shutil.copytree(finished[1] / f"brains/IBSR_0{number}", tmp_path / "renamed" / name)
    split = {"validation": ["c"], "test": ["d"]} | {part: names}
    if "c" in split["test"]:
        split["validation"] = ["d"]
    with pytest.raises(DataError, match=f"own_mri: {refused} of the {part} part trained .*best"):
        evaluate(as_own(tmp_path / "renamed", split=split))


def test_weights_that_were_trained_on_a_test_subject_begin_no_training(
    finished, checkpoint, tmp_path
):
    for number in (5, 6, 7):
        tiny_brains.write_subject(tmp_path / "new", number)
    config = tiny_brains.configuration(finished[1])
    config.initial_weights, config.output_directory = str(checkpoint), str(tmp_path)
    config.recipe.iterations = 1
    split = {"validation": ["IBSR_06"], "test": ["IBSR_07"]}
    config.dataset = as_own(tmp_path / "new", split=split)
    record = train(config)
    config.initial_weights = str(tmp_path / record.run / "checkpoints/last.ckpt")
    split = {"validation": ["IBSR_03"], "test": ["IBSR_02"]}  # which trained the first network
    config.dataset = as_own(finished[1] / "brains", split=split)
    with pytest.raises(DataError, match=r"IBSR_02 of the test part trained .*last\.ckpt"):
        train(config)


def test_new_subjects_are_tested_and_the_record_says_who_trained(finished, evaluate, tmp_path):
    for number in (5, 6, 7):
        tiny_brains.write_subject(tmp_path / "new", number)
    record = evaluate(as_own(tmp_path / "new", folds=3, fold=1))
    splits = record.data["splits"]
    assert splits["train"] == []
    assert len(splits["test"]) == len(splits["validation"]) == 1
    assert len(record.data["files"]) == 4
    trained = {"train": ["IBSR_01", "IBSR_02"], "validation": ["IBSR_03"]}
    assert record.data["trained_on"] == {"dataset": "ibsr", "description": "tiny", **trained}


def test_a_checkpoint_that_does_not_say_what_trained_it_says_so(
    finished, checkpoint, evaluate, tmp_path, caplog
):
    content = torch.load(checkpoint, weights_only=True)
    del content["psc_seen"]
    torch.save(content, tmp_path / "earlier.ckpt")
    split = {"validation": ["IBSR_03"], "test": ["IBSR_04"]}
    own = as_own(finished[1] / "brains", split=split)
    evaluate(own, tmp_path / "earlier.ckpt")
    assert "earlier.ckpt does not say what it was trained on" in caplog.text


def test_resampled_subjects_are_scored_on_their_own_grid(finished):
    _, folder = finished
    config = tiny_brains.configuration(folder, voxel_size=[1.25, 1.25, 1.25])
    application = build_application(config)
    network = build_network(config.backbone, config.block).eval()
    output = folder / "resampled"
    metrics = application.evaluate(network, output, device=torch.device("cpu"), source={})
    written = nibabel.load(output / "IBSR_04_tissues.nii.gz")
    assert written.shape == nibabel.load(folder / "brains/IBSR_04/IBSR_04_ana_strip.nii.gz").shape
    volume = sum(metrics["subjects"]["IBSR_04"][f"volume_truth_{t}"] for t in ("csf", "gm", "wm"))
    assert volume == pytest.approx((tiny_brains.labels_of(4) > 0).sum() * 1.5 / 1000)


def as_unfilled(folder, number):
    """A subject's labels as those of the unfilled kind: without the fluid around the brain."""
    path = folder / f"brains/IBSR_{number:02d}/IBSR_{number:02d}_segTRI_fill_ana.nii.gz"
    volume = nibabel.load(path)
    labels = np.asanyarray(volume.dataobj).copy()
    radius = np.indices(labels.shape[:3]).T - (np.array(labels.shape[:3]) - 1) / 2
    outer = np.linalg.norm(radius, axis=-1).T > 4
    removed = (labels[..., 0] == 1) & outer
    labels[removed] = 0
    unfilled = path.with_name(path.name.replace("_fill", ""))
    nibabel.save(nibabel.Nifti1Image(labels, None, volume.header), unfilled)
    path.unlink()
    return int(removed.sum())


def test_filling_is_said_before_anything_is_trained(tmp_path):
    tiny_brains.write_cohort(tmp_path)
    removed = [as_unfilled(tmp_path, number) for number in range(1, 5)]
    assert min(removed) > 300
    application = build_application(tiny_brains.configuration(tmp_path))
    said = f"{sum(removed):,} unlabelled brain voxels of 4 of 4 subjects became CSF"
    assert f"{said} (dataset.labels=filled)" in application.reads()[-1]
    kinds = application.data_record()["labels"]
    for number, count in enumerate(removed, 1):
        assert f"; {count} unlabelled brain voxels became CSF" in kinds[f"IBSR_0{number}"]
    for labels in ("given", "unfilled"):
        application = build_application(tiny_brains.configuration(tmp_path, labels=labels))
        record = application.data_record()
        assert record["labels"]["IBSR_01"] == f"{labels} (IBSR_01_segTRI_ana.nii.gz)"
        assert application.reads()[-1].startswith("labels as they are in their files")


def test_labels_stay_as_they_are_unless_a_data_set_asks_for_more():
    assert IBSRConfig.labels == "given"
    for name in ("ibsr", "ibsr_sample", "ibsr_synthetic"):
        text = (CONFIG_DIRECTORY / "dataset" / f"{name}.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(text)["labels"] == "filled"


def test_a_background_that_is_not_zero_changes_no_prediction(finished, checkpoint, tmp_path):
    """Nor does the key, given to the command."""
    source = finished[1] / "brains/IBSR_04/IBSR_04_ana_strip.nii.gz"
    volume = nibabel.load(source)
    clean = np.asanyarray(volume.dataobj).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 1e-4, clean.shape)
    predictions = []
    for name, data, above in (
        ("clean", clean, None),
        ("noisy", np.where(clean == 0, noise, clean), None),
        ("keyed", np.where(clean == 0, noise, clean), 0.5),
    ):
        path = tmp_path / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), volume.affine), path)
        config = SegmentConfig(
            checkpoint=str(checkpoint),
            input=str(path),
            output=str(tmp_path / f"{name}_labels.nii.gz"),
            accelerator="cpu",
            brain_above=above,
        )
        predictions.append(np.asanyarray(nibabel.load(segment_file(config)).dataobj))
    np.testing.assert_array_equal(predictions[1], predictions[0])
    np.testing.assert_array_equal(predictions[2], predictions[0])


def test_wrong_labels_and_none_are_refused_before_training(tmp_path):
    tiny_brains.write_cohort(tmp_path)
    labels = tiny_brains.labels_of(2)
    for value in (4, -1):
        wrong = np.where(labels == 3, value, labels)
        tiny_brains.write_subject(tmp_path / "brains", 2, labels=wrong)
        with pytest.raises(DataError, match=rf"IBSR_02_segTRI_fill_ana.nii.gz.* {value}\b"):
            build_application(tiny_brains.configuration(tmp_path))
    (tmp_path / "brains/IBSR_01/IBSR_01_segTRI_fill_ana.nii.gz").unlink()
    with pytest.raises(DataError, match=r"IBSR_01.*label"):
        build_application(tiny_brains.configuration(tmp_path))


def as_lesions(folder, *numbers):
    """Subjects that have a lesion, of four; the others' label files hold no label."""
    for number in range(1, 5):
        labels = tiny_brains.labels_of(number)
        tiny_brains.write_subject(folder, number, labels=labels)
        path = folder / f"IBSR_{number:02d}/IBSR_{number:02d}_segTRI_fill_ana.nii.gz"
        volume = nibabel.load(path)
        lesion = (np.asanyarray(volume.dataobj) == 3) * (number in numbers)
        nibabel.save(nibabel.Nifti1Image(lesion.astype(np.uint8), volume.affine), path)
    names = {"validation": ["IBSR_03"], "test": ["IBSR_04"]}
    dataset = replace(as_own(folder, split=names), label_values={"lesion": 1})
    config = tiny_brains.configuration(folder)
    return replace(config, dataset=dataset, backbone=replace(config.backbone, classes=2))


@pytest.mark.parametrize("with_lesion", [(1,), (2, 3)])
def test_subjects_without_a_lesion_are_trained_and_tested_on(tmp_path, with_lesion, real_pictures):
    with real_pictures():
        config = as_lesions(tmp_path, *with_lesion)
        config.recipe.loss = "dice_cross_entropy"
        record = train(config)
    subjects = record.metrics["subjects"]
    assert record.metrics["test"]["subjects"] == 1
    invented = subjects["IBSR_04"]["volume_predicted_lesion"] > 0
    assert subjects["IBSR_04"]["dice_lesion"] == (0 if invented else None)  # as nnU-Net's
    assert subjects["IBSR_04"]["volume_truth_lesion"] == 0
    said = build_application(config).reads()[-1]
    without = [f"IBSR_0{i}" for i in (1, 2, 3, 4) if i not in with_lesion]
    assert sorted(said.removeprefix("no voxel is labelled of ").split(", ")) == without


def test_lesions_that_none_has_who_trains_are_refused_before_training(tmp_path):
    with pytest.raises(DataError, match=r"no subject that trains has any lesion.*dataset\.split"):
        train(as_lesions(tmp_path, 3, 4))


def test_phantoms_and_recordings_are_not_confused(tmp_path):
    tiny_brains.write_cohort(tmp_path)
    config = tiny_brains.configuration(tmp_path, synthetic=None)
    assert build_application(config).data_record()["kind"] == "real"
    path = tmp_path / "brains/IBSR_03/IBSR_03_ana_strip.nii.gz"
    volume = nibabel.load(path)
    volume.header["descrip"] = b"psc synthetic phantom, seed 0"
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(volume.dataobj), None, volume.header), path)
    with pytest.raises(DataError, match="is a phantom"):
        build_application(config)
