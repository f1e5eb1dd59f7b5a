"""A trained network on a volume without labels: what ``scripts/segment.py`` does."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psc.config.compose import from_plain
from psc.config.schema import SegmentConfig, TrainConfig
from psc.em.segmenting import segment_neurons
from psc.em.settings import AffinityRecipeConfig
from psc.errors import CheckpointError, ConfigError
from psc.mri.data import SubjectFiles, read_subject
from psc.mri.nifti import write_nifti
from psc.mri.settings import IBSRConfig, TissueRecipeConfig
from psc.mri.testing import predict_tissues
from psc.training.checkpoints import checkpoint_network, load_checkpoint, stored_config
from psc.training.evaluation import inference_device

log = logging.getLogger(__name__)

ENDINGS = (".nii", ".nii.gz")


def segment_file(config: SegmentConfig) -> Path:
    """Segment what the checkpoint's network was trained for: tissues or neurons.

    Args:
        config: the checkpoint, the volume and where to write.

    Returns:
        The file or folder written.

    Raises:
        CheckpointError: if the checkpoint cannot be used, or its network labels no such volume.
        ConfigError: if the output exists or cannot be written so, or an option cannot work.
        DataError: if the volume cannot be read.
    """
    path = Path(config.checkpoint)
    checkpoint = load_checkpoint(path)
    trained = from_plain(stored_config(checkpoint, path), path)
    nifti = Path(config.output).name.endswith(ENDINGS)
    if isinstance(trained.recipe, AffinityRecipeConfig) and not nifti:
        return segment_neurons(config, checkpoint, trained)
    return _segment_tissues(config, checkpoint, trained)


def _segment_tissues(
    config: SegmentConfig, checkpoint: Mapping[str, Any], trained: TrainConfig
) -> Path:
    """Label the tissues of a skull-stripped T1 volume (NIfTI).

    Labels lie in the volume's own space, so that any viewer shows one over the other.
    """
    output, source = Path(config.output), Path(config.input)
    path = Path(config.checkpoint)
    if not isinstance(trained.recipe, TissueRecipeConfig):
        raise CheckpointError(
            f"{path} was trained with recipe={trained.recipe.name}, which labels no tissues; "
            "for neurons output=… is a folder, and videos are evaluated by evaluate.py"
        )
    if not output.name.endswith(ENDINGS):
        raise ConfigError(f"output={output}: labels are written as NIfTI; name it *.nii.gz")
    if output.exists() and source.exists() and output.samefile(source):
        raise ConfigError(f"output={output} is the input; give another file")
    if output.exists() and not config.overwrite:
        raise ConfigError(f"output={output} exists; give another file, or overwrite=true")
    assert isinstance(trained.dataset, IBSRConfig)  # psc.config.checks
    device = inference_device(config.accelerator)
    above = config.brain_above
    subject = read_subject(
        SubjectFiles(name=source.name, image=source),
        voxel_size=trained.dataset.voxel_size,
        brain_above=trained.dataset.brain_above if above is None else above,
        labels_required=False,
    )
    network = checkpoint_network(trained, checkpoint, path)
    labels = predict_tissues(network.to(device).eval(), subject, trained.recipe, device=device)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(output, labels, like=subject.native, dtype=labels.dtype)
    log.info("written to %s: 1 CSF, 2 GM, 3 WM", output)
    return output
