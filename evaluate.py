"""Evaluate a checkpoint by the test protocol: ``python evaluate.py checkpoint=runs/…/best.ckpt``."""

from omegaconf import DictConfig, OmegaConf

from psc.cli import run


def main(config: DictConfig) -> None:
    """Choose the threshold on the validation part, report the test part."""
    typed = OmegaConf.to_object(config)
    from psc.evaluation import evaluate_checkpoint

    evaluate_checkpoint(typed)  # type: ignore[arg-type]  # the schema of configs/evaluate.yaml


if __name__ == "__main__":
    run("evaluate", main)
