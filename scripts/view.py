"""Look at a segmentation: ``python scripts/view.py run=runs/<run>``."""

from psc.cli import DictConfig, run
from psc.config.compose import typed_node


def main(config: DictConfig) -> None:
    """Check the composed configuration, then serve or write a page."""
    typed = typed_node(config)
    from psc.viewing import view  # seconds, after a wrong key

    view(typed)


if __name__ == "__main__":
    run("view", main)
