"""What has been published about the networks' sizes, and how a number of ours compares with it.

Exact numbers count the parameters of network definitions that their authors released; numbers of
millions are printed in the paper's Figure 4b. The tables of Figures 5d and 6d exist only as images:
what they say is unknown here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from psc.paper.text import percent

Network = tuple[str, str]
"""Backbone and block, by the names of their configuration files."""

MILLION = 1_000_000

UNKNOWN = "the paper does not say"

CALIBRATED = "calibration (ours), not a rule of the paper"

FIGURE_4B = "Figure 4b"


@dataclass(frozen=True)
class Published:
    """A published number of parameters."""

    parameters: int  # the number, as far as it is given
    source: str  # where it stands
    unit: int = 1  # it is rounded to multiples of this
    # our network was fitted to this number, so that meeting it shows nothing
    calibrated: bool = False

    def __str__(self) -> str:
        """As printed: 64 M, or 25,178,811."""
        if self.unit == MILLION:
            return f"{self.parameters // MILLION} M"
        return f"{self.parameters:,}"


PARAMETERS: dict[Network, Published] = {
    ("unet", "3d"): Published(
        25_178_811,
        "the network of the authors' definitions with 3×3×3 convolutions; no file of it is public",
    ),
    ("unet", "p1sc1"): Published(12_574_139, "the authors' network definition, VCG/psc 1_1"),
    ("unet", "p2sc2"): Published(15_698_611, "the authors' network definition, VCG/psc 2_2"),
    # Its decoder takes M from the 648 channels of the coarsest level, not from those that enter.
    ("unet", "p3sc2"): Published(14_381_295, "the authors' network definition, VCG/psc 3_2"),
    ("resnet34", "3d"): Published(64 * MILLION, FIGURE_4B, MILLION),
    ("resnet34", "p1sc1"): Published(39 * MILLION, FIGURE_4B, MILLION),
    ("resnet34", "p2sc2"): Published(49 * MILLION, FIGURE_4B, MILLION),
    ("resnet34", "p2sc3"): Published(33 * MILLION, FIGURE_4B, MILLION),
    ("resnet34", "p2sc3_calibrated"): Published(33 * MILLION, FIGURE_4B, MILLION, calibrated=True),
    ("densenet_bui", "3d"): Published(
        1_551_392, "Bui et al.'s released network, with one input channel"
    ),
}


@dataclass(frozen=True)
class Relation:
    """What the paper says of one network's size by comparing it with another's."""

    network: Network  # the one it speaks of
    other: Network  # what it is compared with
    # of how many per cent more (or, negative, fewer) parameters it speaks; None: only whether there
    # are more
    percent: int | None
    more: bool  # whether it has more parameters than the other
    source: str  # where it stands

    def __str__(self) -> str:
        """In words: 12 % fewer than densenet_bui 3d."""
        amount = "" if self.percent is None else f"{abs(self.percent)} % "
        backbone, block = self.other
        other = block if backbone == self.network[0] else f"{backbone} {block}"
        return f"{amount}{'more' if self.more else 'fewer'} than {other}"

    def verdict(self, parameters: int, other: int) -> str:
        """Whether our two networks, of so many parameters, bear it out."""
        deviation = 100 * (parameters / other - 1)
        if self.percent is None:
            agrees = self.more == (deviation > 0)
            return f"{'agrees' if agrees else 'disagrees'}: {percent(deviation)}"
        if round(deviation) == self.percent:
            return "match"
        return f"{percent(deviation)} instead of {percent(self.percent, 0)}"


RELATIONS = (
    Relation(("unet", "p2sc2"), ("unet", "3d"), -40, False, "Section 4.3"),
    Relation(("unet", "p2sc2"), ("unet", "p2sc1"), None, True, "Section 4.3"),
    Relation(("resnet34", "p2sc2"), ("resnet34", "p2sc1"), None, True, "Section 4.1"),
    Relation(("densenet", "p2sc3"), ("densenet_bui", "3d"), -12, False, "Section 4.2"),
    Relation(("densenet", "p2sc2"), ("densenet", "p1sc1"), None, False, "Section 4.2"),
)


@dataclass(frozen=True)
class Comparison:
    """A number of ours beside the published one."""

    published: str | None  # what was published, as printed; None if nothing
    # "match" (equal at the rounding it is printed with), the deviation in per cent, or "the paper
    # does not say"
    verdict: str
    source: str | None  # of what was published; None if nothing


def compare(network: Network, parameters: int, count: Callable[[Network], int]) -> Comparison:
    """Compare a network's size with what was published about it.

    Where no number was published but a relation to another network, that is checked instead;
    ``count`` gives the parameters that ours have of it.
    """
    if (published := PARAMETERS.get(network)) is not None:
        verdict = _verdict(published, parameters)
        if published.calibrated:
            verdict = f"{verdict}: {CALIBRATED}"
        return Comparison(str(published), verdict, published.source)
    for relation in RELATIONS:
        if relation.network == network:
            verdict = relation.verdict(parameters, count(relation.other))
            return Comparison(str(relation), verdict, relation.source)
    return Comparison(None, UNKNOWN, None)


def _verdict(published: Published, parameters: int) -> str:
    unit = published.unit
    if (parameters + unit // 2) // unit * unit == published.parameters:
        return "match"
    deviation = 100 * (parameters / published.parameters - 1)
    if abs(deviation) < 0.05:
        return f"{parameters - published.parameters:+,}"  # would read as no deviation at all
    return percent(deviation)
