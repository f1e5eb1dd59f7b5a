"""A trained network on a volume without labels: what ``scripts/segment.py`` does."""

import csv
import glob
from pathlib import Path

from psc.config.schema import SegmentConfig
from psc.em.segmenting import segment_neurons
from psc.em.settings import AffinityRecipeConfig
from psc.errors import CheckpointError, ConfigError
from psc.mri.nifti import ENDINGS
from psc.mri.segmenting import segment_tissues
from psc.networks.shipped import weights_file
from psc.training.checkpoints import read_checkpoint


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


def checkpoint_paths(given: str) -> list[Path]:
    """Files that a path, one with * in it, or [such, paths] names; each must match something.

    A path of a list that has a comma in it stands in single quotes.
    """
    names = [given]
    if given[:1] == "[" and given[-1:] == "]" and not Path(given).exists():
        names = next(csv.reader([given[1:-1]], quotechar="'", skipinitialspace=True), [])
    paths: list[Path] = []
    for name in map(str.strip, names):
        found = [name]
        if "*" in name and not Path(name).exists():
            found = sorted(glob.glob(name))  # noqa: PTH207  Path.glob takes no absolute ones
        if not name or not found:
            raise CheckpointError(f"checkpoint={name or given}: nothing matches")
        paths += map(Path, found)
    return list(dict.fromkeys(paths))
