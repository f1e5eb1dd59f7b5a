"""What affinities and neurons may be told (``psc.training.settings`` says how).

Sizes are in voxels, intensities in [0, 1] after scaling.
"""

from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from psc.em.affinities import NEAREST
from psc.em.augmentation import AXIS_SWAPS, Augmentation
from psc.errors import ConfigError
from psc.training.settings import (
    PARTS,
    DatasetConfig,
    RecipeConfig,
    at_least,
    require,
    share,
    shares,
    sizes,
)

if TYPE_CHECKING:
    from psc.networks.geometry import VolumeNetwork


@dataclass
class SyntheticVolumeConfig:
    """A volume that ``psc.em.synthetic`` writes where ``raw`` says, if it is not there."""

    shape: list[int] = MISSING  # (z, y, x), voxels
    seed: int = 0  # of its bodies and its noise

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1 or self.seed < 0:
            raise ConfigError(
                f"shape={self.shape}, seed={self.seed}: must be three sizes ≥ 1, and ≥ 0"
            )


@dataclass
class SlabConfig:
    """One volume, or the sections z[0] ≤ z < z[1] of it; configs/dataset/own_em.yaml says more."""

    raw: str = MISSING  # file or folder of grey values
    labels: str | None = None  # of neuron labels; null: in the file of raw
    raw_key: str | None = None  # dataset within HDF5 or Zarr; null: a usual name, or the only one
    labels_key: str | None = None  # the same of labels
    z: list[int] | None = None  # sections [first, one after the last] of raw; null: all with labels
    synthetic: SyntheticVolumeConfig | None = None
    """Made where raw says, if nothing is there; null: never."""
    labels_offset: list[int] | None = None
    """Voxel [z,y,x] of raw at which labels begin; null: as their file says."""

    def __post_init__(self) -> None:
        if (offset := self.labels_offset) is not None and (len(offset) != 3 or min(offset) < 0):
            raise ConfigError(f"labels_offset={offset}: must be three voxels [z,y,x] ≥ 0 of raw")
        if self.z is not None and not (len(self.z) == 2 and 0 <= self.z[0] < self.z[1]):
            raise ConfigError(f"z={self.z}: must be [start, stop] with 0 ≤ start < stop")

    def overlaps(self, other: "SlabConfig") -> bool:
        """Whether both hold a slice of the same volume; ``z`` null is all of it.

        Labels of two parts of it are compared where they have been read.
        """
        if replace(self, z=None) != replace(other, z=None):
            return False
        a, b = self.z, other.z
        return a is None or b is None or (a[0] < b[1] and b[0] < a[1])


@dataclass
class FibsemConfig(DatasetConfig):
    """Electron-microscopy volumes with neuron labels, for affinities."""

    train: list[SlabConfig] = field(default_factory=list)
    validation: list[SlabConfig] = field(default_factory=list)
    test: list[SlabConfig] = field(default_factory=list)
    zero_label: str = "ignore"
    boundary_thickness: int = 0
    intensity_range: list[float] | None = None
    missing_chunks: str = "refuse"
    context_across_border: bool = True
    voxel_size: list[float] | None = None
    sample: bool = False
    """A real but small sample: its records go into the tables of reduced protocols only."""
    raw: str | None = None
    """Instead of train, validation and test: volumes that are each cut along z by ``shares``."""
    labels: str | None = None
    raw_key: str | None = None
    labels_key: str | None = None  # the same of labels, see raw_key
    labels_offset: list[int] | None = None
    shares: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    axis_swaps: str | None = None
    """What of ``recipe.augmentation.axis_swaps`` the voxels allow; auto: by their size."""

    @property
    def volume(self) -> SlabConfig:
        """What ``raw`` and the keys beside it say."""
        assert self.raw is not None
        keys = (self.raw, self.labels, self.raw_key, self.labels_key)
        return SlabConfig(*keys, labels_offset=self.labels_offset)

    def __post_init__(self) -> None:
        require(self, "axis_swaps", (None, "auto", *AXIS_SWAPS))
        shares(self, "shares")
        require(self, "zero_label", ("ignore", "boundary"))
        at_least(self, 0, "boundary_thickness")
        if self.boundary_thickness and self.zero_label == "ignore":
            # Masking every border would leave nothing but positive affinities to learn from.
            raise ConfigError(
                f"boundary_thickness={self.boundary_thickness} turns borders into label 0, which"
                " zero_label=ignore then hides; set zero_label=boundary, or thickness 0"
            )
        sizes(self, "voxel_size", "nm")
        bounds = self.intensity_range
        if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
            raise ConfigError(
                f"intensity_range={bounds}: must be [low, high] with low < high, or null"
            )
        splits: dict[str, list[SlabConfig]] = {name: getattr(self, name) for name in PARTS}
        if self.raw is not None:
            self.volume  # noqa: B018  # refuses what is impossible
            if any(splits.values()):
                raise ConfigError(
                    f"raw={self.raw} is cut into train, validation and test by shares; give raw, or"
                    " the three by themselves"
                )
            return
        for name, slabs in splits.items():
            if not slabs:
                raise ConfigError(
                    f"{name} is empty: name at least one volume or slab; or give raw=…, which is"
                    " cut into all three"
                )
        for (name, slabs), (other, others) in combinations(splits.items(), 2):
            for a, b in product(slabs, others):
                if a.overlaps(b):
                    raise ConfigError(
                        f"{name} and {other} overlap: both hold {a.raw}, z={a.z} and z={b.z}; "
                        "give them slabs that share no slice"
                    )


AFFINITY_LOSSES = (
    "balanced_squared_error",
    "balanced_cross_entropy",
    "squared_error",
    "cross_entropy",
)
MALIS_NORMALIZATIONS = ("counted", "labelled")
"""What weights are divided by, for positive and negative pairs each: the pairs that some edge got
(TuragaLab/malis, the authors' code for TensorFlow), or all pairs of labelled voxels in the patch
(the authors' layer for Caffe, which also halves the loss; Adam does not notice)."""


@dataclass
class AffinityRecipeConfig(RecipeConfig):
    """Affinities from electron microscopy: ``psc.em.task``.

    ``output_size`` is the number of affinities that a patch teaches, along each axis: the input is
    the smallest that the network turns into at least as many, whatever the block. ``input_size``,
    where it is set, is taken as it is, or refused.
    """

    output_size: int = MISSING  # affinities that a patch teaches, along each axis
    input_size: int | None = None  # voxels of a patch along each axis; null: by output_size
    offsets: list[list[int]] = field(default_factory=lambda: [list(offset) for offset in NEAREST])
    """[z,y,x] from a voxel to the one that its affinity joins it with, a channel of the network
    each. The first three are the nearest neighbours, which segmentation uses; longer ones after
    them, such as [-3,0,0], [0,-9,0], are learned as well: it helped in arXiv 1706.00120."""
    loss: str = "balanced_squared_error"
    """Of stage 1; balanced: both classes of affinities weigh alike."""
    malis_from: int | None = None
    """Iteration at which MALIS takes the place of ``loss`` (stage 2); null: never."""
    malis_normalization: str = "labelled"  # what MALIS is divided by: pairs counted, or labelled
    validation_patches: int = 32  # at most so many, fixed ones
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "loss", AFFINITY_LOSSES)
        require(self, "malis_normalization", MALIS_NORMALIZATIONS)
        if self.malis_from is not None and not 0 <= self.malis_from < self.iterations:
            raise ConfigError(
                f"malis_from={self.malis_from}: must lie in [0, {self.iterations}), the number of "
                "recipe.iterations; null trains without MALIS"
            )
        at_least(self, 1, "output_size", "validation_patches")
        nearest, given = [list(offset) for offset in NEAREST], [list(o) for o in self.offsets]
        distinct = {tuple(offset) for offset in given if len(offset) == 3 and any(offset)}
        if given[:3] != nearest or len(distinct) < len(given):
            raise ConfigError(
                f"offsets={given}: must begin with the nearest neighbours, {nearest}, and each be"
                " another three voxels [z,y,x]"
            )
        if given[3:] and self.malis_from is not None:
            raise ConfigError(
                f"malis_from={self.malis_from}: MALIS weighs nearest neighbours, and would leave "
                f"those of offsets={given[3:]} unlearned; set recipe.malis_from=null"
            )

    def patch_input(self, network: "VolumeNetwork") -> int:
        """Voxels along each axis of a training patch's input."""
        if self.input_size is None:
            return network.input_size_for(self.output_size)
        return network.fitting("recipe.input_size", self.input_size)

    def sample_shape(self, network: Any) -> tuple[int, ...]:
        """(1, 1, D, H, W) of a training patch's input."""
        return (1, 1, *(self.patch_input(network),) * 3)


def _quantile(percent: int, initialise_with_maximum: str) -> str:
    return (
        f"OneMinus<HistogramQuantileAffinity<RegionGraphType, {percent}, ScoreValue, 256, "
        f"{initialise_with_maximum}>>"
    )


SCORING_FUNCTIONS = {
    "mean": "OneMinus<MeanAffinity<RegionGraphType, ScoreValue>>",
    "aff50_his256": _quantile(50, "true"),
    "aff75_his256": _quantile(75, "true"),
    "aff85_his256": _quantile(85, "true"),
    "hist_quant_25": _quantile(25, "false"),
    "hist_quant_50": _quantile(50, "false"),
    "hist_quant_75": _quantile(75, "false"),
}
"""Name → waterz's C++ type. q is the mean, or a percentile from a histogram of 256 bins.

``affQ_his256``: the percentile of the *highest* affinities, one of each pair of fragments. This is
the published choice (Q = 50) and suits the tiny fragments of waterz's own watershed; between the
large ones of the seeded watershed a single high affinity would suffice to merge.
``hist_quant_Q``: the percentile of all affinities between two regions."""


@dataclass(kw_only=True)
class SegmentationConfig:
    """How affinities are predicted, and become neurons: ``psc.em.watershed``."""

    fragments: str = "seeded"  # or waterz
    boundary_threshold: float = 0.5  # of the seeded watershed, a mean affinity
    seed_smoothing: float = 1.0  # of the seeded watershed, voxels
    minimum_seed_distance: int = 1  # of the seeded watershed, voxels
    low: float = 0.0001  # of waterz's watershed, an affinity
    high: float = 0.9999  # of waterz's watershed, an affinity
    scoring: str = "hist_quant_50"
    """A key of ``SCORING_FUNCTIONS``. The published aff50_his256 goes with the fragments "waterz";
    with "seeded" use one that looks at all affinities."""
    thresholds: list[float] = field(
        default_factory=lambda: [round(0.05 * i, 2) for i in range(1, 20)]
    )
    """Of the agglomeration, to try: scores 1 - affinity."""
    tile_input: int | None = None
    """Edge of the largest cube that fits into memory at once, in voxels; tiles of other forms have
    no more voxels. null: of four times the voxels of a training patch."""
    batch_size: int = 1  # tiles that are predicted at once

    def __post_init__(self) -> None:
        require(self, "fragments", ("seeded", "waterz"))
        require(self, "scoring", SCORING_FUNCTIONS)
        share(self, "boundary_threshold")
        at_least(self, 0, "seed_smoothing")
        at_least(self, 1, "minimum_seed_distance", "batch_size")
        if not 0 <= self.low < self.high <= 1:
            raise ConfigError(
                f"low={self.low}, high={self.high}: waterz's watershed needs affinities 0 <= low < "
                "high <= 1"
            )
        if len(self.thresholds) == 0:
            raise ConfigError("thresholds=[]: give at least one agglomeration threshold, as 0.3")
        if not all(0 <= threshold <= 1 for threshold in self.thresholds):
            raise ConfigError(
                f"thresholds={list(self.thresholds)}: agglomeration thresholds are scores, 1 - "
                "affinity, and must lie in [0, 1]"
            )

    @property
    def ascending(self) -> tuple[float, ...]:
        """The thresholds in ascending order, each once."""
        return tuple(sorted({float(threshold) for threshold in self.thresholds}))

    def changed(self, changes: Any) -> "SegmentationConfig":
        """With what of ``SegmentationChanges`` is not null."""
        values = {key: value for key, value in asdict(changes).items() if value is not None}
        try:
            return replace(self, **values)
        except ConfigError as error:
            raise ConfigError(f"segmentation.{error}") from error


SegmentationChanges = make_dataclass(
    "SegmentationChanges",
    [(f.name, f.type | None, None) for f in fields(SegmentationConfig)],  # type: ignore[operator]
    namespace={"__module__": __name__},  # or it could not be pickled
)
"""The keys of SegmentationConfig, all null: what evaluate.py is to change of a trained one."""
