"""Action recognition from video (Section 4.1)."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from psc.config.schema import TrainConfig
from psc.errors import ConfigError, DataError, first_of
from psc.files import WORKPLACE, locate, locked
from psc.training.application import Application
from psc.training.data import TrainingData, loader
from psc.training.records import kind_of
from psc.video.clips import EvaluationClips, TrainingClips
from psc.video.data import ActionSplit, read_split
from psc.video.decoding import UNMEASURED
from psc.video.listing import Listing, check_sides, list_clips, split_clips
from psc.video.preparation import prepare_clips, prepare_videos
from psc.video.settings import OwnVideoConfig, UCF101Config, VideoRecipeConfig
from psc.video.store import PreparationSettings, PreparedVideos
from psc.video.synthetic import write_synthetic_videos
from psc.video.task import ClassificationTask
from psc.video.testing import evaluate_videos


class VideoApplication(Application):
    """Reads prepared videos and a split, trains on clips, tests on whole videos."""

    test_others = "leave them out, or give the split that it was trained with"

    measures = ("train/error", "validation/top1", "validation/top5")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        dataset = config.dataset
        if not isinstance(dataset, UCF101Config | OwnVideoConfig):
            raise ConfigError(f"dataset={dataset.name} cannot be read as videos")
        assert isinstance(config.recipe, VideoRecipeConfig)  # psc.config.checks
        self._dataset, self._recipe = dataset, config.recipe
        self._said: list[str] = []
        if isinstance(dataset, OwnVideoConfig):
            self._store, self._split = self._read_own(dataset)
        else:
            settings = PreparationSettings(short_side=dataset.short_side)
            prepared = locate(dataset.prepared)
            if dataset.prepare:
                # One run at a time: those of a sweep that start together wait for the first.
                with locked(prepared.with_name(f".{prepared.name}.preparation")):
                    _prepare(dataset, prepared, settings)
            self._store = PreparedVideos(prepared, settings)
            self._split = _read_split(dataset, self._store)
        classes = getattr(config.backbone, "classes", None)
        if classes != len(self._split.classes):  # a checkpoint's network, on another data set
            raise ConfigError(
                f"the network has {classes} classes, {self._split.description} has"
                f" {len(self._split.classes)}; use the data set that it was trained for"
            )

    def _read_own(self, dataset: OwnVideoConfig) -> tuple[PreparedVideos, ActionSplit]:
        """List, split and prepare a user's clips; what is to be said of it is noted."""
        classes = dataset.outputs()
        found = list_clips(
            dataset.folder, dataset.csv, classes=classes, allow_missing=dataset.allow_missing
        )
        split, notes = split_clips(found, classes, shares=dataset.shares, seed=dataset.split_seed)
        store = _prepare_own(dataset, found, quiet=not self.config.trainer.progress_bar)
        names = [clip.name for clip in found.clips]
        videos = {name: store.videos[name] for name in names if name in store.videos}
        unreadable = [f"{n}: {store.unreadable[n].reason}" for n in names if n not in videos]
        if not videos:
            raise DataError(f"{found.where}: no clip can be read: {first_of(unreadable, 3)}")
        readable = split.only_present(videos, allow_missing=True)
        why = f", as {len(unreadable)} cannot be read ({unreadable[0]})" if unreadable else ""
        check_sides(readable, why)
        counts = Counter(clip.label for clip in found.clips if clip.name in videos)
        lengths = sorted(video.frames for video in videos.values())
        span = (self._recipe.frames - 1) * self._recipe.temporal_stride + 1
        self._said = [
            f"read: {found.where}: {len(videos)} clips of {lengths[0]} to {lengths[-1]} frames,"
            f" {len(counts)} classes: {first_of([f'{c} {n}' for c, n in sorted(counts.items())])}"
        ]
        for listed, what in (
            (found.left_out, "left out, no clips of a class"),
            ([clip.name for clip in found.missing], "left out, listed but not there"),
            (unreadable, "left out, cannot be read"),
            ([n for n, v in videos.items() if v.concealed], "frames are broken or without picture"),
            ([n for n, v in videos.items() if v.unmeasured], UNMEASURED),
            ([n for n, v in videos.items() if v.frames < span], f"looped, shorter than {span}"),
            (_copies(readable, store), "one file in two parts or classes, which spoils scores"),
        ):
            if listed:
                self._said.append(f"read: {what}: {len(listed)} ({first_of(listed, 3)})")
        parts = ", ".join(f"{name} {len(part)}" for name, part in readable.parts.items())
        self._said.append(f"split: {parts}; {split.description}")
        self._said += [f"split: {note}" for note in notes]
        self._said.append(f"decoded clips are kept in {store.folder} (dataset.prepared)")
        return store, readable

    def training_data(self, network: nn.Module, workers: int) -> TrainingData:
        """Random clips, and fixed ones to validate on."""
        recipe = self._recipe
        if not self._split.parts["train"]:
            raise DataError(
                f"{self._split.description}: no clip to train on (evaluate.py tests a trained"
                " network); change dataset.shares, or the parts that the files say"
            )
        return TrainingData(
            TrainingClips(
                self._store,
                self._split.parts["train"],
                seed=self.config.seed,
                random_crop=recipe.random_crop,
                flip=recipe.flip,
                **self._recipe.clip_options,
            ),
            EvaluationClips(
                self._store,
                self._split.parts["validation"],
                clips_per_video=recipe.validation_clips,
                **self._recipe.clip_options,
            ),
            recipe,
            workers=workers,
            validation_batch_size=recipe.evaluation_batch_size,
        )

    def task(self, network: nn.Module, iterations: int) -> ClassificationTask:
        """Cross-entropy over clips."""
        return ClassificationTask(
            network,
            self._recipe,
            classes=len(self._split.classes),
            iterations=iterations,
            channels_last=self.config.trainer.channels_last,
        )

    def evaluate(
        self, network: nn.Module, folder: Path, *, device: torch.device, source: dict[str, str]
    ) -> dict[str, Any]:
        """Accuracy over validation and test videos; the test's predictions go into ``folder``."""
        del source  # the files are tables of the record's own run
        metrics = {}
        for part in ("validation", "test"):
            videos = self._split.parts[part]
            if not videos:  # of a user's, who only evaluates
                continue
            clips = EvaluationClips(
                self._store,
                videos,
                clips_per_video=self._recipe.test_clips,
                seed=self.config.seed,
                **self._recipe.clip_options,
            )
            metrics[part] = evaluate_videos(
                network,
                loader(clips, self._recipe.evaluation_batch_size, workers=0),
                videos,
                self._split.classes,
                device=device,
                folder=folder if part == "test" else None,
            )
        return metrics

    def fingerprints(self, part: str) -> dict[str, str]:
        """Of each video's file."""
        return {self._store.videos[v.key].sha256: v.name for v in self._split.parts[part]}

    def without_training(self) -> None:
        """The clips that neither choose nor are tested are let go."""
        self._split = replace(self._split, parts={**self._split.parts, "train": ()})

    def reads(self) -> list[str]:
        """Of a user's clips: how many there are of what, what was left out, and the parts."""
        return self._said

    def data_record(self) -> dict[str, Any]:
        """Kind, split and the prepared store."""
        own = isinstance(self._dataset, OwnVideoConfig)
        if isinstance(self._dataset, OwnVideoConfig):
            listed = {video.key for part in self._split.parts.values() for video in part}
            name, store = self._split.description, self._store.record(listed)
        else:
            name, store = str(self._dataset.prepared), self._store.record()
        kind = kind_of(self._dataset, synthetic=store["synthetic"], own=own)
        return {"kind": kind, "splits": self._split.record(), "files": [{"name": name, **store}]}


def _prepare_own(dataset: OwnVideoConfig, found: Listing, *, quiet: bool) -> PreparedVideos:
    """The store of a user's clips, brought up to date."""
    if dataset.prepared is None:
        root = found.root.resolve()
        number = hashlib.sha256(str(root).encode()).hexdigest()[:8]
        prepared = WORKPLACE / f"data/own_video/{root.name}-{number}-{dataset.short_side}"
    else:
        prepared = locate(dataset.prepared)
    paths = {clip.name: clip.path for clip in found.clips}
    settings = PreparationSettings(short_side=dataset.short_side)
    with (
        tqdm(desc="preparing", total=len(paths), unit="clip", delay=1, disable=quiet) as bar,
        locked(prepared.with_name(f".{prepared.name}.preparation")),
    ):
        prepare_clips(
            paths,
            found.root,
            prepared,
            settings,
            on_progress=lambda done, _: bar.update(done - bar.n),
        )
    return PreparedVideos(prepared, settings)


def _copies(split: ActionSplit, store: PreparedVideos) -> list[str]:
    """Clips whose very bytes stand in another part or class, too."""
    first: dict[str, tuple[str, int, str]] = {}
    found = []
    for part, videos in split.parts.items():
        for video in videos:
            own = part, video.label, video.name
            one = first.setdefault(store.videos[video.key].sha256, own)
            if one[:2] != own[:2]:
                found.append(f"{one[2]} and {video.name}")
    return found


def _prepare(config: UCF101Config, prepared: Path, settings: PreparationSettings) -> None:
    """Write synthetic films where they are wanted, and bring the store up to date."""
    videos = locate(config.videos)
    if config.synthetic is not None:
        write_synthetic_videos(videos.parent, config.synthetic)
    # In this process: others would import the caller's main program, whatever that is.
    prepare_videos(videos, prepared, settings)


def _read_split(config: UCF101Config, store: PreparedVideos) -> ActionSplit:
    split = read_split(
        locate(config.lists), config.split, validation_groups=config.validation_groups
    )
    split = split.only_present(
        store.videos.keys(),
        allow_missing=config.allow_missing,
        unreadable={key: video.reason for key, video in store.unreadable.items()},
    )
    if config.shared_classes_only:
        split = split.only_shared_classes()
    if len(split.classes) != config.classes:
        raise ConfigError(
            f"dataset.classes={config.classes}, but dataset={config.name} has "
            f"{len(split.classes)} classes; set dataset.classes={len(split.classes)}"
        )
    return split
