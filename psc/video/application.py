"""Action recognition from video (Section 4.1)."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from psc.config.schema import TrainConfig
from psc.errors import ConfigError
from psc.files import locate, locked
from psc.training.application import Application
from psc.training.data import TrainingData, loader
from psc.training.records import REAL, SAMPLE, SYNTHETIC
from psc.video.clips import EvaluationClips, TrainingClips
from psc.video.data import ActionSplit, read_split
from psc.video.preparation import prepare_videos
from psc.video.settings import UCF101Config, VideoRecipeConfig
from psc.video.store import PreparationSettings, PreparedVideos
from psc.video.synthetic import write_synthetic_videos
from psc.video.task import ClassificationTask
from psc.video.testing import evaluate_videos


class VideoApplication(Application):
    """Reads prepared videos and the official split, trains on clips, tests on whole videos."""

    measures = ("train/error", "validation/top1", "validation/top5")

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        if not isinstance(config.dataset, UCF101Config):
            raise ConfigError(f"dataset={config.dataset.name} cannot be read as videos")
        assert isinstance(config.recipe, VideoRecipeConfig)  # psc.config.checks
        self._dataset, self._recipe = config.dataset, config.recipe
        self._clip_options: dict[str, Any] = {
            "frames": config.recipe.frames,
            "stride": config.recipe.temporal_stride,
            "size": config.recipe.size,
            "shuffle_frames": config.recipe.shuffle_frames,
        }
        settings = PreparationSettings(short_side=config.dataset.short_side)
        prepared = locate(config.dataset.prepared)
        if config.dataset.prepare:
            # One run at a time: those of a sweep that start together wait for the first.
            with locked(prepared.with_name(f".{prepared.name}.preparation")):
                _prepare(config.dataset, prepared, settings)
        self._store = PreparedVideos(prepared, settings)
        self._split = _read_split(config.dataset, self._store)
        classes = getattr(config.backbone, "classes", None)
        if classes != len(self._split.classes):  # a checkpoint's network, on another data set
            raise ConfigError(
                f"the network has {classes} classes, {self._split.description} has"
                f" {len(self._split.classes)}; use the data set that it was trained for"
            )

    def training_data(self, network: nn.Module, workers: int) -> TrainingData:
        """Random clips, and fixed ones to validate on."""
        recipe = self._recipe
        return TrainingData(
            TrainingClips(
                self._store,
                self._split.train,
                seed=self.config.seed,
                random_crop=recipe.random_crop,
                flip=recipe.flip,
                **self._clip_options,
            ),
            EvaluationClips(
                self._store,
                self._split.validation,
                clips_per_video=recipe.validation_clips,
                **self._clip_options,
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
            clips = EvaluationClips(
                self._store,
                videos,
                clips_per_video=self._recipe.test_clips,
                seed=self.config.seed,
                **self._clip_options,
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

    def data_record(self) -> dict[str, Any]:
        """Kind, split and the prepared store."""
        store = self._store.record()
        kind = SYNTHETIC if store["synthetic"] else SAMPLE if self._dataset.sample else REAL
        return {
            "kind": kind,
            "splits": self._split.record(),
            "files": [{"name": str(self._dataset.prepared), **store}],
        }


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
