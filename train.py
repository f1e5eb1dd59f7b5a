"""Train a backbone × block on a data set: ``python train.py backbone=unet block=p2sc2``."""

from psc.cli import DictConfig, run
from psc.config.compose import to_typed


def main(config: DictConfig) -> None:
    """Check the composed configuration, then train, evaluate and record."""
    typed = to_typed(config)
    from psc.training.training import train  # seconds of libraries, after all that can be wrong

    train(typed)


if __name__ == "__main__":
    run("train", main)
