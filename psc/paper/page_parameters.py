"""The parameter account on the page: every network with every block, beside what was published."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from psc.accounting import Account
from psc.paper.formats import NOTHING, Grid
from psc.paper.page_html import inline, table, text
from psc.paper.pictures import block_label
from psc.published import PARAMETERS, RELATIONS, Network, Relation, compare
from psc.reporting.network_summary import billions
from psc.reporting.parameter_table import NOTE

Accounts = Mapping[Network, Account]

_NAMES = {
    "resnet34": "ResNet-34, video",
    "densenet": "DenseNet, brain MRI",
    "densenet_bui": "DenseNet as Bui et al. released it",
    "unet": "U-Net, electron microscopy",
}
_SHORT_NAMES = {
    "resnet34": "ResNet-34",
    "densenet": "DenseNet",
    "densenet_bui": "Bui et al.'s",
    "unet": "U-Net",
}
_FULL = "3d"


@dataclass(frozen=True)
class Agreement:
    """How our networks' sizes compare with the published ones; calibrated ones are not counted.

    Attributes:
        met: published numbers that ours equal at the rounding that they are printed with.
        published: of how many.
        agreeing: comparisons in the text that ours bear out.
        relations: of how many.
    """

    met: int
    published: int
    agreeing: int
    relations: int


def agreement(accounts: Accounts) -> Agreement:
    """Count what agrees."""

    def count(network: Network) -> int:
        return accounts[network].parameters

    published = [n for n, found in PARAMETERS.items() if n in accounts and not found.calibrated]
    relations = _relations(accounts)
    return Agreement(
        met=sum(compare(n, count(n), count).verdict == "match" for n in published),
        published=len(published),
        agreeing=sum(
            relation.verdict(count(relation.network), count(relation.other)).startswith(
                ("match", "agrees")
            )
            for relation in relations
        ),
        relations=len(relations),
    )


def parameters_section(accounts: Accounts) -> str:
    """A table for each backbone, the paper's comparisons, and what the numbers mean."""
    names = {backbone: _NAMES.get(backbone, backbone) for backbone, _ in accounts}
    tables = "".join(
        f"<h3>{text(name)}</h3>\n"
        + table(_of_backbone(accounts, backbone), label=f"Sizes of {name}")
        for backbone, name in names.items()
    )
    relations = [("the paper compares", "here", "place")]
    relations += [
        (
            _readable(f"{' '.join(relation.network)}: {relation}"),
            relation.verdict(
                accounts[relation.network].parameters, accounts[relation.other].parameters
            ),
            relation.source,
        )
        for relation in _relations(accounts)
    ]
    return (
        '<section id="parameters">\n<h2>Parameters and multiply-adds</h2>\n'
        "<p>Counted from the networks that the configuration builds, at the paper's width; nothing "
        "is trained for this.</p>\n"
        f'{tables}<p class="faint">{inline(NOTE)}</p>\n'
        "<h3>What the paper says of these sizes</h3>\n"
        f"{table(relations, label='Comparisons of sizes')}</section>\n"
    )


def _relations(accounts: Accounts) -> list[Relation]:
    return [r for r in RELATIONS if r.network in accounts and r.other in accounts]


def _of_backbone(accounts: Accounts, backbone: str) -> Grid:
    full = accounts.get((backbone, _FULL))
    grid: Grid = [
        (
            *("block", "input", "parameters", "against 3D", "MACs", "MACs against 3D"),
            *("published", "verdict"),
        )
    ]
    for network, found in accounts.items():
        if network[0] != backbone:
            continue
        comparison = compare(network, found.parameters, lambda n: accounts[n].parameters)
        _, channels, size, *_ = found.input_shape
        grid.append(
            (
                block_label(network[1]),
                f"{channels} × {size}³",
                f"{found.parameters:,}",
                _change(found.parameters, full.parameters if full else None, network),
                billions(found.multiply_adds),
                _change(found.multiply_adds, full.multiply_adds if full else None, network),
                _readable(comparison.published or NOTHING),
                comparison.verdict,
            )
        )
    return grid


def _change(value: int, full: int | None, network: Network) -> str:
    if full is None or network[1] == _FULL:
        return NOTHING
    return f"{100 * (value / full - 1):+.1f} %".replace("-", "−")


def _readable(words: str) -> str:
    """Names of configuration files as the paper writes them: densenet p2sc3 as DenseNet P₂SC₃."""
    words = re.sub(r"\b(p\dsc\d|3d)\b", lambda found: block_label(found[0]), words)
    for backbone, name in _SHORT_NAMES.items():
        words = re.sub(rf"\b{backbone}\b", name, words)
    return words
