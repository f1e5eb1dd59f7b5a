"""The paper's applications (Section 4), a room each, behind one interface."""

from collections.abc import Sequence
from pathlib import Path

from psc.config.schema import SegmentConfig, TrainConfig
from psc.em.application import AffinityApplication
from psc.em.segmenting import segment_neurons
from psc.em.settings import AffinityRecipeConfig
from psc.errors import ConfigError
from psc.mri.application import TissueApplication
from psc.mri.nifti import ENDINGS
from psc.mri.segmenting import segment_tissues
from psc.mri.settings import TissueRecipeConfig
from psc.networks.weights import weights_file
from psc.training.application import Application
from psc.training.checkpoints import checkpoint_paths, read_checkpoint
from psc.training.settings import RecipeConfig
from psc.video.application import VideoApplication
from psc.video.settings import VideoRecipeConfig

_APPLICATIONS: dict[type[RecipeConfig], type[Application]] = {
    AffinityRecipeConfig: AffinityApplication,
    VideoRecipeConfig: VideoApplication,
    TissueRecipeConfig: TissueApplication,
}
"""Recipe → application: a recipe says what is learned."""


def build_application(config: TrainConfig) -> Application:
    """The application of a checked configuration; reads its data, which may be refused."""
    return _APPLICATIONS[type(config.recipe)](config)


_ONLY_TISSUES = ("brain_above",)
_ONLY_NEURONS = (
    *("input_key", "missing_chunks", "intensity_range", "voxel_size", "threshold", "block_size"),
    *("context", "levels", "segmentation", "workers", "address"),
)


def segment_file(config: SegmentConfig) -> Path:
    """Label volumes by what the checkpoint's network was trained for; returns what was written.

    Neurons, or tissues, for which several checkpoints are an ensemble; or by weights that come with
    psc.
    """
    if config.checkpoint is None:
        paths = [weights_file(config.weights or "")]
    else:
        paths = checkpoint_paths(config.checkpoint)
    checkpoints = [read_checkpoint(path) for path in paths]
    nifti = Path(config.output).name.endswith(ENDINGS)
    if isinstance(checkpoints[0].config.recipe, AffinityRecipeConfig) and not nifti:
        if len(checkpoints) > 1:
            raise ConfigError(f"checkpoint={config.checkpoint}: neurons are segmented by one")
        _refuse_unread(config, _ONLY_TISSUES, "neurons")
        return segment_neurons(config, checkpoints[0])
    _refuse_unread(config, _ONLY_NEURONS, "tissues")
    return segment_tissues(config, checkpoints)


def _refuse_unread(config: SegmentConfig, keys: Sequence[str], what: str) -> None:
    untouched = SegmentConfig(checkpoint="")
    for key in keys:
        if (value := getattr(config, key)) != getattr(untouched, key):
            raise ConfigError(
                f"{key}={value}: nothing reads it where {what} are segmented; omit it"
            )
