"""Trained tissue networks, one or an ensemble, on volumes without labels."""

import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from psc.config.schema import SegmentConfig
from psc.errors import ConfigError, DataError
from psc.files import check_output
from psc.mri.data import read_subject
from psc.mri.finding import LABELLED, SubjectFiles, find_images
from psc.mri.nifti import ENDINGS, write_nifti
from psc.mri.settings import SUBJECT, OwnMRIConfig, SubjectsConfig, TissueRecipeConfig
from psc.mri.testing import predict_tissues
from psc.mri.tissues import IBSR, TissueCodes
from psc.training.checkpoints import Checkpoint
from psc.training.prediction import Ensemble, agreed, recipe_of, tell_of

log = logging.getLogger(__name__)


def segment_tissues(config: SegmentConfig, checkpoints: Sequence[Checkpoint]) -> Path:
    """Label the tissues of skull-stripped T1 volumes (NIfTI): of a file, a folder, or a pattern.

    Labels have the values of the training's label files and lie in the volume's own space, so that
    any viewer shows one over the other. Of several networks the probabilities are averaged. A
    volume of several that cannot be read does not stop the others; it is told at the end.
    """
    recipes = [
        recipe_of(
            checkpoint,
            TissueRecipeConfig,
            "labels no tissues; for neurons output=… is a folder, and videos go to"
            " scripts/classify.py",
        )
        for checkpoint in checkpoints
    ]
    what = "tissues, label values, voxel_size or brain_above"
    codes, voxel_size, brain_above = agreed(checkpoints, _labels_by, what)
    output = Path(config.output)
    several = SUBJECT in config.input or Path(config.input).is_dir()
    if several:
        if output.name.endswith(ENDINGS) or output.is_file():
            raise ConfigError(f"output={output}: of several volumes it is a folder")
        sources = {
            path: output / f"{name}{LABELLED}.nii.gz"
            for name, path in find_images(config.input).items()
        }
    elif not output.name.endswith(ENDINGS):
        raise ConfigError(f"output={output}: labels are written as NIfTI; name it *.nii.gz")
    else:
        sources = {Path(config.input): output}
    for source, target in sources.items():
        check_output(target, overwrite=config.overwrite, source=source)
    ensemble = Ensemble(config, checkpoints)
    networks = list(zip(ensemble.networks, recipes, strict=True))
    problems = []
    quiet = not (several and config.progress)
    for source, target in tqdm(sources.items(), "segmenting", unit="volume", disable=quiet):
        try:
            subject = read_subject(
                SubjectFiles(name=source.name, image=source),
                voxel_size=voxel_size,
                brain_above=brain_above if config.brain_above is None else config.brain_above,
                labels_required=False,
            )
            with ensemble.arithmetic():
                labels = codes.written(predict_tissues(networks, subject, device=ensemble.device))
            write_nifti(target, labels, like=subject.native)
        except DataError as error:
            if not several:
                raise
            log.error("%s", error)
            problems.append(str(error))
    tell_of(problems, len(sources), f"volumes could not be segmented, the others are in {output}")
    said = f" by {len(networks)} networks" if len(networks) > 1 else ""
    log.info("written to %s%s: %s", output, said, codes)
    return output


def _labels_by(checkpoint: Checkpoint) -> tuple[TissueCodes, list[float] | None, float | None]:
    """What decides how a network's labels come about: values, grid, and what is brain."""
    dataset = checkpoint.config.dataset
    assert isinstance(dataset, SubjectsConfig)  # psc.config.checks
    codes = TissueCodes.of(dataset.values()) if isinstance(dataset, OwnMRIConfig) else IBSR
    return codes, dataset.voxel_size, dataset.brain_above
