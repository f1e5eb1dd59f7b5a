"""Label a volume: ``python scripts/segment.py checkpoint=… input=… output=…``."""

from omegaconf import DictConfig, OmegaConf

from psc.cli import run
from psc.config import SegmentConfig


def main(config: DictConfig) -> None:
    """Check the composed configuration, then predict and write."""
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, SegmentConfig)
    from psc.training.prediction import segment_file

    segment_file(typed)


if __name__ == "__main__":
    run("segment", main)
