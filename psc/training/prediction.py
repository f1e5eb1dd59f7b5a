"""A trained network on a volume without labels: what ``scripts/segment.py`` does."""

from pathlib import Path

from psc.config.schema import SegmentConfig
from psc.em.segmenting import segment_neurons
from psc.em.settings import AffinityRecipeConfig
from psc.mri.segmenting import ENDINGS, segment_tissues
from psc.training.checkpoints import read_checkpoint


def segment_file(config: SegmentConfig) -> Path:
    """Label a volume by what the checkpoint's network was trained for: tissues or neurons.

    Args:
        config: the checkpoint, the volume and where to write.

    Returns:
        The file or folder written.

    Raises:
        CheckpointError: if the checkpoint cannot be used, or its network labels no such volume.
        ConfigError: if the output exists or cannot be written so, or an option cannot work.
        DataError: if the volume cannot be read.
    """
    checkpoint = read_checkpoint(Path(config.checkpoint))
    nifti = Path(config.output).name.endswith(ENDINGS)
    if isinstance(checkpoint.config.recipe, AffinityRecipeConfig) and not nifti:
        return segment_neurons(config, checkpoint)
    return segment_tissues(config, checkpoint)
