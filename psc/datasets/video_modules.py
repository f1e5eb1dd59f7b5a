"""Which clips a training sees, in which order, on which process."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from psc.config.schema import VideoRecipeConfig
from psc.datasets.action_split import ActionSplit
from psc.datasets.clips import EvaluationClips, TrainingClips
from psc.datasets.modules import EpochSampler, TrainingData, training_epochs
from psc.datasets.prepared_video import PreparedVideos


class VideoData(TrainingData):
    """Clips of prepared videos for ``psc.tasks.ClassificationTask``.

    Args:
        store: prepared videos.
        split: which of them train and validate.
        recipe: length, size and augmentation of clips; batch size.
        seed: of all clips.
        workers: processes per loader; 0 loads in the training process.
    """

    def __init__(
        self,
        store: PreparedVideos,
        split: ActionSplit,
        recipe: VideoRecipeConfig,
        *,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.recipe, self.workers = recipe, workers
        self.epochs, self.iterations_per_epoch = training_epochs(recipe)
        self.train_clips = TrainingClips(
            store,
            split.train,
            seed=seed,
            random_crop=recipe.random_crop,
            flip=recipe.flip,
            **clip_options(recipe),
        )
        self.validation_clips = EvaluationClips(
            store, split.validation, clips_per_video=recipe.validation_clips, **clip_options(recipe)
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Random clips; the sampler makes the endless sequence an epoch."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        length = self.iterations_per_epoch * self.recipe.batch_size
        sampler = EpochSampler(length, rank, world)
        return loader(self.train_clips, self.recipe.batch_size, self.workers, sampler)

    def val_dataloader(self) -> DataLoader[Any]:
        """The fixed validation clips, all of them on every process."""
        return loader(self.validation_clips, self.recipe.evaluation_batch_size, self.workers)


def clip_options(recipe: VideoRecipeConfig) -> dict[str, Any]:
    """What training and evaluation clips have in common."""
    return {
        "frames": recipe.frames,
        "stride": recipe.temporal_stride,
        "size": recipe.size,
        "shuffle_frames": recipe.shuffle_frames,
    }


def loader(
    clips: TrainingClips | EvaluationClips,
    batch_size: int,
    workers: int,
    sampler: Sampler[int] | None = None,
) -> DataLoader[dict[str, Tensor]]:
    """Batches of clips, in the order of the sampler, or of the clips."""
    return DataLoader(
        clips,  # type: ignore[arg-type]  # a TypedDict of tensors becomes a dict of them
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )
