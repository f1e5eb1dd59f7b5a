"""The README's table: every backbone of the paper × every block, beside what was published."""

from collections.abc import Mapping

from psc.accounting import Account, account
from psc.build import build_network_on_meta
from psc.published import RELATIONS, Network, compare
from psc.reporting.network_summary import billions, input_shape, markdown_table, published_form

COLUMNS = ("backbone", "block", "input", "parameters", "MACs", "published", "verdict")

BLOCKS = ("3d", "p1sc1", "p2sc1", "p2sc2", "p2sc3", "p3sc2")

NETWORKS: tuple[Network, ...] = (
    *(("resnet34", block) for block in (*BLOCKS, "p2sc3_calibrated")),
    *(("densenet", block) for block in BLOCKS),
    ("densenet_bui", "3d"),
    *(("unet", block) for block in BLOCKS),
)
"""Rows of the table: the paper's backbones, and Bui et al.'s network as they published it."""

README_PART = "PARAMETERS"
"""What the README's markers call the table (``psc.reporting.markers``)."""

NOTE = (
    "Multiply-adds (MACs; a FLOP count is twice that) are of one forward pass of one input of that "
    "size, biases not counted. “match” is equality at the rounding of the published number. Exact "
    "numbers are counts of network definitions that their authors released, except that of the "
    "U-Net with 3D, of which no file is public. The authors' `p3sc2` U-Net takes the decoder's M "
    "from the 648 channels of its coarsest level, ours from the channels that enter. Figures 5d "
    "and 6d of the paper, which may say more, exist only as images."
)


def paper_accounts() -> dict[Network, Account]:
    """The accounts of all networks of the table, at the paper's inputs."""
    accounts = {}
    for network in NETWORKS:
        config = published_form(network)
        built = build_network_on_meta(config.backbone, config.block)
        accounts[network] = account(built, input_shape(config, built))
    return accounts


def parameter_table(accounts: Mapping[Network, Account]) -> str:
    """The table, and the relations that the paper states, as Markdown.

    Args:
        accounts: of all ``NETWORKS``.
    """

    def count(network: Network) -> int:
        return accounts[network].parameters

    rows = []
    for network, result in accounts.items():
        comparison = compare(network, result.parameters, count)
        rows.append(
            (
                *(f"`{name}`" for name in network),
                _input(result),
                f"{result.parameters:,}",
                billions(result.multiply_adds),
                comparison.published or "–",
                comparison.verdict,
            )
        )
    relations = [
        (
            f"{' '.join(relation.network)}: {relation} ({relation.source})",
            relation.verdict(count(relation.network), count(relation.other)),
        )
        for relation in RELATIONS
    ]
    return "\n\n".join(
        (
            markdown_table(COLUMNS, rows),
            NOTE,
            markdown_table(("the paper compares", "here"), relations),
        )
    )


def _input(result: Account) -> str:
    """1 × 132³."""
    _, channels, size, *others = result.input_shape
    assert set(others) == {size}
    return f"{channels} × {size}³"
