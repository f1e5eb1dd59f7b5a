"""The paper's applications (Section 4), a room each, behind one interface."""

from psc.config.schema import TrainConfig
from psc.em.application import AffinityApplication
from psc.em.settings import AffinityRecipeConfig
from psc.mri.application import TissueApplication
from psc.mri.settings import TissueRecipeConfig
from psc.training.application import Application
from psc.training.settings import RecipeConfig
from psc.video.application import VideoApplication
from psc.video.settings import VideoRecipeConfig

_APPLICATIONS: dict[type[RecipeConfig], type[Application]] = {
    AffinityRecipeConfig: AffinityApplication,
    VideoRecipeConfig: VideoApplication,
    TissueRecipeConfig: TissueApplication,
}
"""Recipe → application: a recipe says what is learned."""


def build_application(config: TrainConfig) -> Application:
    """The application of a checked configuration; reads its data, which may be refused."""
    return _APPLICATIONS[type(config.recipe)](config)
