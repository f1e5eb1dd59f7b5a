"""Section 3 of the paper as code: 3D kernels as sums of separable kernels, for one and for a layer.

Functions of tensors only; ``docs/theory.md`` derives what they compute and names the tests.
"""

from psc.decomposition.composition import SeparableConvolution, compose, compose_separable
from psc.decomposition.consecutive import (
    StackFactorisation,
    StackFactors,
    compose_run,
    factorise_run,
)
from psc.decomposition.parallel import (
    HOSVD,
    Factorisation,
    StreamFactors,
    factorise,
    factorise_streams,
    factorise_sum,
    full_width,
    hosvd,
)
from psc.decomposition.selection import (
    Orientation,
    all_sub_tensors,
    best_orientation_selection,
    dropped_energy,
    greedy_selection,
    orientation_selection,
    ownership,
    separable_terms,
    split_core,
    truncation_error,
)

__all__ = [
    "HOSVD",
    "Factorisation",
    "Orientation",
    "SeparableConvolution",
    "StackFactorisation",
    "StackFactors",
    "StreamFactors",
    "all_sub_tensors",
    "best_orientation_selection",
    "compose",
    "compose_run",
    "compose_separable",
    "dropped_energy",
    "factorise",
    "factorise_run",
    "factorise_streams",
    "factorise_sum",
    "full_width",
    "greedy_selection",
    "hosvd",
    "orientation_selection",
    "ownership",
    "separable_terms",
    "split_core",
    "truncation_error",
]
