"""Two stages of one training: which loss counts when, and what carries over."""

import itertools
import math

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from psc.em.affinities import affinities_from_labels
from psc.em.settings import AFFINITY_LOSSES, MALIS_NORMALIZATIONS, AffinityRecipeConfig
from psc.em.task import (
    LOSSES,
    AffinityTask,
    MalisLoss,
    balanced_weights,
    malis_loss,
    malis_weights,
)
from psc.errors import ConfigError, DataError
from psc.training.settings import OptimizerConfig


def recipe(**options):
    return AffinityRecipeConfig(
        name="r",
        iterations=6,
        validate_every=6,
        batch_size=1,
        output_size=6,
        optimizer=OptimizerConfig(learning_rate=0.01),
        **options,
    )


def patches(count):
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        labels = torch.ones((6, 6, 6), dtype=torch.int32)
        labels[:, 3:] = 2
        affinities, mask = affinities_from_labels(labels.numpy())
        raw = torch.from_numpy(affinities).float().amin(0, keepdim=True)
        found.append(
            {
                "raw": raw + 0.1 * torch.randn(raw.shape, generator=generator),
                "affinities": torch.from_numpy(affinities).float(),
                "mask": torch.from_numpy(mask),
                "labels": labels,
            }
        )
    return found


class Recording(AffinityTask):
    """Notes stage, loss and the optimiser's own count at every iteration."""

    def on_fit_start(self):
        self.seen = []

    def on_train_batch_end(self, outputs, batch, batch_idx):
        state = next(iter(self.trainer.optimizers[0].state.values()))
        logged = self.trainer.callback_metrics
        self.seen.append((float(logged["train/stage"]), float(outputs["loss"]), int(state["step"])))


def run(task, steps=6):
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, DataLoader(patches(steps), 1), DataLoader(patches(2), 2))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_the_configuration_offers_exactly_what_there_is():
    assert set(AFFINITY_LOSSES) == set(LOSSES)


def test_malis_takes_over_at_its_iteration_with_the_optimisers_state():
    torch.manual_seed(0)
    task = Recording(nn.Conv3d(1, 3, 3, padding=1), recipe(malis_from=4), iterations=6)
    run(task)
    assert [stage for stage, _, _ in task.seen] == [1, 1, 1, 1, 2, 2]
    assert [step for _, _, step in task.seen] == [1, 2, 3, 4, 5, 6]


def test_each_stage_has_its_loss():
    torch.manual_seed(0)
    network = nn.Conv3d(1, 3, 3, padding=1)
    (batch,) = DataLoader(patches(1), 1)
    logits = network(batch["raw"])
    first = LOSSES["balanced_squared_error"](logits, batch["affinities"], batch["mask"])
    second = malis_loss(logits, batch["labels"], batch["mask"], normalization="counted")
    assert abs(first.item() - second.item()) > 0.01
    for start, expected in ((5, first), (0, second)):
        task = Recording(
            network, recipe(malis_from=start, malis_normalization="counted"), iterations=6
        )
        task.recipe.optimizer.learning_rate = 1e-9
        run(task, steps=1)
        assert task.seen[0][1] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("start", [None, 5])
def test_validation_has_the_last_stages_loss_throughout(start):
    torch.manual_seed(0)
    network = nn.Conv3d(1, 3, 3, padding=1)
    task = AffinityTask(network, recipe(malis_from=start), iterations=6)
    logged = run(task, steps=2)  # in stage 1
    (batch,) = DataLoader(patches(2), 2)
    with torch.inference_mode():
        logits = network(batch["raw"])
    if start is None:
        expected = LOSSES["balanced_squared_error"](logits, batch["affinities"], batch["mask"])
    else:
        expected = malis_loss(logits, batch["labels"], batch["mask"], normalization="labelled")
    assert logged["validation/loss"] == pytest.approx(expected.item(), abs=1e-5)


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


SHAPE = (3, 4, 5)


def malis_example(seed, *, samples=1, labels=(0, 1, 1, 2, 5), dtype=torch.float32):
    """Logits whose affinities all differ, labels, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((samples, 3, *SHAPE), generator=generator, dtype=dtype)
    drawn = torch.randint(0, len(labels), (samples, *SHAPE), generator=generator)
    mask = torch.rand(logits.shape, generator=generator) < 0.8
    return logits, torch.tensor(labels)[drawn], mask


def maximin(values):
    """Maximin affinity of all pairs of voxels, by Floyd and Warshall; values (3, D, H, W)."""
    places = list(itertools.product(*(range(n) for n in SHAPE)))
    number = {place: i for i, place in enumerate(places)}
    best = np.full((len(places), len(places)), -1.0)
    np.fill_diagonal(best, 2)
    for (z, y, x), i in number.items():
        for axis, before in enumerate([(z - 1, y, x), (z, y - 1, x), (z, y, x - 1)]):
            if min(before) >= 0:
                j = number[before]
                best[i, j] = best[j, i] = values[axis, z, y, x]
    for k in range(len(places)):
        np.maximum(best, np.minimum(best[:, k, None], best[None, k]), out=best)
    return best


def loss_by_pairs(affinities, labels, mask, normalization):
    """One sample, in float64, without any spanning tree.

    Affinities differ, so that of a pair's maximin edge tells which edge it is.
    """
    target, known = np.zeros((2, 3, *SHAPE), dtype=bool)
    for axis in range(3):
        here, before = np.moveaxis(labels, axis, 0)[1:], np.moveaxis(labels, axis, 0)[:-1]
        np.moveaxis(target[axis], axis, 0)[1:] = (here == before) & (here != 0)
        np.moveaxis(known[axis], axis, 0)[1:] = (here != 0) & (before != 0)
    if mask is not None:
        known = mask
    low = maximin(np.where(known, np.minimum(affinities, target), affinities))
    high = maximin(np.where(known, np.maximum(affinities, target), affinities))
    may_rise, may_fall = affinities[known & target], affinities[known & ~target]
    errors, pairs = ([], []), [0, 0]
    flat = labels.ravel()
    for i in range(flat.size):
        for j in range(i):
            if flat[i] and flat[j]:
                different = int(flat[i] != flat[j])
                pairs[different] += 1
                if different and high[i, j] in may_fall:
                    errors[1].append(high[i, j] ** 2)
                if not different and low[i, j] in may_rise:
                    errors[0].append((1 - low[i, j]) ** 2)
    if normalization == "counted":
        pairs = [len(side) for side in errors]
    return sum(sum(side) / max(n, 1) for side, n in zip(errors, pairs, strict=True))


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from(MALIS_NORMALIZATIONS))
def test_loss_equals_the_sum_over_pairs(seed, masked, normalization):
    logits, labels, mask = malis_example(seed)
    affinities = torch.sigmoid(logits)[0].numpy()
    mask = mask if masked else None

    loss = malis_loss(logits, labels, mask, normalization=normalization)

    known = None if mask is None else mask[0].numpy()
    expected = loss_by_pairs(affinities, labels[0].numpy(), known, normalization)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert loss.shape == ()


@pytest.mark.parametrize("normalization", MALIS_NORMALIZATIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_equals_finite_differences(normalization, masked):
    logits, labels, mask = malis_example(3, dtype=torch.float64)
    logits.requires_grad_()

    assert torch.autograd.gradcheck(
        lambda x: malis_loss(x, labels, mask if masked else None, normalization=normalization),
        logits,
    )
    affinities = torch.sigmoid(logits).detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a: MalisLoss.apply(a, labels, mask if masked else None, normalization), affinities
    )
    gradient = torch.autograd.grad(malis_loss(logits, labels, mask), logits)[0]
    assert gradient.dtype == torch.float64
    assert not gradient[:, 0, 0].any()  # no voxel has a predecessor there
    assert gradient.any()


def test_gradient_is_that_of_constant_weights():
    """And float32 logits, as in a training, get it through any function that follows."""
    logits, labels, mask = malis_example(4, samples=2)
    logits.requires_grad_()
    affinities = torch.sigmoid(logits)
    positive, negative = malis_weights(affinities, labels, mask, normalization="counted")
    by_hand = (positive * (1 - affinities) ** 2 + negative * affinities**2).sum() / 2

    loss = malis_loss(logits, labels, mask)

    torch.testing.assert_close(loss, by_hand)
    expected, ours = (
        torch.autograd.grad(3 * torch.log(value), logits)[0] for value in (by_hand, loss)
    )
    torch.testing.assert_close(ours, expected)


def test_a_batch_is_the_mean_of_its_samples():
    logits, labels, mask = malis_example(5, samples=3)
    logits.requires_grad_()

    together = malis_loss(logits, labels, mask)
    alone = [malis_loss(logits[[n]], labels[[n]], mask[[n]]) for n in range(3)]

    torch.testing.assert_close(together, torch.stack(alone).mean())
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (together, sum(alone) / 3)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("normalization", MALIS_NORMALIZATIONS)
def test_weights_of_each_side_sum_to_one_or_to_the_share_that_is_connected(normalization):
    _, labels, mask = malis_example(6, samples=2)
    affinities = torch.rand((2, 3, *SHAPE))

    weights = malis_weights(affinities, labels, mask, normalization=normalization)

    sums = weights.sum((2, 3, 4, 5))
    assert weights.shape == (2, 2, 3, *SHAPE)
    if normalization == "counted":
        torch.testing.assert_close(sums, torch.ones(2, 2))
    else:
        assert ((sums > 0) & (sums < 1)).all()
    assert not weights[:, ~mask].any()
    assert not (weights[0] * weights[1]).any()  # an edge is inside an object or between two


def test_right_is_better_than_wrong():
    labels = torch.ones((1, 4, 4, 4), dtype=torch.uint8)
    labels[:, 2:] = 2
    right = torch.full((1, 3, 4, 4, 4), 8.0)
    right[:, 0, 2] = -8

    assert malis_loss(right, labels) < 1e-5
    assert malis_loss(-right, labels).item() == pytest.approx(2, abs=1e-2)


def test_a_hole_in_a_membrane_gets_the_whole_gradient():
    labels = torch.ones((1, 4, 4, 4), dtype=torch.int32)
    labels[:, 2:] = 2
    logits = torch.full((1, 3, 4, 4, 4), 6.0)
    logits[:, 0, 2] = -6
    logits[0, 0, 2, 1, 3] = 1
    logits.requires_grad_()

    (gradient,) = torch.autograd.grad(malis_loss(logits, labels), logits)

    assert gradient.argmax() == np.ravel_multi_index((0, 2, 1, 3), (3, 4, 4, 4))
    gradient[0, 0, 2, 1, 3] = 0
    assert not gradient[0, 0, 2].any()
    assert (gradient <= 0).all()  # all others must rise, if anything


@pytest.mark.parametrize("fill", [0, 7])
def test_without_pairs_of_a_kind_nothing_is_pushed_that_way(fill):
    logits, labels, _ = malis_example(7, samples=2)
    logits.requires_grad_()

    loss = malis_loss(logits, torch.full_like(labels, fill))

    (gradient,) = torch.autograd.grad(loss, logits)
    if fill == 0:
        assert loss.item() == 0
        assert not gradient.any()
    else:
        assert loss.item() > 0
        assert (gradient <= 0).all()


def test_ids_of_any_size_and_type():
    logits, labels, mask = malis_example(8, samples=2)
    ids = torch.tensor([0, 2**62 + 1, 2**62, -1, -1, 9])

    expected = malis_loss(logits, labels, mask)

    assert malis_loss(logits, ids[labels], mask) == expected
    assert malis_loss(logits, labels.to(torch.uint8), mask) == expected
    assert malis_loss(logits, labels.int().transpose(1, 3).contiguous().transpose(1, 3)) == (
        malis_loss(logits, labels)
    )


def test_the_layout_of_the_network_does_not_matter():
    logits, labels, mask = malis_example(13, samples=2)

    last = malis_loss(logits.contiguous(memory_format=torch.channels_last_3d), labels, mask)

    assert last.item() == pytest.approx(malis_loss(logits, labels, mask).item(), rel=1e-6)


def test_bf16_is_computed_in_fp32():
    logits, labels, mask = malis_example(9)
    half = logits.bfloat16().requires_grad_()

    loss = malis_loss(half, labels, mask)

    assert loss.dtype == torch.float32
    assert loss == malis_loss(half.detach().float(), labels, mask)
    assert torch.autograd.grad(loss, half)[0].dtype == torch.bfloat16


def test_threads_change_nothing():
    logits, labels, mask = malis_example(10, samples=6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = malis_weights(torch.sigmoid(logits), labels, mask, normalization="counted")
        torch.set_num_threads(4)
        for _ in range(3):
            weights = malis_weights(torch.sigmoid(logits), labels, mask, normalization="counted")
            assert torch.equal(weights, expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.ones((2, *SHAPE))}, DataError, "labels must be integers"),
        ({"labels": torch.ones((2, 3, 4, 4), dtype=int)}, DataError, r"have shape \(3, 4, 4\)"),
        ({"labels": torch.ones((3, *SHAPE), dtype=int)}, DataError, "of {2, 3} samples"),
        ({"labels": -torch.ones((2, *SHAPE), dtype=int)}, DataError, "must not be negative"),
        ({"mask": torch.ones((2, 3, *SHAPE))}, DataError, "mask must be bool"),
        ({"mask": torch.ones((2, *SHAPE), dtype=bool)}, DataError, "mask must be bool"),
        ({"logits": torch.zeros((2, 2, *SHAPE))}, DataError, "must have shape"),
        ({"logits": torch.full((2, 3, *SHAPE), torch.nan)}, DataError, "nan"),
        ({"normalization": "pairs"}, ConfigError, "counted, labelled; found 'pairs'"),
    ],
)
def test_refused(change, error, message):
    logits, labels, mask = malis_example(11, samples=2)
    arguments = {"logits": logits, "labels": labels, "mask": mask} | change
    with pytest.raises(error, match=message):
        malis_loss(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu():
    logits, labels, mask = malis_example(12, samples=3)
    here = logits.clone().requires_grad_()
    there = logits.cuda().requires_grad_()

    expected = malis_loss(here, labels, mask)
    loss = malis_loss(there, labels.cuda(), mask.cuda())

    assert loss.device.type == "cuda"
    torch.testing.assert_close(loss.cpu(), expected)
    gradients = [torch.autograd.grad(*pair)[0].cpu() for pair in ((expected, here), (loss, there))]
    torch.testing.assert_close(*gradients)
