"""The options of EM augmentation from the command line to the data set."""

import pytest

from psc.config import compose
from psc.config.checks import build_affinity_augmentation
from psc.config.schema import AugmentationConfig
from psc.em.augmentation import Augmentation, Deformation, SectionDefects
from psc.errors import ConfigError


def test_what_the_schema_says_by_default_is_what_the_core_does():
    assert build_affinity_augmentation(AugmentationConfig()) == Augmentation()


@pytest.mark.parametrize("budget", ["paper", "quick", "demo"])
def test_all_is_off_in_every_recipe(budget):
    augmentation = build_affinity_augmentation(compose([f"budget={budget}"]).recipe.augmentation)
    assert not augmentation.deformation.active
    assert not augmentation.defects.active


def test_every_option_arrives():
    prefix = "recipe.augmentation"
    config = compose(
        [
            f"{prefix}.deformation.spacing=[4,30,50]",
            f"{prefix}.deformation.jitter=[0,2,3.5]",
            f"{prefix}.deformation.rotation=45",
            f"{prefix}.deformation.offset=17",
            f"{prefix}.deformation.slip=0.05",
            f"{prefix}.deformation.shift=0.04",
            f"{prefix}.defects.missing=0.03",
            f"{prefix}.defects.low_contrast=0.02",
            f"{prefix}.defects.contrast=[0.2,0.3]",
            f"{prefix}.defects.blur=0.01",
            f"{prefix}.defects.blur_sd=1.5",
            f"{prefix}.contrast=[0.9,1.1]",
            f"{prefix}.axis_swaps=yx",
        ]
    )
    assert build_affinity_augmentation(config.recipe.augmentation) == Augmentation(
        axis_swaps="yx",
        contrast=(0.9, 1.1),
        deformation=Deformation((4, 30, 50), (0, 2, 3.5), 45, 17, 0.05, 0.04),
        defects=SectionDefects(0.03, 0.02, (0.2, 0.3), 0.01, 1.5),
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("deformation.jitter=[0,40,4]", r"augmentation\.deformation\.jitter=.*fold the tissue"),
        ("deformation.spacing=[40]", r"augmentation\.deformation\.spacing=\(40,\): must be three"),
        ("deformation.slip=2", r"recipe\.augmentation\.deformation\.slip=2\.0: must be a prob"),
        ("defects.missing=-1", r"recipe\.augmentation\.defects\.missing=-1\.0: must be a prob"),
        ("defects.contrast=[0.1,2]", r"recipe\.augmentation\.defects\.contrast="),
        ("contrast=[-1,1]", r"recipe\.augmentation: contrast must not be negative"),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(override, message):
    with pytest.raises(ConfigError, match=message):
        compose([f"recipe.augmentation.{override}"])
