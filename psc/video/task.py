"""Action recognition (Section 4.1): loss, optimiser and logging around a classifier."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from psc.training.task import Task
from psc.video.clips import ClipNormalisation
from psc.video.settings import VideoRecipeConfig


class ClassificationTask(Task):
    """Trains a network that maps clips to logits of classes, with cross-entropy.

    Batches are dictionaries of ``psc.video.clips``: clip uint8 (N, 3, T, H, W), label (N,); logits
    are (N, classes).

    Logged: train/loss and train/error (of the clips as they were trained on, without mixup only),
    validation/loss, validation/top1 and validation/top5, all over single clips; Figure 4a shows
    the errors.
    """

    recipe: VideoRecipeConfig

    def __init__(
        self, network: nn.Module, recipe: VideoRecipeConfig, *, classes: int, **how: Any
    ) -> None:
        super().__init__(network, recipe, **how)
        self.normalise = ClipNormalisation()
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.top1 = MulticlassAccuracy(classes, average="micro")
        self.top5 = MulticlassAccuracy(classes, average="micro", top_k=min(5, classes))

    def network_input(self, batch: dict[str, Tensor]) -> Tensor:
        """Clips, normalised, float32 (N, 3, T, H, W)."""
        clip: Tensor = self.normalise(batch["clip"])
        return clip

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy."""
        clip, label = self.network_input(batch), batch["label"]
        if self.recipe.mixup > 0:
            return self._mixed_loss(clip, label)
        logits = self(clip)
        self.train_accuracy(logits, label)
        self.log("train/error", 1 - self.train_accuracy.compute(), on_epoch=False)
        return self._loss(logits, label)

    def on_train_epoch_start(self) -> None:
        """Train/error is the running error of its epoch."""
        self.train_accuracy.reset()

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Loss and accuracy over the validation clips."""
        logits, label = self(self.network_input(batch)), batch["label"]
        size = len(label)
        self.log("validation/loss", F.cross_entropy(logits, label), batch_size=size, sync_dist=True)
        for name, metric in (("top1", self.top1), ("top5", self.top5)):
            metric(logits, label)
            self.log(f"validation/{name}", metric, on_step=False, on_epoch=True, batch_size=size)

    def _mixed_loss(self, clip: Tensor, label: Tensor) -> Tensor:
        """Mixup (Zhang et al. 2018): each clip blended with another of its batch."""
        alpha = torch.tensor(self.recipe.mixup)
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        other = torch.randperm(len(clip), device=clip.device)
        logits = self(share * clip + (1 - share) * clip[other])
        return share * self._loss(logits, label) + (1 - share) * self._loss(logits, label[other])

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, label, label_smoothing=self.recipe.label_smoothing)
