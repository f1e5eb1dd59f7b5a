"""Label a volume: ``python scripts/segment.py checkpoint=… input=… output=…``."""

from psc.cli import DictConfig, run
from psc.config.compose import typed_node


def main(config: DictConfig) -> None:
    """Check the composed configuration, then predict and write."""
    typed = typed_node(config)
    from psc.applications import segment_file  # seconds, after a wrong key

    segment_file(typed)


if __name__ == "__main__":
    run("segment", main)
