"""A phantom of a skull-stripped T1-weighted brain, with its tissue labels.

For tests, demonstrations and first runs. It has what makes tissues hard to tell by intensity alone:
voxels that hold several tissues, noise, a coil's uneven sensitivity, deep grey matter that is
brighter than cortex, meninges that an imperfect stripping left, and an intensity scale of its own
in every subject. Levels and shares of the tissues are set after IBSR. It is no data: results on it
are never results of the paper.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from psc.datasets.mri.labels import BACKGROUND, CLASSES, CSF, GM, WM
from psc.datasets.mri.phantom_anatomy import (
    CORTEX,
    FLUID,
    MATERIALS,
    NUCLEI,
    WHITE,
    Anatomy,
    draw_anatomy,
)
from psc.datasets.mri.phantom_shapes import Affine, Field, Shape, random_field

__all__ = ["Contrast", "Phantom", "draw_phantom", "render"]

_PEAKS = (80.0, 1300.0)  # IBSR's volumes have maxima of 79 to 1289
_TISSUES = {FLUID: CSF, CORTEX: GM, NUCLEI: GM, WHITE: WM}


@dataclass(frozen=True, eq=False)
class Phantom:
    """A stripped volume and its labels.

    Attributes:
        image: int16 (D, H, W), positive in the brain, 0 elsewhere.
        labels: uint8 (D, H, W), values of ``psc.datasets.mri.labels``: the tissue of which a voxel
            holds most. As in IBSR, a few labelled voxels at the rim were stripped from the image.
    """

    image: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Contrast:
    """How a subject's tissues look; levels are relative to white matter's.

    Attributes:
        fluid: level of cerebrospinal fluid.
        cortex: level of cortical grey matter.
        nuclei: level of deep grey matter.
        texture: standard deviation of the slow variation within tissues, relative.
        meninges: level, at most, that they add to the fluid around the brain.
        bias: the coil's sensitivity varies by ± this share.
        noise: standard deviation of the noise in either channel; the magnitude is Rician.
        peak: the image's maximum.
    """

    fluid: float = 0.35
    cortex: float = 0.67
    nuclei: float = 0.77
    texture: float = 0.04
    meninges: float = 0.6
    bias: float = 0.2
    noise: float = 0.06
    peak: float = 250.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Contrast":
        """A subject's own: levels differ by a few %, the peak 16-fold."""
        cortex = rng.uniform(0.64, 0.70)
        return cls(
            fluid=float(rng.uniform(0.28, 0.42)),
            cortex=float(cortex),
            nuclei=float(cortex + rng.uniform(0.07, 0.13)),
            bias=float(rng.uniform(0.12, 0.25)),
            noise=float(rng.uniform(0.05, 0.08)),
            peak=float(np.exp(rng.uniform(*np.log(_PEAKS)))),
        )


def draw_phantom(shape: Shape, affine: Affine, rng: np.random.Generator) -> Phantom:
    """Draw a subject and its volume.

    Args:
        shape: of the grid.
        affine: from voxel indices to mm, axes mostly to the right, anterior and superior (RAS). A
            brain is up to 150 × 185 × 150 mm; its middle lies near (0, -2, 0).
        rng: source of everything that differs between subjects.
    """
    return render(draw_anatomy(shape, affine, rng), affine, Contrast.draw(rng), rng)


def render(
    anatomy: Anatomy, affine: Affine, contrast: Contrast, rng: np.random.Generator
) -> Phantom:
    """What a scanner and a stripping program make of a brain."""
    shape = anatomy.hull.shape
    # The stripping leaves some fluid in one place and takes some cortex in another.
    rim = np.clip(0.1 + np.float32(0.9) * random_field(shape, affine, 35, rng), -1.5, 3)
    brain = anatomy.hull > -rim
    signal = _signal(anatomy, affine, contrast, rng) * _sensitivity(brain, affine, contrast, rng)
    real, imaginary = rng.standard_normal((2, *shape), np.float32) * np.float32(contrast.noise)
    image = np.hypot(signal + real, imaginary) * brain
    image *= np.float32(contrast.peak) / image.max()
    # A stripped volume shows where the brain is by not being 0 there.
    image = np.where(brain, np.maximum(np.rint(image), 1), 0)
    return Phantom(image.astype(np.int16), _labels(anatomy, brain))


def _signal(
    anatomy: Anatomy, affine: Affine, contrast: Contrast, rng: np.random.Generator
) -> Field:
    """The materials' levels, by their shares of each voxel."""
    shape = anatomy.hull.shape
    levels = np.ones(MATERIALS, np.float32)
    levels[[FLUID, CORTEX, NUCLEI]] = contrast.fluid, contrast.cortex, contrast.nuclei
    signal = np.tensordot(levels, anatomy.fractions, 1)
    patches = np.clip(random_field(shape, affine, 25, rng), 0, 1) * np.clip(-anatomy.hull, 0, 1)
    signal += np.float32(contrast.meninges * contrast.cortex) * patches
    signal *= 1 + np.float32(contrast.texture) * random_field(shape, affine, 20, rng)
    return np.asarray(signal, dtype=np.float32)


def _sensitivity(
    brain: npt.NDArray[np.bool_], affine: Affine, contrast: Contrast, rng: np.random.Generator
) -> Field:
    """A smooth factor, from 1 − bias to 1 + bias within the brain."""
    field = random_field(brain.shape, affine, 220, rng)
    low, high = field[brain].min(), field[brain].max()
    return np.asarray(1 + contrast.bias * (2 * (field - low) / (high - low) - 1), dtype=np.float32)


def _labels(anatomy: Anatomy, brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    shares = np.zeros((CLASSES, *brain.shape), np.float32)
    for material, tissue in _TISSUES.items():
        shares[tissue] += anatomy.fractions[material]
    labels: npt.NDArray[np.uint8] = shares.argmax(axis=0).astype(np.uint8)
    labels[~brain & (labels == CSF)] = BACKGROUND  # fluid counts up to where the image ends
    return labels
