"""Records as runs leave them, without training."""

import pytest

from psc.results import Record


def scores(total):
    return {"split": total / 4, "merge": total * 3 / 4, "total": total, "adapted_rand_error": 0.1}


SWEEP = [
    {"threshold": 0.2, "split": 1.0, "merge": 0.5},
    {"threshold": 0.5, "split": 0.5, "merge": 1.5},
]


@pytest.fixture
def make_record():
    """A record with 1,234,567 parameters and a VI of 4 bits without a network.

    ``changes`` go into its configuration: ``trainer={"devices": 2}`` replaces that part.
    """

    def make(
        block="3d", seed=0, total=2.0, kind="synthetic", commit="a" * 40, dirty=False, **changes
    ):
        psc = block.startswith("p")
        config = {
            "backbone": {"name": "unet"},
            "block": {
                "name": block,
                "m": int(block[1]) if psc else None,
                "n": int(block[4]) if psc else None,
            },
            "dataset": {"name": "d", "test": [{"raw": "here.h5"}]},
            "recipe": {"iterations": 5},
            "segmentation": {},
            "seed": seed,
        }
        splits = changes.pop("splits", {"test": ["here[0:9]"]})
        return Record(
            run=f"{block}-{seed}",
            config=config | changes,
            parameters=1234567,
            iterations=(config | changes)["recipe"]["iterations"],
            seed=seed,
            metrics={
                "test": scores(total),
                "sweep": SWEEP,
                "baseline": {"test": scores(4.0), "sweep": SWEEP},
            },
            wall_seconds={"training": 90.0},
            throughput={},
            data={"kind": kind, "files": [{"sha256": "f00"}], "splits": splits},
            git={"commit": commit, "dirty": dirty},
            versions={},
            hardware={"device": "some CPU"},
            finished="2026-01-01T00:00:00+00:00",
        )

    return make
