"""End a training that has diverged instead of computing on."""

import math

from psc.errors import DivergenceError


def check_finite(validation_loss: float, iteration: int) -> None:
    """Refuse to go on from a loss that is no number.

    Raises:
        DivergenceError: if it is infinite or not a number.
    """
    if not math.isfinite(validation_loss):
        raise DivergenceError(
            f"validation/loss is {validation_loss} after iteration {iteration}: the training has "
            "diverged. Checkpoints from before are intact; try a lower "
            "recipe.optimizer.learning_rate"
        )
