"""Classify clips: ``python scripts/classify.py checkpoint=… input=… output=…``."""

from psc.cli import DictConfig, run
from psc.config.compose import typed_node


def main(config: DictConfig) -> None:
    """Check the composed configuration, then predict and write."""
    typed = typed_node(config)
    from psc.video.classifying import classify_clips  # seconds, after a wrong key

    classify_clips(typed)


if __name__ == "__main__":
    run("classify", main)
