"""A trained network on a volume without labels: what ``scripts/segment.py`` does."""

from pathlib import Path

from psc.config.schema import SegmentConfig
from psc.em.segmenting import segment_neurons
from psc.em.settings import AffinityRecipeConfig
from psc.errors import ConfigError
from psc.mri.nifti import ENDINGS
from psc.mri.segmenting import segment_tissues
from psc.networks.weights import weights_file
from psc.training.checkpoints import checkpoint_paths, read_checkpoint


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
        return segment_neurons(config, checkpoints[0])
    return segment_tissues(config, checkpoints)
