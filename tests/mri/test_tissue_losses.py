import pytest
import torch
import torch.nn.functional as F

from psc.mri.settings import TISSUE_LOSSES
from psc.mri.task import LOSSES

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
