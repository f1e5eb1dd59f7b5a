"""Look at a segmentation: ``python scripts/view.py run=runs/<run>``."""

from omegaconf import DictConfig, OmegaConf

from psc.cli import run
from psc.config.schema import ViewConfig


def main(config: DictConfig) -> None:
    """Check the composed configuration, then serve or write a page."""
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, ViewConfig)
    from psc.viewing.command import view

    view(typed)


if __name__ == "__main__":
    run("view", main)
