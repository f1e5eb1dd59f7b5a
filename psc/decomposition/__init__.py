"""Section 3 of the paper as code: 3D kernels as sums of separable kernels, for one and for a layer.

Functions of tensors only; ``docs/theory.md`` derives what they compute and names the tests.
"""

from psc.decomposition.chains import factorise_chain
from psc.decomposition.hosvd import (
    HOSVD,
    Orientation,
    all_sub_tensors,
    dropped_energy,
    greedy_selection,
    hosvd,
    ownership,
    separable_terms,
    split_core,
)
from psc.decomposition.streams import (
    Factorisation,
    StreamFactors,
    compose,
    compose_chain,
    factorise,
    factorise_streams,
    factorise_sum,
    full_width,
)

__all__ = [
    "HOSVD",
    "Factorisation",
    "Orientation",
    "StreamFactors",
    "all_sub_tensors",
    "compose",
    "compose_chain",
    "dropped_energy",
    "factorise",
    "factorise_chain",
    "factorise_streams",
    "factorise_sum",
    "full_width",
    "greedy_selection",
    "hosvd",
    "ownership",
    "separable_terms",
    "split_core",
]
