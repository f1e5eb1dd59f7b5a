"""Brains of a few thousand voxels as NIfTI files: nested balls in IBSR's names and labels."""

import copy
import functools
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import yaml

from psc.config import compose

SHAPE = (22, 18, 24)
ORIENTATIONS = ("RAS", "LAS", "PSR")
CODES = {"csf": 10, "gm": 150, "wm": 250}
"""Values of labels that are a user's own."""


def labels_of(number):
    """Background, fluid around and in the middle, grey and white shells; differs by subject."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij"))
    radius = np.linalg.norm(grid, axis=0) + 0.1 * number
    labels = np.zeros(SHAPE, dtype=np.int16)
    for limit, tissue in ((8.5, 1), (7.5, 2), (5.0, 3), (1.5, 1)):
        labels[radius < limit] = tissue
    return labels


def write_subject(folder, number, *, labels=None, scale=1.0, voxel_size=(1.0, 1.5, 1.0)):
    """One subject in its own orientation; returns its labels in RAS order."""
    rng = np.random.default_rng(number)
    labels = labels_of(number) if labels is None else labels
    means = np.array([0, 45, 70, 95])
    image = scale * (means[np.clip(labels, 0, 3)] + rng.normal(0, 4, SHAPE) * (labels != 0))
    stored = np.where(labels != 0, np.maximum(np.rint(image), 1), 0).astype(np.int16)
    affine = np.diag([*voxel_size, 1.0])
    affine[:3, 3] = (-10, -12, -9)
    folder = Path(folder) / f"IBSR_{number:02d}"
    folder.mkdir(parents=True, exist_ok=True)
    codes = ORIENTATIONS[number % len(ORIENTATIONS)]
    for ending, values in (("ana_strip", stored), ("segTRI_fill_ana", labels.astype(np.int16))):
        volume = nibabel.Nifti1Image(values, affine)
        turn = nibabel.orientations.ornt_transform(
            nibabel.orientations.io_orientation(affine),
            nibabel.orientations.axcodes2ornt(codes),
        )
        turned = volume.as_reoriented(turn)
        four = nibabel.Nifti1Image(np.asanyarray(turned.dataobj)[..., None], turned.affine)
        four.header.set_xyzt_units("mm")
        nibabel.save(four, folder / f"{folder.name}_{ending}.nii.gz")
    return labels


def write_bids(folder, subjects=6, codes=CODES):
    """Tiny brains in BIDS's layout, labels in a user's values, one of three orientations each."""
    for number in range(1, subjects + 1):
        write_subject(folder / "made", number)
        name = f"sub-{number:02d}"
        for role, place, suffix in (
            ("ana_strip", f"{name}/anat", "T1w"),
            ("segTRI_fill_ana", f"derivatives/drawn/{name}/anat", "dseg"),
        ):
            made = nibabel.load(folder / f"made/IBSR_{number:02d}/IBSR_{number:02d}_{role}.nii.gz")
            values = np.asanyarray(made.dataobj)[..., 0]
            if suffix == "dseg":
                values = np.array([0, *codes.values()], dtype=np.int16)[values]
            (folder / "bids" / place).mkdir(parents=True)
            path = folder / "bids" / place / f"{name}_{suffix}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(values, made.affine), path)
    return folder / "bids"


def write_cohort(folder, subjects=4):
    """Subjects 1 to ``subjects`` of different intensity scales, and a split; returns its path."""
    for number in range(1, subjects + 1):
        write_subject(folder / "brains", number, scale=(1.0, 8.0, 0.8)[number % 3])
    names = [f"IBSR_{number:02d}" for number in range(1, subjects + 1)]
    split = folder / "split.yaml"
    content = {
        "description": "tiny",
        "train": names[:-2],
        "validation": names[-2:-1],
        "test": names[-1:],
    }
    split.write_text(yaml.safe_dump(content))
    return split


def overrides(folder, *more):
    """A run on them that takes seconds."""
    return [
        "backbone=densenet",
        "block=p2sc2",
        "budget=quick",
        "dataset=ibsr",
        f"dataset.folder={folder}/brains",
        f"dataset.split={folder}/split.yaml",
        "backbone.initial_channels=8",
        "backbone.growth=4",
        "backbone.layers_per_block=2",
        "backbone.dense_blocks=2",
        "recipe.iterations=4",
        "recipe.validate_every=2",
        "recipe.batch_size=2",
        "recipe.patch_size=16",
        "recipe.validation_patches=2",
        "trainer.accelerator=cpu",
        "trainer.progress_bar=false",
        f"output_directory={folder}/runs",
        *more,
    ]


@functools.cache
def _composed():
    return compose(overrides("anywhere"))


def configuration(folder, **dataset):
    """What ``overrides`` make, composed once a process; ``dataset``: other values of its keys."""
    config = copy.deepcopy(_composed())
    config.output_directory = f"{folder}/runs"
    place = {"folder": f"{folder}/brains", "split": f"{folder}/split.yaml"}
    config.dataset = replace(config.dataset, **(place | dataset))
    return config
