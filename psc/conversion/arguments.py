"""The arguments of ``convert`` that a network's shape depends on, as a file can hold them."""

from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

from psc.conversion.convert import Conversion, convert
from psc.conversion.factors import Initialisation
from psc.conversion.observation import ExampleInput
from psc.errors import ConfigError
from psc.streams import Merge
from psc.widths import PUBLISHED_MAXIMUM_WIDTH


@dataclass
class ConversionArguments:
    """What of ``psc.convert``'s arguments a network's shape depends on; see there.

    Attributes:
        width: "eq5", "exact", or a number in digits.
        activation: whether a ReLU follows the 2D convolutions.
        runs: for n > 1, the modules of every run of n convolutions.
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
    runs: list[list[str]] | None = None

    def apply(
        self, network: nn.Module, init: Initialisation, example_input: ExampleInput | None = None
    ) -> Conversion[nn.Module]:
        """Convert a network in place.

        Args:
            network: that is converted.
            init: "svd" or "random".
            example_input: see ``psc.convert``.

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
            runs=self.runs,
            example_input=example_input,
            inplace=True,
        )
