"""From runs and volumes to figures. Imports matplotlib, but no pyplot and nothing of Lightning."""

from psc.reporting.curves import curves_figure, threshold_figure
from psc.reporting.disagreement import Disagreement, Region, disagreement
from psc.reporting.segmentation_figures import affinity_figure, segmentation_figure

__all__ = [
    "Disagreement",
    "Region",
    "affinity_figure",
    "curves_figure",
    "disagreement",
    "segmentation_figure",
    "threshold_figure",
]
