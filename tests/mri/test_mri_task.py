"""The tissue task: what is logged equals Dice and loss over all validation voxels."""

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from psc.errors import DivergenceError
from psc.mri.settings import TISSUE_LOSSES, TissueRecipeConfig
from psc.mri.task import LOSSES, TissueTask
from psc.training.settings import OptimizerConfig


def recipe(**options):
    return TissueRecipeConfig(
        name="r",
        iterations=4,
        validate_every=4,
        batch_size=2,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        **options,
    )


def patches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count, 4, 5, 6), generator=generator, dtype=torch.uint8)
    image = labels[:, None].float() + torch.randn((count, 1, 4, 5, 6), generator=generator)
    return [{"image": i, "labels": label} for i, label in zip(image, labels, strict=True)]


def run(module, train, validation, limit=1.0):
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        limit_train_batches=limit,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(train, 2), DataLoader(validation, 3))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("loss", ["cross_entropy", "dice"])
def test_validation_dice_is_over_all_voxels_of_all_patches(loss):
    torch.manual_seed(0)
    network = nn.Conv3d(1, 4, 1)
    module = TissueTask(network, recipe(loss=loss), iterations=4)
    validation = patches(5, seed=1)
    logged = run(module, patches(4), validation)
    with torch.inference_mode():
        image = torch.stack([p["image"] for p in validation])
        labels = torch.stack([p["labels"] for p in validation])
        logits = network(image)
    predicted = logits.argmax(1)
    for tissue, value in (("csf", 1), ("gm", 2), ("wm", 3)):
        truth, found = labels == value, predicted == value
        expected = 2 * (truth & found).sum() / (truth.sum() + found.sum())
        assert logged[f"validation/dice_{tissue}"] == pytest.approx(float(expected), abs=1e-6)
    if loss == "cross_entropy":
        expected = F.cross_entropy(logits, labels.long())
        assert logged["validation/loss"] == pytest.approx(float(expected), abs=1e-5)


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    train = patches(40)
    before = run(TissueTask(nn.Conv3d(1, 4, 1), recipe(), iterations=1), train, train, limit=1)
    torch.manual_seed(0)
    fast = recipe()
    fast.optimizer.learning_rate = 0.1
    after = run(TissueTask(nn.Conv3d(1, 4, 1), fast, iterations=20), train, train)
    assert after["validation/loss"] < before["validation/loss"] - 0.1


def test_a_diverged_training_ends():
    network = nn.Conv3d(1, 4, 1)
    with torch.no_grad():
        network.weight.fill_(float("nan"))
    with pytest.raises(DivergenceError):
        run(TissueTask(network, recipe(), iterations=4), patches(2), patches(2))


SHAPE = (2, 4, 5, 3, 4)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(SHAPE, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (2, 5, 3, 4), generator=generator, dtype=torch.uint8)
    return logits, labels


def soft_dice_loss(logits, labels):
    """Written out: tissues 1-3, sums over batch and space."""
    p = logits.softmax(dim=1)
    terms = []
    for tissue in (1, 2, 3):
        truth = (labels == tissue).to(p)
        overlap = (p[:, tissue] * truth).sum()
        terms.append(1 - (2 * overlap + 1e-5) / (p[:, tissue].sum() + truth.sum() + 1e-5))
    return sum(terms) / 3


def test_the_configuration_offers_exactly_the_losses_that_there_are():
    assert set(LOSSES) == set(TISSUE_LOSSES)


def test_cross_entropy_is_the_mean_negative_log_probability():
    logits, labels = batch()
    chosen = logits.float().log_softmax(1).gather(1, labels.long()[:, None])
    torch.testing.assert_close(LOSSES["cross_entropy"](logits, labels), -chosen.mean())


def test_dice_equals_its_formula():
    logits, labels = batch()
    dice = soft_dice_loss(logits.float(), labels)
    torch.testing.assert_close(LOSSES["dice"](logits, labels), dice)
    both = LOSSES["dice_cross_entropy"](logits, labels)
    torch.testing.assert_close(both, dice + F.cross_entropy(logits.float(), labels.long()))


@pytest.mark.parametrize("name", LOSSES)
def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_much(name):
    _, labels = batch()
    right = 30 * F.one_hot(labels.long(), 4).movedim(-1, 1).float()
    wrong = 30 * F.one_hot((labels.long() + 1) % 4, 4).movedim(-1, 1).float()
    assert LOSSES[name](right, labels) < 1e-4
    assert LOSSES[name](wrong, labels) > 0.9


@pytest.mark.parametrize("name", LOSSES)
def test_bf16_logits_are_averaged_in_float32(name):
    logits, labels = batch()
    half = LOSSES[name](logits.bfloat16(), labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, LOSSES[name](logits.bfloat16().float(), labels))


@pytest.mark.parametrize("name", LOSSES)
def test_a_patch_without_any_tissue_gives_a_finite_gradient(name):
    logits, labels = batch()
    LOSSES[name](logits, torch.zeros_like(labels)).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
