"""Evaluate a checkpoint by the test protocol: ``python evaluate.py checkpoint=…``."""

from omegaconf import DictConfig, OmegaConf

from psc.cli import run
from psc.config import EvaluateConfig


def main(config: DictConfig) -> None:
    """Choose the threshold on the validation part, report the test part."""
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, EvaluateConfig)
    from psc.training.evaluation import evaluate_checkpoint

    evaluate_checkpoint(typed)


if __name__ == "__main__":
    run("evaluate", main)
