"""MALIS, stage 2 of the published training: squared errors weighted by the pairs they decide.

An affinity that joins many pairs of voxels of one object must rise, one that joins many pairs of
different objects must fall (``psc.segmentation.malis``). The weights are constants to the gradient:
which edge is a pair's maximin edge does not change with small changes of the affinities.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from psc.errors import ConfigError, DataError
from psc.segmentation.malis import VoxelGraph, pair_weights

__all__ = ["NORMALIZATIONS", "MalisLoss", "malis_loss", "malis_weights"]

NORMALIZATIONS = ("counted", "labelled")
"""What weights are divided by, for positive and negative pairs each: the pairs that some edge got
(TuragaLab/malis, the authors' code for TensorFlow), or all pairs of labelled voxels in the patch
(the authors' layer for Caffe, which also halves the loss; Adam does not notice)."""


def malis_loss(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, normalization: str = "counted"
) -> Tensor:
    """Constrained MALIS with squared error, mean over the batch (Funke et al. 2018).

    Per sample Σ w⁺(1 − a)² + Σ w⁻a² over the edges inside, with a the sigmoid of a logit and w the
    fractions of pairs that ``constrained_counts`` gives the edge.

    Args:
        logits: (N, 3, D, H, W), channels z, y, x, on any device.
        labels: integers (N, D, H, W), whole objects; 0 is in no pair.
        mask: bool (N, 3, D, H, W), True where the affinity is known. Default: where neither voxel
            has label 0.
        normalization: one of ``NORMALIZATIONS``.

    Returns:
        A scalar, float32 (float64 for such logits); 0 for samples without pairs.

    Raises:
        DataError: shapes that differ, labels that are no ids, or logits with NaN.
        ConfigError: unknown normalization.
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
    samples run at once. From a GPU each sample is copied without waiting for the next.

    Args:
        affinities: (N, 3, D, H, W) in [0, 1]; compared as float32.
        labels: as for ``malis_loss``.
        mask: as for ``malis_loss``.
        normalization: as for ``malis_loss``.

    Returns:
        (2, N, 3, D, H, W), positive then negative, of the affinities' device and dtype.

    Raises:
        DataError: as ``malis_loss``.
        ConfigError: as ``malis_loss``.
    """
    if normalization not in NORMALIZATIONS:
        raise ConfigError(
            f"normalization must be one of {', '.join(NORMALIZATIONS)}; found {normalization!r}"
        )
    _check_shapes(affinities, labels, mask)
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


def _check_shapes(affinities: Tensor, labels: Tensor, mask: Tensor | None) -> None:
    if affinities.ndim != 5 or affinities.shape[1] != 3 or affinities.numel() == 0:
        raise DataError(
            "affinities must have shape (N, 3, D, H, W), channels z, y, x, with voxels in it;"
            f" found {tuple(affinities.shape)}"
        )
    expected = (len(affinities), *affinities.shape[2:])
    if tuple(labels.shape) != expected:
        raise DataError(
            f"labels must have shape {expected}, that of the network's output; found"
            f" {tuple(labels.shape)}"
        )
    if mask is not None and (mask.shape != affinities.shape or mask.dtype != torch.bool):
        raise DataError(
            f"the mask must be bool of shape {tuple(affinities.shape)}, found {mask.dtype} of shape"
            f" {tuple(mask.shape)}"
        )


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
