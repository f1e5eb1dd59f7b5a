"""Affinity prediction (Section 4.3): losses, and the task around a network.

Stage 2 of the published training is MALIS: squared errors weighted by the pairs of voxels that they
decide (``psc.em.malis``). An affinity that joins many pairs of one object must rise, one that joins
many pairs of different objects must fall. The weights are constants to the gradient: which edge is
a pair's maximin edge does not change with small changes of the affinities.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from psc.em.malis import VoxelGraph, pair_weights
from psc.em.settings import MALIS_NORMALIZATIONS, AffinityRecipeConfig
from psc.errors import ConfigError, DataError
from psc.training.task import Task

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

FRACTION_BOUNDS = (0.01, 0.99)
"""Clipping of a patch's fraction of positive affinities (published training of Funke et al.)."""


def balanced_weights(affinities: Tensor, mask: Tensor) -> Tensor:
    """Class weights per patch: 1/(2f) for affinity 1 and 1/(2(1−f)) for affinity 0.

    f is the fraction of positive affinities among a patch's known ones, all channels together,
    clipped to [0.01, 0.99] (published stage 1). All are (N, C, D, H, W); 0 where unknown.
    """
    axes = (1, 2, 3, 4)
    known = mask.float()
    positive = (affinities * known).sum(axes, keepdim=True)
    fraction = (positive / known.sum(axes, keepdim=True).clamp(min=1)).clamp(*FRACTION_BOUNDS)
    weights = torch.where(affinities > 0.5, 0.5 / fraction, 0.5 / (1 - fraction))
    return weights * known


def _squared_error(logits: Tensor, affinities: Tensor) -> Tensor:
    return (torch.sigmoid(logits) - affinities) ** 2


def _cross_entropy(logits: Tensor, affinities: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, affinities, reduction="none")


def _mean(error: Callable[[Tensor, Tensor], Tensor], *, balanced: bool) -> Loss:
    def loss(logits: Tensor, affinities: Tensor, mask: Tensor) -> Tensor:
        # In float32 whatever the network ran in: a mean over 10^5 voxels needs more than 8 bits.
        affinities = affinities.float()
        weights = balanced_weights(affinities, mask) if balanced else mask.float()
        total = (weights * error(logits.float(), affinities)).sum()
        return total / mask.sum().clamp(min=1)

    return loss


LOSSES: dict[str, Loss] = {
    "balanced_squared_error": _mean(_squared_error, balanced=True),
    "balanced_cross_entropy": _mean(_cross_entropy, balanced=True),
    "squared_error": _mean(_squared_error, balanced=False),
    "cross_entropy": _mean(_cross_entropy, balanced=False),
}
"""Name → loss(logits (N, C, D, H, W), affinities, mask): mean over known affinities, a scalar.

``balanced_squared_error`` is the published stage 1. A patch without known affinities gives 0.
"""


def malis_loss(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, normalization: str = "counted"
) -> Tensor:
    """Constrained MALIS with squared error, mean over the batch (Funke et al. 2018).

    Per sample Σ w⁺(1 − a)² + Σ w⁻a² over the edges inside, with a the sigmoid of a logit (N, 3, D,
    H, W) and w the fractions of pairs that ``constrained_counts`` gives the edge, with labels
    (N, D, H, W) and a mask (N, 3, D, H, W) as it has them. A scalar, float32 (float64 for such
    logits); 0 for samples without pairs.
    """
    # In float32 whatever the network ran in: bf16 has 256 steps between 0.5 and 1, and many ties.
    affinities = torch.sigmoid(logits if logits.dtype == torch.float64 else logits.float())
    loss: Tensor = MalisLoss.apply(affinities, labels, mask, normalization)
    return loss


class MalisLoss(torch.autograd.Function):
    """``malis_loss`` of affinities: ``MalisLoss.apply(affinities, labels, mask, normalization)``.

    Affinities are float32 or float64 in [0, 1]; only they get a gradient.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        affinities: Tensor,
        labels: Tensor,
        mask: Tensor | None,
        normalization: str,
    ) -> Tensor:
        """The loss; its gradient is kept, so that nothing else of the weights need be."""
        positive, negative = malis_weights(affinities, labels, mask, normalization=normalization)
        samples = len(affinities)
        ctx.save_for_backward(2 / samples * (negative * affinities - positive * (1 - affinities)))
        loss: Tensor = (positive * (1 - affinities) ** 2 + negative * affinities**2).sum() / samples
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Gradient of the affinities."""
        (of_affinities,) = ctx.saved_tensors
        return gradient * of_affinities, None, None, None


def malis_weights(
    affinities: Tensor, labels: Tensor, mask: Tensor | None = None, *, normalization: str
) -> Tensor:
    """Fractions of the positive and of the negative pairs that each edge decides.

    Counted on the CPU, in as many threads as PyTorch uses, without the GIL: the two passes of all
    samples run at once. From a GPU each sample is copied without waiting for the next. Returns
    (2, N, 3, D, H, W), positive then negative, of the affinities' device and dtype.
    """
    if normalization not in MALIS_NORMALIZATIONS:
        raise ConfigError(
            f"normalization must be one of {', '.join(MALIS_NORMALIZATIONS)}; found"
            f" {normalization!r}"
        )
    sizes = {len(part) for part in (affinities, labels, mask) if part is not None}
    if len(sizes) > 1:
        raise DataError(f"affinities, labels and mask are of {sizes} samples; give as many of each")
    on_gpu = affinities.is_cuda
    weights = torch.empty((2, *affinities.shape), dtype=torch.float32, pin_memory=on_gpu)
    reads = [
        _begin_reading(affinities[n], labels[n], None if mask is None else mask[n])
        for n in range(len(affinities))
    ]

    def count(task: tuple[int, int]) -> None:
        side, n = task
        graph = graphs[n]
        counts = graph.negative_counts() if side else graph.positive_counts()
        pairs = graph.labelled_pairs()[side] if normalization == "labelled" else None
        weights[side, n] = torch.from_numpy(pair_weights(counts, pairs))

    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="malis") as pool:
        graphs = list(pool.map(lambda read: read(), reads))
        tasks = [(side, n) for n in range(len(graphs)) for side in (0, 1)]
        list(pool.map(count, tasks))
    return weights.to(affinities.device, affinities.dtype, non_blocking=on_gpu)


def _begin_reading(
    affinities: Tensor, labels: Tensor, mask: Tensor | None
) -> Callable[[], VoxelGraph]:
    """Start the copy of a sample to the CPU; what is returned waits for it."""
    tensors = [affinities.detach().float(), labels, *([] if mask is None else [mask])]
    # Only CUDA has events to wait for; elsewhere the copy itself must wait.
    copies = [tensor.to("cpu", non_blocking=tensor.is_cuda) for tensor in tensors]
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    events = [torch.cuda.current_stream(device).record_event() for device in devices]

    def wait() -> VoxelGraph:
        for event in events:
            event.synchronize()
        return VoxelGraph.of(*(copy.numpy() for copy in copies))

    return wait


class AffinityTask(Task):
    """Trains a network that maps raw EM (N, 1, D, H, W) to logits of affinities (N, C, d, h, w).

    The loss is over all C offsets of the recipe; MALIS is of the three nearest neighbours alone.
    Stage 1 has one of ``LOSSES``; from iteration ``malis_from`` on stage 2 has MALIS, with the same
    optimiser and its state (Funke et al.: 100,000 and 200,000 iterations). Batches are those of
    ``psc.em.patches``.

    Logged: train/loss, train/stage, and validation/loss, which is the last stage's throughout, so
    that checkpoints of both stages can be compared.
    """

    recipe: AffinityRecipeConfig

    @property
    def stage(self) -> int:
        """1 or 2."""
        start = self.recipe.malis_from
        return 2 if start is not None and self.global_step >= start else 1

    def network_input(self, batch: dict[str, Tensor]) -> Tensor:
        """Raw EM (N, 1, D, H, W)."""
        return batch["raw"]

    def training_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """That of the stage."""
        self.log("train/stage", float(self.stage))
        return self._loss(batch, self.stage)

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Loss over the fixed validation patches, logged as validation/loss."""
        loss = self._loss(batch, 1 if self.recipe.malis_from is None else 2)
        self.log("validation/loss", loss, batch_size=len(batch["raw"]), sync_dist=True)

    def _loss(self, batch: dict[str, Tensor], stage: int) -> Tensor:
        logits = self(self.network_input(batch))
        if stage == 1:
            return LOSSES[self.recipe.loss](logits, batch["affinities"], batch["mask"])
        normalization = self.recipe.malis_normalization
        return malis_loss(logits, batch["labels"], batch["mask"], normalization=normalization)
