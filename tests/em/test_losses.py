"""Losses against sums written out by hand."""

import math

import pytest
import torch

from psc.em.task import LOSSES, balanced_weights


def example(seed=0, size=4):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, size, size, size)
    affinities = (torch.rand(shape, generator=generator) < 0.8).float()
    mask = torch.rand(shape, generator=generator) < 0.7
    logits = torch.randn(shape, generator=generator)
    return logits, affinities, mask


def test_both_classes_weigh_the_same_in_every_patch():
    _, affinities, mask = example()
    weights = balanced_weights(affinities, mask)
    for patch in range(2):
        w, a, known = weights[patch], affinities[patch] > 0.5, mask[patch]
        assert w[known & a].sum().item() == pytest.approx(w[known & ~a].sum().item(), rel=1e-5)
        assert w.sum().item() == pytest.approx(known.sum().item(), rel=1e-5)
        assert not w[~known].any()


def test_a_patch_of_one_class_is_clipped_as_published():
    ones = torch.ones(1, 3, 2, 2, 2)
    assert balanced_weights(ones, ones > 0).unique().tolist() == pytest.approx([0.5 / 0.99])
    zeros = torch.zeros_like(ones)
    assert balanced_weights(zeros, ones > 0).unique().tolist() == pytest.approx([0.5 / 0.99])


def test_balanced_squared_error_by_hand():
    logits, affinities, mask = example(size=2)
    total, known = 0.0, 0
    for n in range(2):
        inside = mask[n]
        fraction = min(max(affinities[n][inside].mean().item(), 0.01), 0.99)
        for a, y, k in zip(
            affinities[n].flatten(), logits[n].flatten(), inside.flatten(), strict=True
        ):
            if k:
                weight = 0.5 / fraction if a == 1 else 0.5 / (1 - fraction)
                total += weight * (1 / (1 + math.exp(-y)) - a.item()) ** 2
                known += 1
    ours = LOSSES["balanced_squared_error"](logits, affinities, mask)
    assert ours.item() == pytest.approx(total / known, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_voxels_have_no_influence(name):
    logits, affinities, mask = example()
    logits.requires_grad_()
    loss = LOSSES[name](logits, affinities, mask)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[~mask].any()
    assert gradient[mask].abs().min() > 0
    poisoned = torch.where(mask, affinities, 1 - affinities)
    assert LOSSES[name](logits, poisoned, mask).item() == pytest.approx(loss.item())


@pytest.mark.parametrize("name", LOSSES)
def test_right_is_better_than_wrong_and_bf16_is_computed_in_fp32(name):
    _, affinities, mask = example()
    right = 8 * (2 * affinities - 1)
    assert LOSSES[name](right, affinities, mask) < 0.01 < LOSSES[name](-right, affinities, mask)
    assert LOSSES[name](right.bfloat16(), affinities, mask).dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_a_patch_without_any_known_voxel_gives_zero(name):
    logits, affinities, mask = example()
    assert LOSSES[name](logits, affinities, torch.zeros_like(mask)).item() == 0
