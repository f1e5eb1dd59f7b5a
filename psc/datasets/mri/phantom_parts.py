"""The parts of the standard phantom brain, before it is bent into an individual and folded.

Coordinates are those of ``phantom_shapes``, the origin between the thalami; sizes are an adult's.
Most parts are the same on both sides and so are given ``half`` coordinates: |x|, y, z.
"""

import numpy as np

from psc.datasets.mri.phantom_shapes import Field, Points, ellipsoid, smooth_union, tube

__all__ = [
    "FOLIUM",
    "arch",
    "cerebellum",
    "cerebrum",
    "folia_phase",
    "nuclei",
    "stem",
    "ventricles",
]

FOLIUM = 8.0
"""mm from one sulcus of the cerebellum to the next, where it is broadest."""

_FAN_ORIGIN = (-33.0, -30.0)  # y and z of where the folia fan out from
_FAN_RADIUS = 30.0  # mm; there they are as far apart as FOLIUM says


def cerebrum(half: Points) -> Field:
    """Both hemispheres as one body; fissures and sulci are cut later."""
    front = ellipsoid(half, (22, 20, 14), (40, 63, 45))
    rear = ellipsoid(half, (25, -28, 15), (42, 59, 49))
    temporal = ellipsoid(half, (42, -8, -20), (24, 44, 22))
    return smooth_union(smooth_union(front, rear, 16), temporal, 7)


def cerebellum(half: Points) -> Field:
    """Two lobes that overlap at the vermis."""
    return ellipsoid(half, (17, -55, -34), (34, 29, 22))


def folia_phase(points: Points) -> Field:
    """Rad along the cerebellum's surface, from front to back; π from one sulcus to the next."""
    _, y, z = points
    angle = np.arctan2(z - np.float32(_FAN_ORIGIN[1]), np.float32(_FAN_ORIGIN[0]) - y)
    return np.asarray(angle * np.float32(np.pi * _FAN_RADIUS / FOLIUM), dtype=np.float32)


def stem(points: Points) -> Field:
    """Midbrain, pons and medulla: white matter in IBSR's labels."""
    return tube(points, (((0, -18, -6), 12), ((0, -20, -30), 13), ((0, -32, -62), 7)))


def arch(points: Points) -> Field:
    """What the corpus callosum spans: ventricles and nuclei, between the hemispheres' cortex."""
    x, y, z = points
    return ellipsoid((np.zeros_like(x), y, z), (0, -4, 5), (1000, 41, 25))


def nuclei(half: Points) -> Field:
    """Thalamus, lentiform and caudate nucleus, amygdala with hippocampus, hypothalamus."""
    caudate = (((12, 23, 4), 6.5), ((14, 10, 17), 5), ((17, -14, 23), 3), ((23, -32, 16), 2))
    hippocampus = (((22, -2, -19), 8), ((27, -16, -17), 6), ((27, -33, -7), 4))
    parts = (
        ellipsoid(half, (10.5, -17, 8), (9.5, 15, 9)),
        ellipsoid(half, (23, 1, 3), (8, 20, 11)),
        tube(half, caudate),
        tube(half, hippocampus),
        ellipsoid(half, (0, 0, -9), (13, 9, 6)),
    )
    return np.asarray(np.maximum.reduce(parts), dtype=np.float32)


def ventricles(half: Points, size: float) -> Field:
    """Lateral ventricles with their horns, the third and the fourth; ``size`` scales volumes."""
    wide = float(np.sqrt(size))
    lateral = (
        ((7, 30, 7), 3.0 * wide),
        ((7, 18, 16), 4.5 * wide),
        ((9, -8, 23), 4.2 * wide),
        ((17, -33, 19), 5.0 * wide),
        ((24, -42, 8), 5.5 * wide),
        ((28, -28, -9), 2.4 * wide),
        ((30, -8, -17), 2.0 * wide),
    )
    parts = (
        tube(half, lateral),
        tube(half, (((24, -42, 8), 4.5 * wide), ((23, -66, 6), 1.5))),
        ellipsoid(half, (0, -14, 2), (1.8 * wide, 14, 9)),
        ellipsoid(half, (0, -36, -34), (7, 4.5, 11)),
    )
    return np.asarray(np.maximum.reduce(parts), dtype=np.float32)
