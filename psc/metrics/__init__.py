"""How good a segmentation is: variation of information and adapted Rand error.

Both come from one sparse contingency table of the two label volumes. Needs NumPy, and numba where
a table is counted.
"""

from psc.metrics.contingency import ContingencyTable, contingency_table
from psc.metrics.partitions import (
    AdaptedRand,
    SegmentationScores,
    VariationOfInformation,
    adapted_rand,
    adapted_rand_from_table,
    segmentation_scores,
    variation_of_information,
    variation_of_information_from_table,
)

__all__ = [
    "AdaptedRand",
    "ContingencyTable",
    "SegmentationScores",
    "VariationOfInformation",
    "adapted_rand",
    "adapted_rand_from_table",
    "contingency_table",
    "segmentation_scores",
    "variation_of_information",
    "variation_of_information_from_table",
]
