"""A trained tissue network on a T1 volume without labels."""

import logging
from pathlib import Path

from psc.config.schema import SegmentConfig
from psc.errors import CheckpointError, ConfigError
from psc.mri.data import SubjectFiles, read_subject
from psc.mri.nifti import write_nifti
from psc.mri.settings import IBSRConfig, TissueRecipeConfig
from psc.mri.testing import predict_tissues
from psc.training.checkpoints import Checkpoint
from psc.training.hardware import arithmetic, inference_device, prediction_precision

log = logging.getLogger(__name__)

ENDINGS = (".nii", ".nii.gz")


def segment_tissues(config: SegmentConfig, checkpoint: Checkpoint) -> Path:
    """Label the tissues of a skull-stripped T1 volume (NIfTI).

    Labels lie in the volume's own space, so that any viewer shows one over the other.
    """
    output, source, trained = Path(config.output), Path(config.input), checkpoint.config
    if not isinstance(trained.recipe, TissueRecipeConfig):
        raise CheckpointError(
            f"{checkpoint.path} was trained with recipe={trained.recipe.name}, which labels no "
            "tissues; for neurons output=… is a folder, and videos are evaluated by evaluate.py"
        )
    if not output.name.endswith(ENDINGS):
        raise ConfigError(f"output={output}: labels are written as NIfTI; name it *.nii.gz")
    if output.exists() and source.exists() and output.samefile(source):
        raise ConfigError(f"output={output} is the input; give another file")
    if output.exists() and not config.overwrite:
        raise ConfigError(f"output={output} exists; give another file, or overwrite=true")
    assert isinstance(trained.dataset, IBSRConfig)  # psc.config.checks
    device = inference_device(config.accelerator)
    precision = prediction_precision(config.precision, trained.trainer.precision, device)
    above = config.brain_above
    subject = read_subject(
        SubjectFiles(name=source.name, image=source),
        voxel_size=trained.dataset.voxel_size,
        brain_above=trained.dataset.brain_above if above is None else above,
        labels_required=False,
    )
    network = checkpoint.network().to(device).eval()
    with arithmetic(precision, device):
        labels = predict_tissues(network, subject, trained.recipe, device=device)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(output, labels, like=subject.native, dtype=labels.dtype)
    log.info("written to %s: 1 CSF, 2 GM, 3 WM", output)
    return output
