"""The options of EM augmentation from the command line to the data set."""

import json
from dataclasses import asdict

import pytest

from psc.config import compose
from psc.em.augmentation import Augmentation, Deformation, SectionDefects
from psc.errors import ConfigError


def plain(augmentation):
    """With lists, as configurations have them, where the class's defaults are tuples."""
    return json.loads(json.dumps(asdict(augmentation)))


@pytest.mark.parametrize("budget", ["paper", "quick", "demo"])
def test_every_recipe_has_the_published_augmentation_and_no_other(budget):
    augmentation = compose([f"budget={budget}"]).recipe.augmentation
    assert plain(augmentation) == plain(Augmentation())
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
    assert plain(config.recipe.augmentation) == plain(
        Augmentation(
            axis_swaps="yx",
            contrast=(0.9, 1.1),
            deformation=Deformation((4, 30, 50), (0, 2, 3.5), 45, 17, 0.05, 0.04),
            defects=SectionDefects(0.03, 0.02, (0.2, 0.3), 0.01, 1.5),
        )
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("deformation.jitter=[0,40,4]", r"augmentation\.deformation\.jitter=.*fold the tissue"),
        ("deformation.spacing=[40]", r"augmentation\.deformation\.spacing=\[40\]: must be three"),
        ("deformation.slip=2", r"^recipe\.augmentation\.deformation\.slip=2\.0: must lie in"),
        ("defects.missing=-1", r"^recipe\.augmentation\.defects\.missing=-1\.0: must lie in"),
        ("defects.contrast=[0.1,2]", r"^recipe\.augmentation\.defects\.contrast="),
        ("contrast=[-1,1]", r"^recipe\.augmentation\.contrast=.* must not go below 0"),
        ("contrast=[1]", r"^recipe\.augmentation\.contrast=\[1\.0\]: must be \[low, high\]"),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(override, message):
    with pytest.raises(ConfigError, match=message):
        compose([f"recipe.augmentation.{override}"])
