"""Trained tissue networks, one or an ensemble, on volumes without labels."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from psc.config.schema import SegmentConfig
from psc.errors import CheckpointError, ConfigError, DataError
from psc.mri.data import read_subject
from psc.mri.finding import SubjectFiles, find_images
from psc.mri.nifti import ENDINGS, write_nifti
from psc.mri.settings import SUBJECT, OwnMRIConfig, SubjectsConfig, TissueRecipeConfig
from psc.mri.testing import predict_tissues
from psc.mri.tissues import IBSR, TissueCodes
from psc.training.checkpoints import Checkpoint
from psc.training.hardware import arithmetic, inference_device, prediction_precision

log = logging.getLogger(__name__)


def segment_tissues(config: SegmentConfig, checkpoints: Sequence[Checkpoint]) -> Path:
    """Label the tissues of skull-stripped T1 volumes (NIfTI): of a file, a folder, or a pattern.

    Labels have the values of the training's label files and lie in the volume's own space, so that
    any viewer shows one over the other. Of several networks the probabilities are averaged. A
    volume of several that cannot be read does not stop the others; it is told at the end.
    """
    output = Path(config.output)
    dataset, codes = _common(checkpoints)
    several = SUBJECT in config.input or Path(config.input).is_dir()
    if several:
        if output.name.endswith(ENDINGS) or output.is_file():
            raise ConfigError(f"output={output}: of several volumes it is a folder")
        sources = {
            path: output / f"{name}_tissues.nii.gz"
            for name, path in find_images(config.input).items()
        }
    elif not output.name.endswith(ENDINGS):
        raise ConfigError(f"output={output}: labels are written as NIfTI; name it *.nii.gz")
    else:
        sources = {Path(config.input): output}
    for source, target in sources.items():
        if target.exists() and source.exists() and target.samefile(source):
            raise ConfigError(f"output={target} is the input; give another file")
        if target.exists() and not config.overwrite:
            raise ConfigError(f"output={target} exists; give another file, or overwrite=true")
    device = inference_device(config.accelerator)
    trained = checkpoints[0].config.trainer.precision
    precision = prediction_precision(config.precision, trained, device)
    above = dataset.brain_above if config.brain_above is None else config.brain_above
    networks = []
    for checkpoint in checkpoints:
        assert isinstance(checkpoint.config.recipe, TissueRecipeConfig)
        networks.append((checkpoint.network().to(device).eval(), checkpoint.config.recipe))
    problems = []
    quiet = not (several and config.progress)
    for source, target in tqdm(sources.items(), "segmenting", unit="volume", disable=quiet):
        try:
            subject = read_subject(
                SubjectFiles(name=source.name, image=source),
                voxel_size=dataset.voxel_size,
                brain_above=above,
                labels_required=False,
            )
            with arithmetic(precision, device):
                labels = codes.written(predict_tissues(networks, subject, device=device))
            target.parent.mkdir(parents=True, exist_ok=True)
            write_nifti(target, labels, like=subject.native)
        except DataError as error:
            if not several:
                raise
            log.error("%s", error)
            problems.append(f"\n  {error}")
    said = f" by {len(networks)} networks" if len(networks) > 1 else ""
    if problems:
        raise DataError(
            f"{len(problems)} of {len(sources)} volumes could not be segmented, the others are in"
            f" {output}:{''.join(problems)}"
        )
    log.info("written to %s%s: %s", output, said, codes)
    return output


def _common(checkpoints: Sequence[Checkpoint]) -> tuple[SubjectsConfig, TissueCodes]:
    """Data set and label values of all checkpoints; refused if they label differently."""
    found = []
    for checkpoint in checkpoints:
        trained = checkpoint.config
        if not isinstance(trained.recipe, TissueRecipeConfig):
            raise CheckpointError(
                f"{checkpoint.path} was trained with recipe={trained.recipe.name}, which labels no "
                "tissues; for neurons output=… is a folder, and videos go to scripts/classify.py"
            )
        dataset = trained.dataset
        assert isinstance(dataset, SubjectsConfig)  # psc.config.checks
        codes = IBSR
        if isinstance(dataset, OwnMRIConfig):
            codes = TissueCodes.of(dataset.values())
        decides = asdict(dataset)["voxel_size"], dataset.brain_above, codes.tissues, codes.values
        found.append((checkpoint, dataset, codes, decides))
    first, dataset, codes, decides = found[0]
    for other, _, _, others in found[1:]:
        if others != decides:
            raise CheckpointError(
                f"{other.path} and {first.path} have other tissues, label values, voxel_size or"
                f" brain_above ({others} and {decides}); an ensemble is of one data set's folds"
            )
    return dataset, codes
