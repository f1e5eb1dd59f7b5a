"""Random MRI patches per second, from volumes in memory, beside MONAI's cached random crops."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.report import Report, Row
from benchmarks.timing import Timing, interleave
from psc.errors import ConfigError
from psc.mri.augmentation import TissueAugmentation
from psc.mri.data import Subject
from psc.mri.patches import TissuePatches

__all__ = ["run"]

_OURS, _MONAI, _TUNED = "psc", "MONAI", "MONAI, tuned"
_VOLUMES = 4
_AT_ONCE = 4  # patches in a call: as many as the tuned peer crops when it visits a volume
_SHORTEST = 0.2  # seconds; a plain patch takes less than a millisecond
_DEGREES, _ZOOM = 15.0, 0.1
_KEYS = ("image", "labels")


@dataclass(frozen=True)
class _Augmentation:
    """The same for both libraries.

    Attributes:
        name: what the table calls it.
        ours: None for plain crops.
        flips: whether MONAI's crops are reflected from left to right, as ours are.
        turns: whether they are rotated and scaled.
    """

    name: str
    ours: TissueAugmentation | None
    flips: bool
    turns: bool


_AUGMENTATIONS = (
    _Augmentation("none", None, flips=False, turns=False),
    _Augmentation("flip", TissueAugmentation(), flips=True, turns=False),
    _Augmentation(
        f"flip, rotation to {_DEGREES:g}°, zoom to {_ZOOM:.0%}",
        TissueAugmentation(rotation=_DEGREES, scaling=(1 - _ZOOM, 1 + _ZOOM)),
        flips=True,
        turns=True,
    ),
)


def run(*, size: int = 256, input_size: int = 64, repeats: int = 5, seed: int = 0) -> Report:
    """Draw patches of four brains of IBSR's shape: half of them centred on the brain.

    MONAI's peer is CacheDataset with RandCropByPosNegLabeld, then RandFlipd and RandAffined: once
    as it comes, and once tuned: indices of foreground and background cached, no copy of the cached
    volume, no metadata, four crops of each volume that it visits; its plain crops are then views,
    while ours are copies. MONAI turns the crop, whose corners it fills; ours come from the volume.

    Args:
        size: voxels of the volumes' longer axes; the second is half of it.
        input_size: voxels per axis of a patch.
        repeats: rounds per contestant.
        seed: of the volumes, the positions and the augmentation.

    Returns:
        Patches (float32 image and uint8 labels) per second of process CPU time and of wall time,
        and the rate relative to MONAI's with the same augmentation.

    Raises:
        ConfigError: MONAI is not installed, or a patch is larger than the volume.
    """
    shape = (size, size // 2, size)
    if input_size > min(shape):
        raise ConfigError(
            f"a patch of {input_size} voxels does not fit into a volume of {shape}; give a larger"
            " --size or a smaller --input-size"
        )
    _require_monai()
    subjects = [_subject(shape, seed + i) for i in range(_VOLUMES)]
    rows: list[Row] = []
    for augmentation in _AUGMENTATIONS:
        # One after the other, so that few caches are in memory at once.
        contestants = {
            _OURS: _ours(subjects, augmentation, input_size, seed),
            _MONAI: _monai(subjects, augmentation, input_size, seed),
            _TUNED: _tuned_monai(subjects, augmentation, input_size, seed),
        }
        timings = interleave(contestants, repeats, shortest=_SHORTEST)
        rows += [_row(augmentation.name, name, timings) for name in timings]
    settings = {
        "size": size,
        "input_size": input_size,
        "volumes": _VOLUMES,
        "repeats": repeats,
        "seed": seed,
    }
    title = f"{input_size}^3 of {' x '.join(map(str, shape))} float32 and uint8 labels"
    return Report("patches", settings, {title: rows})


def _subject(shape: tuple[int, int, int], seed: int) -> Subject:
    """An ellipsoid of three shells; what is in it makes no difference to the time."""
    axes = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    squares = [axis**2 for axis in axes]
    distance = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
    # A seventh of the volume, as IBSR's brains are.
    labels = np.maximum(4 - np.ceil(distance / 0.22), 0).astype(np.uint8)
    brain = labels > 0
    image = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    image[~brain] = -3
    return Subject(
        name=f"benchmark {seed}",
        image=image,
        labels=labels,
        brain=brain,
        background=-3.0,
        voxel_size=(0.9375, 1.5, 0.9375),
        native=None,  # type: ignore[arg-type]  # there is no file, and patches need none
        native_labels=None,
        label_kind="shells",
        files=(),
        synthetic=True,
    )


def _ours(
    subjects: Sequence[Subject], augmentation: _Augmentation, size: int, seed: int
) -> Callable[[], object]:
    patches = TissuePatches(
        subjects,
        patch_size=size,
        seed=seed,
        length=2**62,
        foreground_share=0.5,
        augmentation=augmentation.ours,
    )
    indices = itertools.count()
    return lambda: [patches[next(indices)] for _ in range(_AT_ONCE)]


def _monai(
    subjects: Sequence[Subject], augmentation: _Augmentation, size: int, seed: int
) -> Callable[[], object]:
    from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld
    from monai.transforms.utility.dictionary import EnsureTyped

    crop = RandCropByPosNegLabeld(_KEYS, label_key="labels", spatial_size=size, num_samples=1)
    transforms = [EnsureTyped(_KEYS), crop, *_monai_augmentation(augmentation)]
    patches = _drawn(subjects, transforms, seed)
    return lambda: [next(patches) for _ in range(_AT_ONCE)]


def _tuned_monai(
    subjects: Sequence[Subject], augmentation: _Augmentation, size: int, seed: int
) -> Callable[[], object]:
    from monai.data.meta_obj import set_track_meta
    from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld
    from monai.transforms.utility.dictionary import EnsureTyped, FgBgToIndicesd

    crop = RandCropByPosNegLabeld(
        _KEYS,
        label_key="labels",
        spatial_size=size,
        num_samples=_AT_ONCE,
        fg_indices_key="labels_fg_indices",
        bg_indices_key="labels_bg_indices",
    )
    fixed = [EnsureTyped(_KEYS, track_meta=False), FgBgToIndicesd("labels")]
    transforms = [*fixed, crop, *_monai_augmentation(augmentation)]
    patches = _drawn(subjects, transforms, seed, copy_cache=False)

    def draw() -> object:
        set_track_meta(False)  # of the whole process: the other contestant has it
        try:
            return [next(patches) for _ in range(_AT_ONCE)]
        finally:
            set_track_meta(True)

    return draw


def _monai_augmentation(augmentation: _Augmentation) -> list[Any]:
    from monai.transforms.spatial.dictionary import RandAffined, RandFlipd

    transforms: list[Any] = []
    if augmentation.flips:
        transforms.append(RandFlipd(_KEYS, prob=0.5, spatial_axis=0))
    if augmentation.turns:
        turn = RandAffined(
            _KEYS,
            prob=1.0,
            rotate_range=(math.radians(_DEGREES),) * 3,
            scale_range=(_ZOOM,) * 3,
            mode=("bilinear", "nearest"),
            padding_mode="border",
        )
        transforms.append(turn)
    return transforms


def _drawn(
    subjects: Sequence[Subject], transforms: Sequence[Any], seed: int, **options: Any
) -> Iterator[Any]:
    """Patches, one volume after the other, without end."""
    from monai.data.dataset import CacheDataset
    from monai.transforms.compose import Compose

    volumes = [
        {"image": subject.image[np.newaxis], "labels": np.asarray(subject.labels)[np.newaxis]}
        for subject in subjects
    ]
    compose = Compose(transforms).set_random_state(seed)
    dataset = CacheDataset(volumes, compose, progress=False, **options)
    return (patch for index in itertools.cycle(range(len(volumes))) for patch in dataset[index])


def _require_monai() -> None:
    try:
        import monai  # noqa: F401
    except ImportError:
        raise ConfigError("monai is not installed: pip install monai") from None


def _row(augmentation: str, name: str, timings: dict[str, Timing]) -> Row:
    def rate(contestant: str) -> float | None:
        seconds = timings[contestant].cpu_median
        return _AT_ONCE / seconds if seconds else None

    mine, wall = rate(name), timings[name].wall_median
    row: Row = {
        "augmentation": augmentation,
        "contestant": name,
        "per_cpu_second": mine,
        "per_wall_second": wall and _AT_ONCE / wall,
    }
    for column, contestant in (("monai", _MONAI), ("tuned_monai", _TUNED)):
        other = rate(contestant)
        row[f"rate_relative_to_{column}"] = mine and other and mine / other
    return row | {"fails": timings[name].failure}
