"""Class probabilities of a whole volume from overlapping windows, blended smoothly.

For networks whose zero padding reaches every voxel of a window, so that no part of a prediction is
that of the whole volume: windows overlap, and what each says near its faces counts little. Networks
with a small receptive field are better served by ``psc.inference``, whose tiles join exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from psc.errors import ConfigError

__all__ = ["Windows", "predict_probabilities"]


@dataclass(frozen=True)
class Windows:
    """How a volume is cut into windows and their predictions are joined.

    Attributes:
        size: voxels along each axis.
        overlap: share of the size by which neighbours overlap, in [0, 1).
        blending: "gaussian" weighs a window's voxels by their distance from its centre, with a
            standard deviation of an eighth of its size; "constant" counts them alike.
        batch_size: windows per call of the network.

    Raises:
        ConfigError: for a value that cannot work.
    """

    size: int = 64
    overlap: float = 0.5
    blending: Literal["gaussian", "constant"] = "gaussian"
    batch_size: int = 4

    def __post_init__(self) -> None:
        if self.size < 1 or self.batch_size < 1 or not 0 <= self.overlap < 1:
            raise ConfigError(
                f"windows of {self.size} voxels, overlap {self.overlap}, batch size "
                f"{self.batch_size}: sizes must be at least 1 and the overlap in [0, 1)"
            )
        if self.blending not in ("gaussian", "constant"):
            raise ConfigError(f"blending={self.blending}: allowed are gaussian, constant")


def predict_probabilities(
    network: Callable[[Tensor], Tensor],
    image: npt.NDArray[np.float32],
    windows: Windows,
    *,
    background: float = 0.0,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> npt.NDArray[np.float32]:
    """Predict every voxel of a volume (MONAI's sliding-window inference).

    Only the current windows are on ``device``; the sum and its weights stay in main memory: with
    four classes 24 bytes per voxel beside the image.

    Args:
        network: (N, 1, s, s, s) float32 → logits (N, C, s, s, s); in evaluation mode.
        image: float32 (D, H, W).
        windows: their size, overlap and blending.
        background: what a volume smaller than a window is padded with.
        device: where the network is.
        progress: show a bar.

    Returns:
        float32 (C, D, H, W), summing to 1 at every voxel.
    """
    from monai.inferers.utils import sliding_window_inference

    def predict(window: Tensor) -> Tensor:
        logits = network(window.contiguous(memory_format=torch.channels_last_3d))
        return logits.float().softmax(dim=1)

    with torch.inference_mode():
        probabilities = sliding_window_inference(
            torch.from_numpy(np.ascontiguousarray(image))[None, None],
            roi_size=(windows.size,) * 3,
            sw_batch_size=windows.batch_size,
            predictor=predict,
            overlap=windows.overlap,
            mode=windows.blending,
            padding_mode="constant",
            cval=background,
            sw_device=device,
            device="cpu",
            progress=progress,
        )
    assert isinstance(probabilities, Tensor)  # a tuple or dict if the network returned one
    return probabilities[0].numpy()
