"""The EM test protocol (Section 4.3): affinities → fragments → agglomeration → VI.

The agglomeration threshold is chosen on the validation part and applied to the test part. Beside
the network stands a baseline without one: affinities from smoothed intensity, segmented, chosen and
scored in exactly the same way.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from psc.blockwise.grid import Box
from psc.config.schema import TrainConfig
from psc.em.affinities import NEAREST, intensity_affinities
from psc.em.bodies import body_errors, write_body_errors
from psc.em.data import Region, Splits, span
from psc.em.pictures import affinity_figure, segmentation_figure
from psc.em.settings import AffinityRecipeConfig, FibsemConfig, SegmentationConfig
from psc.em.watershed import segment, threshold_scores
from psc.errors import DataError
from psc.files import clear
from psc.metrics import SegmentationScores, segmentation_scores
from psc.networks.geometry import VolumeNetwork
from psc.paper.curves import threshold_figure
from psc.training.provenance import git_state
from psc.volumes import output
from psc.volumes.intensity import scale_intensity
from psc.volumes.metadata import Size3
from psc.volumes.tiling import predict_volume, tile_sizes

log = logging.getLogger(__name__)

_Affinities = npt.NDArray[np.float32]
_Labels = npt.NDArray[np.uint64]
_Scores = dict[str, float]

OUTPUT_FILES = (
    "test-*.h5",
    "test-*.png",
    "test-*_bodies.csv",
    "affinities-*.png",
    "thresholds.png",
)
"""What ``write_outputs`` leaves in a folder."""

_BASELINE_SIGMAS = (1.0, 2.0)
"""Smoothing of the baseline in voxels; like its threshold chosen on the validation part."""

_SCORES = ("split", "merge", "total", "adapted_rand_error")

_TILE_TO_PATCH = 4
"""Voxels of the largest tile to those of a training patch: with no gradients to keep it needs about
as much memory as a step of training (measured: U-Net at the paper's width, 1.8 and 1.5 GB)."""


@dataclass(frozen=True)
class Outcome:
    """What one source of affinities reaches."""

    threshold: float  # chosen on the validation part
    validation: _Scores  # at that threshold
    test: _Scores  # at that threshold
    sweep: list[_Scores]  # of the validation part at every threshold
    segmentations: list[_Labels]  # one of each test region, uint64 (D, H, W)
    affinities: list[_Affinities]  # one of each test region, float32 (3, D, H, W)

    def metrics(self) -> dict[str, Any]:
        """What the record says."""
        return {key: getattr(self, key) for key in ("threshold", "validation", "test", "sweep")}


def evaluate_affinities(
    network: VolumeNetwork,
    splits: Splits,
    config: TrainConfig,
    folder: Path,
    *,
    device: torch.device,
    source: dict[str, str],
) -> dict[str, Any]:
    """Run the test protocol; arguments are those of ``psc.training.application.Application``.

    Metrics are ``validation`` and ``test`` scores, the ``threshold``, the validation ``sweep``, and
    the same for the ``baseline``.
    """
    options = config.segmentation
    outcome = run_protocol(
        lambda region: predict_affinities(network, region, config, device), splits, options
    )
    baseline, sigma = _baseline(splits, options)
    log.info(
        "test: VI %.4f bits (split %.4f, merge %.4f), adapted Rand error %.4f; "
        "without a network: VI %.4f",
        *(outcome.test[name] for name in _SCORES[2:3] + _SCORES[:2] + _SCORES[3:]),
        baseline.test["total"],
    )
    write_outputs(folder, splits, outcome, baseline, source)
    return {**outcome.metrics(), "baseline": {"sigma": sigma, **baseline.metrics()}}


Loaded = tuple[Callable[[Tensor], Tensor], torch.device | str]
"""A network in memory: (N, 1, d, h, w) on the device → affinities (N, 3, …) in [0, 1]."""


@dataclass(frozen=True)
class NetworkAffinities:
    """Affinities of any box of a volume, from a network; see ``psc.volumes.tiling``."""

    raw: Any  # (D, H, W), slices like an array
    load: Callable[[], Loaded]  # called once for every box: it must remember its network
    tile_input: Size3
    tile_output: Size3
    period: int
    intensity_range: Sequence[float] | None = None  # what becomes 0 and 1; None = by the dtype
    batch_size: int = 1

    @classmethod
    def of(
        cls,
        network: VolumeNetwork,
        raw: Any,
        shape: Size3,
        config: TrainConfig,
        load: Callable[[], Loaded],
        intensity_range: Sequence[float] | None,
    ) -> "NetworkAffinities":
        """In the tiles that a network predicts a region of this shape in."""
        assert isinstance(config.recipe, AffinityRecipeConfig)  # psc.config.checks
        largest = config.segmentation.tile_input
        if largest is None:
            largest = round(_TILE_TO_PATCH ** (1 / 3) * config.recipe.patch_input(network))
        network = network.unpadded()
        tiles = tile_sizes(network, shape, largest, margin=network.spoilt_margin)
        return cls(
            raw, load, *tiles, network.period, intensity_range, config.segmentation.batch_size
        )

    def __call__(
        self, box: Box | None, progress: Callable[[int, int], None] | None = None
    ) -> _Affinities:
        """Float32 (3, D, H, W) of a box that starts at multiples of the period; None: of all."""
        predict, device = self.load()

        def prepare(tile: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            try:
                return scale_intensity(tile, self.intensity_range)
            except DataError as error:
                name = getattr(self.raw, "where", "the volume")
                at = "" if box is None else f", at or around {span(box)}"
                raise DataError(f"{name}{at}: {error}") from error

        return predict_volume(
            predict,
            self.raw,
            tile_input=self.tile_input,
            tile_output=self.tile_output,
            period=self.period,
            region=box,
            prepare=prepare,
            device=device,
            batch_size=self.batch_size,
            progress=progress,
        )


def nearest_affinities(network: VolumeNetwork) -> Callable[[Tensor], Tensor]:
    """What a network says of nearest neighbours, sigmoid and all."""
    tiled = network.unpadded()
    return lambda tiles: torch.sigmoid(tiled(tiles)[:, : len(NEAREST)].float())


def predict_affinities(
    network: VolumeNetwork, region: Region, config: TrainConfig, device: torch.device
) -> _Affinities:
    """Nearest affinities of a slab, float32 (3, D, H, W) in [0, 1].

    Context is read across the slab's border, and reflected beyond the volume.
    """
    assert isinstance(config.dataset, FibsemConfig)  # psc.config.checks
    raw = region.volume.raw if region.raw_context else region.raw
    predict = nearest_affinities(network)
    affinities = NetworkAffinities.of(
        *(network, raw, region.shape, config),
        load=lambda: (predict, device),
        intensity_range=config.dataset.intensity_range,
    )
    with tqdm(desc=f"predicting {region}", unit="tile") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return affinities(region.box if region.raw_context else None, progress)


def run_protocol(
    affinities_of: Callable[[Region], _Affinities], splits: Splits, options: SegmentationConfig
) -> Outcome:
    """Choose the threshold on the validation regions, segment and score the test regions.

    Several regions count by their voxels.
    """
    chosen_on, tested = splits.parts["validation"], splits.parts["test"]
    sweeps = [threshold_scores(affinities_of(r), r.labels, options) for r in chosen_on]
    sweep = [{"threshold": t, **_average([of[t] for of in sweeps])} for t in sweeps[0]]
    best = min(sweep, key=lambda scores: (scores["total"], scores["threshold"]))
    affinities, segmentations, scores = [], [], []
    for region in tested:
        affinities.append(affinities_of(region))
        _, segmentation = next(segment(affinities[-1], options, [best["threshold"]]))
        segmentations.append(segmentation)
        scores.append(segmentation_scores(region.labels, segmentation))
    chosen = {name: best[name] for name in _SCORES}
    threshold = best["threshold"]
    return Outcome(threshold, chosen, _average(scores), sweep, segmentations, affinities)


def _average(scores: Sequence[SegmentationScores]) -> _Scores:
    sizes = [score.voxels for score in scores]
    return {
        name: float(np.average([getattr(score, name) for score in scores], weights=sizes))
        for name in _SCORES
    }


def _baseline(splits: Splits, options: SegmentationConfig) -> tuple[Outcome, float]:
    """The better of the baseline's smoothings, by the validation part."""

    def outcome(sigma: float) -> Outcome:
        return run_protocol(lambda r: intensity_affinities(r.raw, sigma), splits, options)

    candidates = [(outcome(sigma), sigma) for sigma in _BASELINE_SIGMAS]
    return min(candidates, key=lambda candidate: candidate[0].validation["total"])


def write_outputs(
    folder: Path, splits: Splits, outcome: Outcome, baseline: Outcome, source: dict[str, str]
) -> None:
    """Write test-<i>.h5, the table of its splits and merges and the pictures.

    What an earlier evaluation left there is replaced. Locations in test-<i>_bodies.csv are voxels
    of the file of raw, as the HDF5 files' ``offset_voxels`` has it.
    """
    clear(folder, OUTPUT_FILES)
    provenance: dict[str, str | float] = {
        **source,
        "git_commit": str(git_state()["commit"]),
        "data_kind": splits.kind,
        "agglomeration_threshold": outcome.threshold,
    }
    for i, region in enumerate(splits.parts["test"]):
        truth, raw, voxel_size = region.labels, region.raw, region.volume.voxel_size
        segmentation, affinities = outcome.segmentations[i], outcome.affinities[i]
        output.write_volumes(
            folder / f"test-{i}.h5",
            {
                output.RAW: raw,
                output.TRUTH: truth,
                output.SEGMENTATION: segmentation,
                output.BASELINE: baseline.segmentations[i],
                output.AFFINITIES: affinities,
            },
            voxel_size=voxel_size,
            offset=region.first,
            origin=region.volume.offset,
            provenance={**provenance, "region": str(region)},
        )
        segmentation_figure(
            raw,
            truth,
            {"network": segmentation, "no network": baseline.segmentations[i]},
            folder / f"test-{i}.png",
            voxel_size_nm=voxel_size,
        )
        write_body_errors(
            folder / f"test-{i}_bodies.csv",
            body_errors(truth, segmentation, offset=region.first),
        )
        affinity_figure(raw, affinities, folder / f"affinities-{i}.png", voxel_size_nm=voxel_size)
    sweeps = {"network": outcome.sweep, "no network": baseline.sweep}
    threshold_figure(sweeps, folder / "thresholds.png")
