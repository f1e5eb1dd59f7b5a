"""Two stages of one training: which loss counts when, and what carries over."""

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from psc.em.affinities import affinities_from_labels
from psc.em.settings import AFFINITY_LOSSES, MALIS_NORMALIZATIONS, AffinityRecipeConfig
from psc.em.task import LOSSES, NORMALIZATIONS, AffinityTask, malis_loss
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
    assert set(MALIS_NORMALIZATIONS) == set(NORMALIZATIONS)


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
