"""What runs on the host: label metrics, MALIS, and training patches, each beside its peer."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree

from benchmarks.timing import Report, Row, Timing, interleave, peak_extra_mb, ratio
from psc.em.affinities import affinities_from_labels
from psc.em.augmentation import Augmentation
from psc.em.data import LabelledVolume, Region
from psc.em.malis import constrained_counts, malis_pairs
from psc.em.patches import AffinityPatches
from psc.errors import ConfigError
from psc.metrics import segmentation_scores
from psc.mri.augmentation import TissueAugmentation
from psc.mri.data import Subject
from psc.mri.patches import TissuePatches
from psc.volumes.metadata import Size3 as Triple
from psc.volumes.tiling import read_reflected

Labels = npt.NDArray[Any]
Affinities = npt.NDArray[np.float32]


def metrics(*, size: int = 250, repeats: int = 5, seed: int = 0) -> Report:
    """VI and adapted Rand error: one table against scikit-image's two calls.

    Two label volumes with dense ids, then with sparse ones.

    Options:
        size: voxels per axis; 250 gives 3000 true and about 1400 predicted segments.
    """
    volumes = label_volumes(size, seed)
    sparse = tuple(_sparse_ids(labels, seed + i) for i, labels in enumerate(volumes))
    peers: dict[str, Callable[..., tuple[float, ...]]] = {
        "psc": _our_scores,
        "scikit-image": _their_scores,
    }
    rows = []
    for ids, pair in {"dense": volumes, "2**50 to 2**51": sparse}.items():
        calls = {name: partial(function, *pair) for name, function in peers.items()}
        timings = interleave(calls, repeats)
        for name, call in calls.items():
            failed = timings[name].failure is not None
            split, merge, rand = (None,) * 3 if failed else call()
            rows.append(
                {
                    "ids": ids,
                    "contestant": name,
                    **_seconds(timings[name], timings["psc"]),
                    "peak_extra_mb": None if failed else peak_extra_mb(call),
                    "split": split,
                    "merge": merge,
                    "adapted_rand_error": rand,
                    "fails": timings[name].failure,
                }
            )
        peers["scikit-image, relabelled first"] = _their_scores_relabelled
    settings = {
        "dtype": str(volumes[0].dtype),
        "truth_segments": int(volumes[0].max()),
        "unknown_fraction": float(np.mean(volumes[0] == 0)),
    }
    return Report({"variation of information and adapted Rand error": rows}, settings)


def label_volumes(size: int, seed: int) -> tuple[Labels, Labels]:
    """True and predicted segments: Voronoi cells; then cells merged, and some of those cut.

    Both are uint64 (size, size, size); 0 is on both sides of every true boundary, else nowhere.
    """
    rng = np.random.default_rng(seed)
    cells = max(2, round(size**3 / (250**3 / 3000)))
    centres = rng.choice(size**3, cells, replace=False)
    cell_of = np.zeros(size**3, dtype=np.uint64)
    cell_of[centres] = np.arange(1, cells + 1)
    cell_of = cell_of.reshape((size,) * 3)
    nearest = distance_transform_edt(cell_of == 0, return_distances=False, return_indices=True)
    truth = cell_of[tuple(nearest)]

    groups = max(1, round(0.4 * cells))
    points = np.stack(np.unravel_index(centres, (size,) * 3), axis=1)
    group_of = cKDTree(rng.uniform(0, size, (groups, 3))).query(points)[1]
    merged = np.concatenate([[0], group_of + 1]).astype(np.uint64)[truth]
    axis = np.arange(size)
    in_band = (axis[:, None, None] + axis[:, None] + axis) // 20 % 2 == 1
    predicted = np.where(in_band & (merged % 6 == 1), merged + np.uint64(groups), merged)
    boundary = np.zeros(truth.shape, dtype=np.bool_)
    for a in range(3):
        change = np.moveaxis(np.diff(truth, axis=a) != 0, a, 0)
        along = np.moveaxis(boundary, a, 0)
        along[:-1] |= change
        along[1:] |= change
    return np.where(boundary, np.uint64(0), truth), predicted


def _sparse_ids(labels: Labels, seed: int) -> Labels:
    """The same partition under random ids; 0 stays 0."""
    ids = np.random.default_rng(seed).integers(2**50, 2**51, int(labels.max()) + 1, dtype=np.uint64)
    ids[0] = 0
    renamed: Labels = ids[labels]
    return renamed


def _our_scores(truth: Labels, predicted: Labels) -> tuple[float, ...]:
    scores = segmentation_scores(truth, predicted)
    return scores.split, scores.merge, scores.adapted_rand_error


def _their_scores(truth: Labels, predicted: Labels) -> tuple[float, ...]:
    from skimage import metrics as scikit_image

    names = ("variation_of_information", "adapted_rand_error")
    voi, rand = (
        getattr(scikit_image, name)(truth, predicted, ignore_labels=(0,)) for name in names
    )
    return float(voi[0]), float(voi[1]), float(rand[0])


def _their_scores_relabelled(truth: Labels, predicted: Labels) -> tuple[float, ...]:
    # The smallest id becomes 0. That is right for truth, which has 0; of the prediction it only
    # changes names.
    dense = [np.unique(v, return_inverse=True)[1].reshape(v.shape) for v in (truth, predicted)]
    return _their_scores(*dense)


def _seconds(mine: Timing, ours: Timing) -> Row:
    return {
        "cpu_seconds": mine.median("cpu"),
        "wall_seconds": mine.median("wall"),
        "cpu_seconds_relative_to_psc": ratio(mine.median("cpu"), ours.median("cpu")),
    }


def malis(*, sizes: Sequence[int] = (44, 64, 80, 100), repeats: int = 5, seed: int = 0) -> Report:
    """Pair counts of the MALIS loss on whole patches, and how their time grows.

    Options:
        sizes: voxels per axis of the patches, at least 3.
    """
    if min(sizes) < 3:
        raise ConfigError(f"sizes must be at least 3 voxels, found {min(sizes)}")
    rows: list[Row] = []
    first: dict[tuple[str, str], Row] = {}
    for size in sorted(set(sizes)):
        # What a network predicts lies on cells without gaps: 0 would hide every boundary.
        labels = label_volumes(size, seed)[1]
        for kind, affinities in _affinities(labels, seed).items():
            calls = {
                "constrained, two passes": partial(constrained_counts, affinities, labels),
                "one pass": partial(malis_pairs, affinities, labels),
            }
            timings = interleave(calls, repeats)
            for counts, call in calls.items():
                found, mine = call(), timings[counts]
                row: Row = {
                    "size": size,
                    "affinities": kind,
                    "counts": counts,
                    "cpu_seconds": mine.median("cpu"),
                    "wall_seconds": mine.median("wall"),
                    "growth_exponent": None,
                    "positive_pairs": int(found.positive.sum()),
                    "negative_pairs": int(found.negative.sum()),
                }
                if (before := first.setdefault((kind, counts), row)) is not row:
                    grown = row["cpu_seconds"] / before["cpu_seconds"]
                    row["growth_exponent"] = math.log(grown, (size / before["size"]) ** 3)
                rows.append(row)
    return Report({"pair counts": rows})


def _affinities(labels: Labels, seed: int) -> dict[str, Affinities]:
    """As a trained network predicts them, smooth and rarely wrong; and of one that knows nothing.

    A trained one is unsure where a boundary is near: logits follow the distance to it.
    """
    rng = np.random.default_rng(seed)
    true, mask = affinities_from_labels(labels, zero_label="boundary")
    inside = np.where(mask, true, 1).min(axis=0)
    noise = gaussian_filter(rng.standard_normal(true.shape), (0, 1, 1, 1))
    logits = 4 * np.tanh(distance_transform_edt(inside) - 1) + true + 1.5 * noise / noise.std()
    return {
        "trained": (1 / (1 + np.exp(-logits))).astype(np.float32),
        "untrained": rng.random(true.shape, dtype=np.float32),
    }


_POSITIONS = 64  # distinct crops, so that the volume and not one crop is what the cache holds


def crops(*, size: int = 250, input_size: int = 132, repeats: int = 5, seed: int = 0) -> Report:
    """EM training patches per second: the bare crop against NumPy's copy, and whole samples.

    Options:
        size: voxels per axis of the volume, uint8 and in memory.
        input_size: voxels per axis of a crop; whole samples add labels of a third of that.
    """
    _check_fit(input_size, (size,) * 3)
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (size,) * 3, dtype=np.uint8)
    truth, _ = label_volumes(size, seed)
    volume = LabelledVolume(raw, truth, voxel_size=None, name="benchmark", synthetic=True, files=())
    output_size = input_size // 3
    output_size += (input_size - output_size) % 2
    draws = rng.integers(0, size - input_size + 1, (_POSITIONS, 3)).tolist()
    starts: list[Triple] = [(z, y, x) for z, y, x in draws]

    def view(start: Triple) -> Labels:
        return raw[tuple(slice(a, a + input_size) for a in start)]

    def in_turn(crop: Callable[[Triple], object]) -> Callable[[], object]:
        positions = itertools.cycle(starts)
        return lambda: crop(next(positions))

    def samples(augmentation: Augmentation | None) -> Callable[[], object]:
        patches = AffinityPatches(
            [Region(volume)],
            input_size=input_size,
            output_size=output_size,
            seed=seed,
            length=_POSITIONS,
            augmentation=augmentation,
        )
        indices = itertools.cycle(range(_POSITIONS))
        return lambda: patches[next(indices)]

    def bare(start: Triple) -> object:
        return np.ascontiguousarray(read_reflected(raw, start, (input_size,) * 3))

    contestants = {
        "NumPy copy": in_turn(lambda start: view(start).copy()),
        "psc bare crop": in_turn(bare),
        "NumPy copy, float32 in [0, 1]": in_turn(
            lambda start: view(start).astype(np.float32) * np.float32(1 / 255)
        ),
        "psc whole sample": samples(None),
        "psc whole sample, augmented": samples(Augmentation()),
    }
    rows = _rates(interleave(contestants, repeats), 1, {"numpy": "NumPy copy"})
    title = f"{input_size}^3 of {size}^3 uint8"
    return Report({title: rows}, {"output_size": output_size})


def _rates(timings: Mapping[str, Timing], at_once: int, peers: Mapping[str, str]) -> list[Row]:
    """What each draws in a second, and over what each peer does."""
    return [
        {
            "contestant": name,
            "per_cpu_second": ratio(at_once, mine.median("cpu")),
            "per_wall_second": ratio(at_once, mine.median("wall")),
            **{
                f"rate_relative_to_{short}": ratio(timings[peer].median("cpu"), mine.median("cpu"))
                for short, peer in peers.items()
            },
            "fails": mine.failure,
        }
        for name, mine in timings.items()
    ]


def _check_fit(size: int, shape: Triple) -> None:
    if size > min(shape):
        raise ConfigError(f"input size {size} does not fit into a volume of {shape}; change --size")


_AT_ONCE = 4  # patches in a call: as many as the tuned peer crops when it visits a volume
_DEGREES, _ZOOM = 15.0, 0.1
_KEYS = ("image", "labels")

AUGMENTATIONS: Mapping[str, TissueAugmentation | None] = {
    "none": None,
    "flip": TissueAugmentation(),
    f"flip, rotation to {_DEGREES:g}°, zoom to {_ZOOM:.0%}": TissueAugmentation(
        rotation=_DEGREES, scaling=(1 - _ZOOM, 1 + _ZOOM)
    ),
}


def patches(*, size: int = 256, input_size: int = 64, repeats: int = 5, seed: int = 0) -> Report:
    """MRI training patches per second, from volumes in memory, beside MONAI's cached random crops.

    Of four brains of IBSR's shape, half of them centred on the brain. MONAI's peer is CacheDataset
    with RandCropByPosNegLabeld, then RandFlipd and RandAffined: once as it comes, and once tuned:
    indices of foreground and background cached, no copy of the cached volume, no metadata, four
    crops of each volume that it visits; its plain crops are then views, while ours are copies.
    MONAI turns the crop, whose corners it fills; ours come from the volume.

    Options:
        size: voxels of the volumes' longer axes; the second is half of it.
        input_size: voxels per axis of a patch.
    """
    shape = (size, size // 2, size)
    _check_fit(input_size, shape)
    try:
        import monai  # noqa: F401
    except ImportError:
        raise ConfigError("monai is not installed: pip install monai") from None
    subjects = [brain(shape, seed + i) for i in range(4)]
    rows: list[Row] = []
    for title, augmentation in AUGMENTATIONS.items():
        # One after the other, so that few caches are in memory at once.
        how = (subjects, augmentation, input_size, seed)
        contestants = {
            "psc": our_patches(*how),
            "MONAI": monai_patches(*how),
            "MONAI, tuned": monai_patches(*how, tuned=True),
        }
        peers = {"monai": "MONAI", "tuned_monai": "MONAI, tuned"}
        made = _rates(interleave(contestants, repeats), _AT_ONCE, peers)
        rows += [{"augmentation": title, **row} for row in made]
    title = f"{input_size}^3 of {' x '.join(map(str, shape))} float32 and uint8 labels"
    return Report({title: rows}, {"volumes": len(subjects)})


def brain(shape: tuple[int, int, int], seed: int) -> Subject:
    """An ellipsoid of three shells; what is in it makes no difference to the time."""
    squares = [np.linspace(-1, 1, n, dtype=np.float32) ** 2 for n in shape]
    distance = np.sqrt(squares[0][:, None, None] + squares[1][:, None] + squares[2])
    # A seventh of the volume, as IBSR's brains are.
    labels = np.maximum(4 - np.ceil(distance / 0.22), 0).astype(np.uint8)
    image = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    image[labels == 0] = -3
    return Subject(
        name=f"benchmark {seed}",
        image=image,
        labels=labels,
        brain=labels > 0,
        background=-3.0,
        voxel_size=(0.9375, 1.5, 0.9375),
        native=None,  # type: ignore[arg-type]  # there is no file, and patches need none
        native_brain=labels > 0,
        native_labels=None,
        label_kind="shells",
        became_fluid=0,
        files=(),
        synthetic=True,
    )


def our_patches(
    subjects: Sequence[Subject], augmentation: TissueAugmentation | None, size: int, seed: int
) -> Callable[[], list[Any]]:
    """A call that draws some."""
    drawn = TissuePatches(
        subjects,
        patch_size=size,
        seed=seed,
        length=2**62,
        foreground_share=0.5,
        augmentation=augmentation,
    )
    indices = itertools.count()
    return lambda: [drawn[next(indices)] for _ in range(_AT_ONCE)]


def monai_patches(
    subjects: Sequence[Subject],
    augmentation: TissueAugmentation | None,
    size: int,
    seed: int,
    *,
    tuned: bool = False,
) -> Callable[[], list[Any]]:
    """The same of MONAI."""
    from monai.data.dataset import CacheDataset
    from monai.data.meta_obj import set_track_meta
    from monai.transforms.compose import Compose
    from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld
    from monai.transforms.spatial.dictionary import RandAffined, RandFlipd
    from monai.transforms.utility.dictionary import EnsureTyped, FgBgToIndicesd

    how: dict[str, Any] = {"num_samples": 1}
    transforms: list[Any] = [EnsureTyped(_KEYS, track_meta=not tuned)]
    if tuned:
        how = {f"{kind}_indices_key": f"labels_{kind}_indices" for kind in ("fg", "bg")}
        how |= {"num_samples": _AT_ONCE}
        transforms.append(FgBgToIndicesd("labels"))
    transforms.append(RandCropByPosNegLabeld(_KEYS, label_key="labels", spatial_size=size, **how))
    if augmentation is not None:
        transforms.append(RandFlipd(_KEYS, prob=0.5, spatial_axis=0))
    if augmentation is not None and augmentation.rotation:
        turn = RandAffined(
            _KEYS,
            prob=1.0,
            rotate_range=(math.radians(_DEGREES),) * 3,
            scale_range=(_ZOOM,) * 3,
            mode=("bilinear", "nearest"),
            padding_mode="border",
        )
        transforms.append(turn)
    volumes = [
        {"image": subject.image[np.newaxis], "labels": np.asarray(subject.labels)[np.newaxis]}
        for subject in subjects
    ]
    compose = Compose(transforms).set_random_state(seed)
    dataset = CacheDataset(volumes, compose, progress=False, copy_cache=not tuned)
    drawn: Iterator[Any] = (
        patch for index in itertools.cycle(range(len(volumes))) for patch in dataset[index]
    )

    def draw() -> list[Any]:
        set_track_meta(not tuned)  # of the whole process: the other contestant has it
        try:
            return [next(drawn) for _ in range(_AT_ONCE)]
        finally:
            set_track_meta(True)

    return draw
