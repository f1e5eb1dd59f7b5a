"""Section 3 of the paper as code: 3D kernels as sums of separable kernels, for one and for a layer.

Functions of tensors only; ``docs/theory.md`` derives what they compute and names the tests.
"""

from psc.decomposition.chains import factorise_chain
from psc.decomposition.composition import (
    SeparableConvolution,
    compose,
    compose_chain,
    compose_separable,
)
from psc.decomposition.hosvd import (
    HOSVD,
    Orientation,
    all_sub_tensors,
    best_orientation_selection,
    dropped_energy,
    greedy_selection,
    hosvd,
    orientation_selection,
    ownership,
    separable_terms,
    split_core,
    truncation_error,
)
from psc.decomposition.streams import (
    Factorisation,
    StreamFactors,
    factorise,
    factorise_streams,
    factorise_sum,
    full_width,
)

__all__ = [
    "HOSVD",
    "Factorisation",
    "Orientation",
    "SeparableConvolution",
    "StreamFactors",
    "all_sub_tensors",
    "best_orientation_selection",
    "compose",
    "compose_chain",
    "compose_separable",
    "dropped_energy",
    "factorise",
    "factorise_chain",
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
