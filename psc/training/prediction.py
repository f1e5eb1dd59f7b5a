"""Trained networks, one or an ensemble, on files that a user names: what all applications share."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from psc.config.schema import ClassifyConfig, SegmentConfig
from psc.errors import CheckpointError, DataError
from psc.training.checkpoints import Checkpoint
from psc.training.hardware import arithmetic, inference_device, prediction_precision
from psc.training.settings import RecipeConfig

_RecipeT = TypeVar("_RecipeT", bound=RecipeConfig)
_T = TypeVar("_T")
_MOST_LISTED = 10


def recipe_of(checkpoint: Checkpoint, kind: type[_RecipeT], otherwise: str) -> _RecipeT:
    """How a network was trained; refused if for another application, ``otherwise`` says what."""
    recipe = checkpoint.config.recipe
    if not isinstance(recipe, kind):
        where = f"{checkpoint.path} was trained with recipe={recipe.name}"
        raise CheckpointError(f"{where}, which {otherwise}")
    return recipe


def agreed(checkpoints: Sequence[Checkpoint], decides: Callable[[Checkpoint], _T], what: str) -> _T:
    """What all networks of an ensemble must have in common; refused where one differs."""
    found = [decides(checkpoint) for checkpoint in checkpoints]
    for other, its in zip(checkpoints, found, strict=True):
        if its != found[0]:
            raise CheckpointError(
                f"{other.path} and {checkpoints[0].path} have other {what} ({its} and {found[0]});"
                " an ensemble is of networks that were trained alike, as one data set's folds"
            )
    return found[0]


class Ensemble:
    """Networks of checkpoints on a device, in evaluation mode."""

    def __init__(
        self, config: SegmentConfig | ClassifyConfig, checkpoints: Sequence[Checkpoint]
    ) -> None:
        self.device = inference_device(config.accelerator)
        trained = checkpoints[0].config.trainer.precision
        self.precision = prediction_precision(config.precision, trained, self.device)
        self.networks = [each.network().to(self.device).eval() for each in checkpoints]

    def arithmetic(self) -> AbstractContextManager[Any]:
        """A context in which they compute in the precision that was asked for."""
        return arithmetic(self.precision, self.device)


def tell_of(problems: Sequence[str], total: int, what: str) -> None:
    """At the end: refuse the files that could not be used, ``what`` says how; none is fine."""
    if problems:
        listed = [f"\n  {problem}" for problem in problems[:_MOST_LISTED]]
        more = "\n  …" if len(problems) > len(listed) else ""
        raise DataError(f"{len(problems)} of {total} {what}:{''.join(listed)}{more}")
