"""The arguments of ``convert`` that a network's shape depends on, as a file can hold them."""

from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

from psc.conversion.convert import convert
from psc.conversion.factors import Initialisation
from psc.conversion.layer import Merge
from psc.conversion.report import ConversionReport
from psc.errors import ConfigError
from psc.widths import PUBLISHED_MAXIMUM_WIDTH


@dataclass
class ConversionArguments:
    """What of ``psc.convert``'s arguments a network's shape depends on; see there.

    Attributes:
        width: "eq5", "exact", or a number in digits.
        activation: whether a ReLU stands between 2D and 1D convolutions.
    """

    m: int = 1
    n: int = 1
    width: str = "eq5"
    maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH
    include: list[str] | None = None
    exclude: list[str] | None = None
    merge: str = "concatenate"
    activation: bool = False
    unsupported: str = "refuse"

    def apply(self, network: nn.Module, init: Initialisation) -> ConversionReport:
        """Convert a network in place.

        Raises:
            ConfigError: as ``psc.convert``.
        """
        if self.width not in ("eq5", "exact") and not self.width.isdigit():
            raise ConfigError(f"width must be eq5, exact or a number, got {self.width!r}")
        numbers: dict[str, Literal["eq5"] | None] = {"eq5": "eq5", "exact": None}
        return convert(
            network,
            self.m,
            self.n,
            init=init,
            width=numbers[self.width] if self.width in numbers else int(self.width),
            maximum_width=self.maximum_width,
            include=self.include,
            exclude=self.exclude,
            merge=cast(Merge, self.merge),
            activation=nn.ReLU if self.activation else None,
            unsupported=cast(Literal["refuse", "skip"], self.unsupported),
            inplace=True,
        ).report
