"""Trained networks as separable ones: ``convert``, its report, and ``merge_linear``, its inverse.

Works on any ``nn.Module``; needs nothing of this project's networks or training.
"""

from psc.conversion.calibration import calibrate, match_features
from psc.conversion.conversion import Conversion, convert, merge_linear
from psc.conversion.factors import composed_weight
from psc.conversion.layers import SeparableConv3d
from psc.conversion.report import ConversionReport, LayerReport

__all__ = [
    "Conversion",
    "ConversionReport",
    "LayerReport",
    "SeparableConv3d",
    "calibrate",
    "composed_weight",
    "convert",
    "match_features",
    "merge_linear",
]
