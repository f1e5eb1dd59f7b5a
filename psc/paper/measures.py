"""What an application's results are called, how they are written, and what they are held against.

Tables and pictures of runs work from such a description, chosen by the scores in the record.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from psc.errors import DataError
from psc.training.records import Record


@dataclass(frozen=True)
class Score:
    """One number of a record's test."""

    key: str  # its name in ``metrics["test"]``
    label: str  # heading of its column in tables, with the unit
    column: str  # beginning of its columns' names in CSV files


@dataclass(frozen=True)
class Measures:
    """How the runs of one application are scored."""

    name: str  # of the application, part of file names
    title: str  # heading where a folder holds several applications
    scores: tuple[Score, ...]  # columns of the table
    headline: Score  # the score that pictures show; one of ``scores``
    paired: tuple[Score, ...]  # those whose differences from 3D are told, in the headline's sense
    axis: str  # what its axis is called, with the unit
    lower_is_better: bool  # whether that holds of the headline score
    percent: bool  # scores are shares of 1, written in percent with one decimal, else with three
    sample: str  # what one forward pass takes
    units: str  # what training data are counted in
    floor_name: str  # what needs no network; the last row of the table and a line in pictures
    floor: Callable[[Record], Mapping[str, float]]  # its scores by key, from any record of a test
    floor_column: str  # column of its headline score in CSV files
    # heading of the column that says by how much the headline score differs from the floor; None
    # where that would mean nothing
    against: str | None
    # what a record's scores depend on beside data files and network. Scores that differ in it are
    # not compared.
    test: Callable[[Record], tuple[Any, ...]]
    errors_logged: bool  # whether trainings log errors, shares of 1, beside their loss
    # columns of metrics.csv whose mean is the headline score of the validation part
    validated: tuple[str, ...]
    segmentations: bool  # whether runs leave segmentations and a sweep of agglomeration thresholds

    def text(self, values: Sequence[float]) -> str:
        """Mean ± sample standard deviation, the latter of several values only."""
        scale, decimals = self._form
        if len(values) == 1:
            return f"{scale * values[0]:.{decimals}f}"
        deviation = stdev(values)
        deviation = 0.0 if math.isnan(deviation) else deviation
        return f"{scale * mean(values):.{decimals}f} ± {scale * deviation:.{decimals}f}"

    def change(self, difference: float) -> str:
        """A difference of scores, with its sign."""
        scale, decimals = self._form
        return f"{scale * difference:+.{decimals}f}".replace("-", "−")

    @property
    def _form(self) -> tuple[int, int]:
        """Factor and decimals of written scores."""
        return (100, 1) if self.percent else (1, 3)


def moments(column: str, values: Sequence[float]) -> dict[str, float | None]:
    """Columns of a CSV file: mean and sample standard deviation, None where there is none."""
    deviation = stdev(values) if len(values) > 1 else None
    return {f"{column}_mean": mean(values) if values else None, f"{column}_sd": deviation}


def data_name(record: Record) -> str:
    """The kind of data in words; synthetic data cannot be overlooked."""
    kind = record.data["kind"]
    return "SYNTHETIC data, no result of the paper's" if kind == "synthetic" else f"{kind} data"


def _without_network(record: Record) -> Mapping[str, float]:
    scores: dict[str, float] = record.metrics["baseline"]["test"]
    return scores


def _affinity_test(record: Record) -> tuple[Any, ...]:
    slabs = record.data.get("splits", {}).get("test", ())
    return (*slabs, repr(record.config["segmentation"]))


def _chance(record: Record) -> Mapping[str, float]:
    """Expected scores of guesses, every class as likely; of balanced classes also of one guess."""
    classes = record.data["splits"]["classes"]
    return {"top1": 1 / classes, "top5": min(5, classes) / classes, "clip_top1": 1 / classes}


def _video_test(record: Record) -> tuple[Any, ...]:
    """Length and size of clips are the network's affair: they are what it looks at."""
    splits = record.data["splits"]
    clips = record.config["recipe"]["test_clips"]
    return splits["split"], splits["classes"], splits["videos"]["test"], clips


def _tissue_test(record: Record) -> tuple[Any, ...]:
    """Which labels of which subjects; windows are how a network is applied, so they count too."""
    dataset, recipe = record.config["dataset"], record.config["recipe"]
    splits = record.data["splits"]
    labels = repr(dataset["label_values"]) if "label_values" in dataset else dataset["labels"]
    tested = splits["test"]
    if dataset.get("folds"):  # each is tested in one of them
        tested = sorted((*splits["train"], *splits["validation"], *splits["test"]))
    return (*tested, labels, recipe["overlap"], recipe["blending"])


_VI_SUM = Score("total", "VI sum [bits]", "vi_sum")
_TOP1 = Score("top1", "top-1 [%]", "top1")
_DICE = Score("dice_mean", "mean Dice [%]", "dice_mean")

AFFINITY = Measures(
    name="affinity",
    title="Neuron segmentation",
    scores=(
        Score("split", "VI split", "vi_split"),
        Score("merge", "VI merge", "vi_merge"),
        _VI_SUM,
        Score("adapted_rand_error", "adapted Rand error", "adapted_rand_error"),
    ),
    headline=_VI_SUM,
    paired=(_VI_SUM,),
    axis="VI (bits)",
    lower_is_better=True,
    percent=False,
    sample="patch",
    units="slabs",
    floor_name="no network",
    floor=_without_network,
    floor_column="no_network_vi_sum",
    against="against no network",
    test=_affinity_test,
    errors_logged=False,
    validated=(),
    segmentations=True,
)
"""Table 6d: variation of information and adapted Rand error of the test part's segmentation."""

VIDEO = Measures(
    name="video",
    title="Action recognition",
    scores=(
        _TOP1,
        Score("top5", "top-5 [%]", "top5"),
        Score("clip_top1", "clip top-1 [%]", "clip_top1"),
    ),
    headline=_TOP1,
    paired=(_TOP1,),
    axis="top-1 accuracy",
    lower_is_better=False,
    percent=True,
    sample="clip",
    units="videos",
    floor_name="chance",
    floor=_chance,
    floor_column="chance_top1",
    against=None,
    test=_video_test,
    errors_logged=True,
    validated=("validation/top1",),
    segmentations=False,
)
"""Figure 4b: accuracy over test videos, the softmax of their clips averaged, and over clips."""

_TISSUES = (
    Score("dice_gm", "Dice GM [%]", "dice_gm"),
    Score("dice_wm", "Dice WM [%]", "dice_wm"),
    Score("dice_csf", "Dice CSF [%]", "dice_csf"),
    _DICE,
)

TISSUE = Measures(
    name="tissue",
    title="Brain tissue segmentation",
    scores=_TISSUES,
    headline=_DICE,
    paired=_TISSUES,
    axis="mean Dice of the tissues",
    lower_is_better=False,
    percent=True,
    sample="patch",
    units="subjects",
    floor_name="intensity alone",
    floor=_without_network,
    floor_column="intensity_dice_mean",
    against=None,
    test=_tissue_test,
    errors_logged=False,
    validated=("validation/dice_gm", "validation/dice_wm", "validation/dice_csf"),
    segmentations=False,
)
"""Figure 5d: Dice of whole test subjects, by tissue, averaged over them."""

_ALL = (AFFINITY, VIDEO, TISSUE)


def _other_tissues(keys: tuple[str, ...]) -> Measures:
    """Tissues of a user's own, by the keys of their Dice."""
    names = [key.removeprefix("dice_") for key in keys]
    scores = [Score(f"dice_{name}", f"Dice {name} [%]", f"dice_{name}") for name in names]
    return replace(
        TISSUE,
        name=f"tissue-{'-'.join(names)}"[:60],
        title=f"Segmentation of {', '.join(names)}",
        scores=(*scores, _DICE),
        paired=(*scores, _DICE),
        validated=tuple(f"validation/dice_{name}" for name in names),
        floor_name="the commonest tissue everywhere",
        floor_column="commonest_dice_mean",
    )


def measures_of(record: Record) -> Measures:
    """The description that fits a record's test scores; a record of no application is refused."""
    found = record.metrics.get("test", {})
    dice = [key for key in found if re.fullmatch(r"dice_(?!mean$).*(?<!_sd)", key)]
    if _DICE.key in found and {*dice} != {score.key for score in TISSUE.scores} - {_DICE.key}:
        return _other_tissues(tuple(sorted(dice)))
    for measures in _ALL:
        if all(score.key in found for score in measures.scores):
            return measures
    known = "; ".join(", ".join(s.key for s in measures.scores) for measures in _ALL)
    raise DataError(
        f"run {record.run} has the test scores {sorted(found)}, a comparison needs one of: {known};"
        " move that run elsewhere"
    )
