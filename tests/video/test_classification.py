"""Classification: the loss against torch's own, mixup and label smoothing, what is logged."""

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from psc.errors import DivergenceError
from psc.training.settings import OptimizerConfig
from psc.video.settings import VideoRecipeConfig
from psc.video.task import ClassificationTask


class Mean(nn.Module):
    """A classifier of a clip's mean colour."""

    def __init__(self, classes=4):
        super().__init__()
        self.linear = nn.Linear(3, classes)

    def forward(self, x):
        return self.linear(x.mean(dim=(2, 3, 4)))


def recipe(**options):
    return VideoRecipeConfig(
        name="r",
        iterations=4,
        validate_every=2,
        batch_size=4,
        optimizer=OptimizerConfig(learning_rate=0.1),
        **options,
    )


def clips(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randint(0, 256, (count, 3, 2, 4, 4), dtype=torch.uint8, generator=generator)
    return [{"clip": c, "label": torch.tensor(i % 4)} for i, c in enumerate(clip)]


def task(network=None, **options):
    return ClassificationTask(network or Mean(), recipe(**options), classes=4, iterations=4)


def run(module, train, validation):
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, 4), DataLoader(validation, 4))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy(smoothing):
    module = task(label_smoothing=smoothing)
    batch = next(iter(DataLoader(clips(4), 4)))
    logits = module(module.normalise(batch["clip"]))
    expected = F.cross_entropy(logits, batch["label"], label_smoothing=smoothing)
    assert module._loss(logits, batch["label"]) == expected


def test_validation_measures_are_those_of_the_logits():
    torch.manual_seed(0)
    module, validation = task(), clips(10, seed=1)
    logged = run(module, clips(8), validation)
    module.eval()
    with torch.no_grad():
        batch = next(iter(DataLoader(validation, 10)))
        logits, label = module(module.normalise(batch["clip"])), batch["label"]
    assert logged["validation/loss"] == pytest.approx(F.cross_entropy(logits, label).item(), 1e-5)
    top1 = (logits.argmax(1) == label).float().mean().item()
    assert logged["validation/top1"] == pytest.approx(top1)
    assert logged["validation/top5"] == 1  # of four classes
    assert 0 <= logged["train/error"] <= 1


def test_mixup_blends_clips_and_losses():
    module = task(mixup=0.4)
    module.log = lambda *args, **kwargs: None
    batch = next(iter(DataLoader(clips(4), 4)))
    clip, label = module.normalise(batch["clip"]), batch["label"]
    torch.manual_seed(3)
    found = module._mixed_loss(clip, label)
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(torch.tensor(0.4), torch.tensor(0.4)).sample())
    other = torch.randperm(4)
    targets = share * F.one_hot(label, 4) + (1 - share) * F.one_hot(label[other], 4)
    logits = module(share * clip + (1 - share) * clip[other])
    torch.testing.assert_close(found, F.cross_entropy(logits, targets))


def test_mixup_logs_no_training_error():
    logged = run(task(mixup=0.4), clips(8), clips(4))
    assert "train/error" not in logged
    assert "train/loss" in logged


def test_a_diverged_training_ends():
    network = Mean()
    with torch.no_grad():
        network.linear.bias.fill_(float("nan"))
    with pytest.raises(DivergenceError, match=r"lower recipe\.optimizer\.learning_rate"):
        run(task(network), clips(4), clips(4))
