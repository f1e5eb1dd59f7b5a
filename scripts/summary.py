"""What a network has and costs: ``python scripts/summary.py backbone=resnet34 block=p2sc2``.

``table=true`` prints the README's table of all networks instead.
"""

from pathlib import Path

from omegaconf import DictConfig

from psc.cli import run
from psc.paper.network_summary import (
    README_PART,
    network_summary,
    paper_accounts,
    parameter_table,
    to_summary,
)
from psc.paper.readme import insert_between


def main(config: DictConfig) -> None:
    """Check the composed configuration, then print one network's account, or the table."""
    typed = to_summary(config)
    if not typed.table:
        print(network_summary(typed))
        return
    table = parameter_table(paper_accounts())
    print(table)
    if typed.into is not None:
        insert_between(Path(typed.into), README_PART, table)


if __name__ == "__main__":
    run("summary", main)
