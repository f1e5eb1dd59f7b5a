"""Trained networks, one or an ensemble, on new clips: what ``scripts/classify.py`` does."""

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from psc.config.schema import ClassifyConfig
from psc.errors import CheckpointError, ConfigError, DataError, first_of
from psc.files import check_output, files_below, locate, nearest, write_csv, writing
from psc.training.checkpoints import Checkpoint, checkpoint_paths, read_checkpoint
from psc.training.data import loader
from psc.training.prediction import Ensemble, agreed, recipe_of, tell_of
from psc.video.clips import EvaluationClips
from psc.video.data import ListedVideo, read_classes
from psc.video.decoding import UNMEASURED, decode_video
from psc.video.listing import Clip, is_video, read_tables
from psc.video.settings import OwnVideoConfig, UCF101Config, VideoRecipeConfig
from psc.video.store import PreparationSettings, PreparedVideo
from psc.video.testing import CLASSES_FILE, predict_clips

log = logging.getLogger(__name__)

_TABLES = (".csv", ".tsv", ".txt")


class _Decoded:
    """A film in memory as ``EvaluationClips`` reads it."""

    def __init__(self, frames: npt.NDArray[np.uint8]) -> None:
        _, count, height, width = frames.shape
        self.frames = frames
        self.videos = {"": PreparedVideo("", count, height, width, 0, 0, "", "", 0)}

    def read(self, key: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self.frames[:, start:stop]


def classify_clips(config: ClassifyConfig) -> Path:
    """Write the most probable classes of every clip, all its samples averaged, as in the test.

    The CSV that is returned has path, label if it is known, classes with their probabilities, and
    for a clip that cannot be read the problem instead, which is told at the end.
    """
    checkpoints = [read_checkpoint(path) for path in checkpoint_paths(config.checkpoint)]
    classes, short_side, *_ = agreed(checkpoints, trained_clips, "classes or clips")
    recipe = checkpoints[0].config.recipe
    assert isinstance(recipe, VideoRecipeConfig)
    if config.top < 1:
        raise ConfigError(f"top={config.top}: must be at least 1")
    output = Path(config.output)
    check_output(output, overwrite=config.overwrite, source=Path(config.input).expanduser())
    with writing(output):  # what cannot be written is told at once
        output.parent.mkdir(parents=True, exist_ok=True)
    clips, missing, left_out = _inputs(config.input, classes)
    if left_out:
        log.warning("%d files are no video: %s", len(left_out), first_of(left_out, 3))
    ensemble = Ensemble(config, checkpoints)
    settings = PreparationSettings(short_side)
    span = (recipe.frames - 1) * recipe.temporal_stride + 1
    most = min(config.top, len(classes))
    names = [f"{what}_{place}" for place in range(1, most + 1) for what in ("class", "probability")]
    rows, problems, unmeasured, looped, right = [], [], [], 0, []
    predicted: Counter[str] = Counter()
    for clip in tqdm(clips, "classifying", unit="clip", disable=not config.progress):
        try:
            video = decode_video(clip.path, settings.frame_size)
        except DataError as error:
            problems.append(str(error))
            rows.append([clip.name, clip.label, *[""] * 2 * most, str(error)])
            continue
        film = _Decoded(video.frames)
        unmeasured += [clip.name] if video.unmeasured else []
        looped += film.frames.shape[1] < span
        mean = _probabilities(ensemble, film, recipe)
        order = np.argsort(-mean, kind="stable")[:most]
        best = [text for i in order for text in (classes[i], f"{mean[i]:.4f}")]
        rows.append([clip.name, clip.label, *best, ""])
        predicted[best[0]] += 1
        right += [best[0] == clip.label] if clip.label in classes else []
    for clip in missing:
        problems.append(f"{clip.name}: no such file")
        rows.append([clip.name, clip.label, *[""] * 2 * most, "no such file"])
    write_csv(["path", "label", *names, "problem"], rows, output)
    counts = first_of([f"{name} {count}" for name, count in predicted.most_common()])
    log.info("%s: %d clips: %s", output, len(rows) - len(problems), counts)
    if looped:
        log.info("looped: %d clips shorter than %d frames", looped, span)
    if unmeasured:
        log.info("%s: %d (%s)", UNMEASURED, len(unmeasured), first_of(unmeasured, 3))
    if right:
        share = 100 * sum(right) / len(right)
        log.info("right: %.1f %% of %d clips whose class is known", share, len(right))
    why = f"clips could not be classified; column problem of {output} says why of each"
    tell_of(problems, len(rows), why)
    return output


def _probabilities(
    ensemble: Ensemble, film: _Decoded, recipe: VideoRecipeConfig
) -> npt.NDArray[np.float64]:
    """Mean softmax (classes,) of the clips that the test protocol cuts, and of the networks."""
    clips = EvaluationClips(
        film,
        [ListedVideo("", 0, "", Path())],
        clips_per_video=recipe.test_clips,
        **recipe.clip_options,
    )
    batches = loader(clips, recipe.evaluation_batch_size, workers=0)
    with ensemble.arithmetic():
        found = [predict_clips(net, batches, ensemble.device)[0] for net in ensemble.networks]
    mean: npt.NDArray[np.float64] = np.mean(found, axis=(0, 1))
    return mean


def trained_clips(checkpoint: Checkpoint) -> tuple[tuple[str, ...], int, int, int, int, int]:
    """Classes of a network, size of frames, and how its clips are cut."""
    trained = checkpoint.config
    otherwise = "classifies no videos; scripts/segment.py applies networks to volumes"
    recipe, dataset = recipe_of(checkpoint, VideoRecipeConfig, otherwise), trained.dataset
    assert isinstance(dataset, UCF101Config | OwnVideoConfig)  # psc.config.checks
    tested = checkpoint.path.resolve().parent.parent / "evaluation" / CLASSES_FILE
    if isinstance(dataset, OwnVideoConfig):
        classes = dataset.outputs()
    elif tested.is_file():
        with tested.open(newline="", encoding="utf-8") as file:
            classes = tuple(row.get("class", "") for row in csv.DictReader(file))
    elif dataset.shared_classes_only:
        raise CheckpointError(
            f"{checkpoint.path} was trained on a part of UCF101; which classes stands in {tested},"
            " which is not there: leave the checkpoint in its run's folder"
        )
    else:
        classes = read_classes(locate(dataset.lists) / "classInd.txt")
    if len(classes) != (outputs := getattr(trained.backbone, "classes", None)):
        raise CheckpointError(
            f"{checkpoint.path}: its network tells {outputs} classes apart, but {tested} or the"
            f" lists of its data set name {len(classes)}; restore them"
        )
    cut = recipe.frames, recipe.temporal_stride, recipe.size, recipe.test_clips
    return classes, dataset.short_side, *cut


def _inputs(place: str, classes: Sequence[str]) -> tuple[list[Clip], list[Clip], list[str]]:
    """Clips by the paths that are written; those that are not there; files that are no video.

    The label of a clip is its CSV's, or the class that a folder above it is named after.
    """
    path = Path(place).expanduser()
    if path.is_file() and path.suffix.lower() in _TABLES:
        listing = read_tables([("", path)], None, labelled=False)
        return listing.clips, listing.missing, []
    if path.is_file():
        return [Clip(place, path, "")], [], []
    if not path.is_dir():
        raise DataError(f"input={place}: no such file or folder; {nearest(path)}")
    files = list(files_below(path))
    clips = [
        Clip(
            str(file),
            file,
            next((n for n in file.relative_to(path.parent).parts[-2::-1] if n in classes), ""),
        )
        for file in files
        if is_video(file)
    ]
    left_out = [str(file) for file in files if not is_video(file)]
    if not clips:
        holds = f"; it holds {first_of(left_out, 3)}" if left_out else ""
        raise DataError(f"input={place}: no video lies in this folder{holds}")
    return clips, [], left_out
