"""The paper's applications (Section 4): one file each, behind one interface."""

from psc.config.schema import (
    AffinityRecipeConfig,
    RecipeConfig,
    TissueRecipeConfig,
    TrainConfig,
    VideoRecipeConfig,
)
from psc.em.application import AffinityApplication
from psc.mri.application import TissueApplication
from psc.training.application import Application
from psc.video.application import VideoApplication

_APPLICATIONS: dict[type[RecipeConfig], type[Application]] = {
    AffinityRecipeConfig: AffinityApplication,
    VideoRecipeConfig: VideoApplication,
    TissueRecipeConfig: TissueApplication,
}
"""Recipe → application: a recipe says what is learned."""


def build_application(config: TrainConfig) -> Application:
    """The application of a checked configuration; reads its data.

    Raises:
        PSCError: for data that is missing or cannot be used.
    """
    return _APPLICATIONS[type(config.recipe)](config)
