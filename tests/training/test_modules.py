"""Which patches a training sees: every process and every interval its own."""

import itertools

import pytest

from psc.config import compose
from psc.training.data import EpochSampler, training_epochs


def test_epochs_and_processes_share_out_the_patches():
    seen = []
    for epoch, rank in itertools.product(range(3), range(2)):
        sampler = EpochSampler(length=4, rank=rank, world_size=2)
        sampler.set_epoch(epoch)
        assert len(sampler) == len(list(sampler)) == 4
        seen += list(sampler)
    assert sorted(seen) == list(range(24))


def test_a_later_epoch_does_not_depend_on_the_earlier_ones():
    fresh, used = EpochSampler(5), EpochSampler(5)
    for epoch in range(3):
        used.set_epoch(epoch)
        list(used)
    fresh.set_epoch(2)
    assert list(fresh) == list(used) == [10, 11, 12, 13, 14]


@pytest.mark.parametrize(
    ("iterations", "validate_every", "expected"),
    [
        (900, 150, (6, 150)),
        (50, 100, (1, 50)),
        (1000, 300, (4, 250)),
        (7, 3, (3, 3)),
        (1, 1, (1, 1)),
    ],
)
def test_intervals_cover_the_iterations(iterations, validate_every, expected):
    recipe = compose(
        [f"recipe.iterations={iterations}", f"recipe.validate_every={validate_every}"]
    ).recipe
    epochs, each = training_epochs(recipe)
    assert (epochs, each) == expected
    assert iterations <= epochs * each < iterations + epochs
    assert each <= validate_every
