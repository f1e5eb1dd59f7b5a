"""Random training patches per second: the bare crop against NumPy's copy, and whole samples."""

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks.metrics import label_volumes
from benchmarks.report import Report, Row
from benchmarks.timing import Timing, interleave
from psc.em.augmentation import Augmentation
from psc.em.data import AffinityPatches
from psc.errors import ConfigError
from psc.volumes.patches import Triple, read_reflected
from psc.volumes.reading import Region, Volume

__all__ = ["run"]

Raw = npt.NDArray[np.uint8]

_PEER = "NumPy copy"
_POSITIONS = 64  # distinct crops, so that the volume and not one crop is what the cache holds
_SHORTEST = 0.2  # seconds; a crop takes less than a millisecond


def run(*, size: int = 250, input_size: int = 132, repeats: int = 5, seed: int = 0) -> Report:
    """Crop a uint8 volume of ``size``**3 voxels that is held in memory.

    Args:
        size: voxels per axis of the volume.
        input_size: voxels per axis of a crop; whole samples add labels of a third of that.
        repeats: rounds per contestant.
        seed: of the volume, the positions and the augmentation.

    Returns:
        Crops per second of process CPU time and of wall time, and the rate relative to NumPy's.

    Raises:
        ConfigError: a crop is larger than the volume.
    """
    if input_size > size:
        raise ConfigError(
            f"a crop of {input_size} voxels does not fit into a volume of {size}; give a larger"
            " --size or a smaller --input-size"
        )
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (size,) * 3, dtype=np.uint8)
    truth, _ = label_volumes(size, seed)
    volume = Volume(raw, truth, voxel_size=None, name="benchmark", synthetic=True, files=())
    output_size = input_size // 3
    output_size += (input_size - output_size) % 2
    contestants = _bare_crops(raw, input_size, rng) | {
        name: _samples(volume, input_size, output_size, seed, augmentation)
        for name, augmentation in (
            ("psc whole sample", None),
            ("psc whole sample, augmented", Augmentation()),
        )
    }
    timings = interleave(contestants, repeats, shortest=_SHORTEST)
    settings = {
        "size": size,
        "input_size": input_size,
        "output_size": output_size,
        "repeats": repeats,
        "seed": seed,
    }
    rows = [_row(name, timing, timings[_PEER]) for name, timing in timings.items()]
    return Report("crops", settings, {f"{input_size}^3 of {size}^3 uint8": rows})


def _bare_crops(
    raw: Raw, input_size: int, rng: np.random.Generator
) -> dict[str, Callable[[], object]]:
    """Contestants that copy grey values and do nothing else."""
    draws = rng.integers(0, raw.shape[0] - input_size + 1, (_POSITIONS, 3)).tolist()
    starts: list[Triple] = [(z, y, x) for z, y, x in draws]

    def view(start: Triple) -> Raw:
        return raw[tuple(slice(a, a + input_size) for a in start)]

    def in_turn(crop: Callable[[Triple], object]) -> Callable[[], object]:
        positions = itertools.cycle(starts)
        return lambda: crop(next(positions))

    return {
        _PEER: in_turn(lambda start: view(start).copy()),
        "psc bare crop": in_turn(
            lambda start: np.ascontiguousarray(read_reflected(raw, start, (input_size,) * 3))
        ),
        "NumPy copy, float32 in [0, 1]": in_turn(
            lambda start: view(start).astype(np.float32) * np.float32(1 / 255)
        ),
    }


def _samples(
    volume: Volume, input_size: int, output_size: int, seed: int, augmentation: Augmentation | None
) -> Callable[[], object]:
    """Whole training samples: grey values, affinities, mask and labels as tensors."""
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


def _row(name: str, timing: Timing, peer: Timing) -> Row:
    return {
        "contestant": name,
        "per_cpu_second": timing.cpu_median and 1 / timing.cpu_median,
        "per_wall_second": timing.wall_median and 1 / timing.wall_median,
        "rate_relative_to_numpy": timing.cpu_median
        and peer.cpu_median
        and peer.cpu_median / timing.cpu_median,
        "fails": timing.failure,
    }
