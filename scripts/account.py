"""What a network has and costs: ``python scripts/account.py backbone=resnet34 block=p2sc2``.

``table=true`` prints the table of all networks (docs/networks.md) instead.
"""

from pathlib import Path

from psc.cli import DictConfig, run
from psc.paper.account import (
    README_PART,
    network_account,
    paper_accounts,
    parameter_table,
    to_account,
)
from psc.paper.text import insert_between


def main(config: DictConfig) -> None:
    """Check the composed configuration, then print one network's account, or the table."""
    typed = to_account(config)
    if not typed.table:
        print(network_account(typed))
        return
    table = parameter_table(paper_accounts())
    print(table)
    if typed.into is not None:
        insert_between(Path(typed.into), README_PART, table)


if __name__ == "__main__":
    run("account", main)
