"""Evaluate a checkpoint by the test protocol: ``python evaluate.py checkpoint=…``."""

from psc.cli import DictConfig, run
from psc.config.compose import typed_node


def main(config: DictConfig) -> None:
    """Choose the threshold on the validation part, report the test part."""
    typed = typed_node(config)
    from psc.training.evaluation import evaluate_checkpoint  # seconds, after a wrong key

    evaluate_checkpoint(typed)


if __name__ == "__main__":
    run("evaluate", main)
