"""Affinities: what the network is trained to say, and what it must beat.

Channel a of an affinity volume says at voxel v whether v and its predecessor v - e_a along axis a
belong to the same object; axes in the order z, y, x. This is also waterz's convention. Channels of
other offsets o, which say the same of v and v + o, may follow: harder questions whose answers train
the network (Lee et al., arXiv 1706.00120), and that segmentation does not ask.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from psc.errors import ConfigError, DataError

NEAREST = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
"""Offsets (z, y, x) of the three predecessors: what is segmented by."""

_Slices = tuple[slice, ...]
# Grey values below the first and above the last are artefacts as often as they are tissue.
_DARKEST_PERCENTILE = 1.0
_BRIGHTEST_PERCENTILE = 99.0


def affinities_from_labels(
    labels: npt.NDArray[np.integer[Any]],
    *,
    zero_label: Literal["ignore", "boundary"] = "ignore",
    offsets: Sequence[Sequence[int]] = NEAREST,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """True affinities of a label volume (D, H, W), and where they are known.

    Affinities are uint8 (C, D, H, W), a channel for each of ``offsets`` (z, y, x) from a voxel to
    its partner: 1 where both have the same non-zero label, else 0. The mask, bool (C, D, H, W), is
    False where the partner is outside the array and, with ``zero_label="ignore"``, where either
    label is 0; with ``"boundary"`` 0 is membrane, and such a pair has affinity 0.
    """
    labels = np.asarray(labels)
    if labels.ndim != 3 or labels.dtype.kind not in "iu":
        raise DataError(
            "labels must be integers of shape (D, H, W), found"
            f" {labels.dtype} of shape {labels.shape}"
        )
    if zero_label not in ("ignore", "boundary"):
        raise ConfigError(f"zero_label must be 'ignore' or 'boundary', found {zero_label!r}")
    affinities = np.zeros((len(offsets), *labels.shape), dtype=np.uint8)
    mask = np.zeros(affinities.shape, dtype=np.bool_)
    known = labels != 0
    for channel, offset in enumerate(offsets):
        here, there = pairs(offset)
        affinities[channel][here] = (labels[here] == labels[there]) & known[here]
        mask[channel][here] = True if zero_label == "boundary" else known[here] & known[there]
    return affinities, mask


def intensity_affinities(raw: npt.NDArray[Any], sigma: float) -> npt.NDArray[np.float32]:
    """Affinities float32 (3, D, H, W) from grey values alone: the baseline without a network.

    Membranes are dark in EM, so two voxels belong together as far as both are bright: the volume
    is smoothed by a Gaussian of ``sigma`` voxels, scaled so that its 1st percentile becomes 0 and
    its 99th becomes 1, and channel a at v is the darker of v and its predecessor. A voxel without
    predecessor counts alone.
    """
    smooth = raw.astype(np.float32)
    if sigma > 0:
        from scipy.ndimage import gaussian_filter  # not above: settings import this module

        gaussian_filter(smooth, sigma, output=smooth)
    darkest, brightest = np.percentile(smooth, [_DARKEST_PERCENTILE, _BRIGHTEST_PERCENTILE])
    if not darkest < brightest:
        raise DataError(
            f"raw has no contrast: its 1st and 99th percentile are both {darkest:g};"
            " a membrane cannot be told from the inside of a cell"
        )
    smooth -= np.float32(darkest)
    smooth /= np.float32(brightest - darkest)
    np.clip(smooth, 0, 1, out=smooth)
    affinities = np.empty((3, *smooth.shape), dtype=np.float32)
    for axis in range(3):
        here, before = neighbours(axis)
        affinities[axis] = smooth
        np.minimum(smooth[here], smooth[before], out=affinities[axis][here])
    return affinities


def checked_affinities(affinities: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Affinities as C-contiguous float32; refuses what would give a silently wrong segmentation."""
    if affinities.ndim != 4 or affinities.shape[0] != 3 or affinities.size == 0:
        raise DataError(
            "affinities must have shape (3, D, H, W), channels z, y, x, with voxels in it; found"
            f" {affinities.shape}"
        )
    lowest, highest = affinities.min(), affinities.max()  # both are NaN if any value is
    if not (lowest >= 0 and highest <= 1):
        raise DataError(
            f"affinities must lie in [0, 1], found {lowest:g} to {highest:g}; apply the sigmoid to"
            " logits, divide 8-bit affinities by 255, and look for NaN in the network's output"
        )
    return np.ascontiguousarray(affinities, dtype=np.float32)


def neighbours(axis: int) -> tuple[_Slices, _Slices]:
    """Slices of (D, H, W): all voxels that have a predecessor along an axis; these predecessors."""
    return pairs(NEAREST[axis])


def at_borders(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Both voxels of every pair of neighbours with different labels."""
    near = np.zeros(labels.shape, dtype=np.bool_)
    for axis in range(3):
        here, before = neighbours(axis)
        change = labels[here] != labels[before]
        near[here] |= change
        near[before] |= change
    return near


def pairs(offset: Sequence[int]) -> tuple[_Slices, _Slices]:
    """Slices of (D, H, W): all voxels that have a partner at an offset; these partners."""
    here, there = (
        tuple(slice(max(0, -o) or None, min(0, -o) or None) for o in sign)
        for sign in (offset, [-o for o in offset])
    )
    return here, there
