"""Trained networks as separable ones: ``convert``, its report, and ``merge_linear``, its inverse.

Works on any ``nn.Module``; needs nothing of this project's networks or training.
"""

from psc.conversion.calibrating import calibrate
from psc.conversion.convert import Conversion, convert
from psc.conversion.factors import composed_weight
from psc.conversion.layer import SeparableConv3d
from psc.conversion.matching import match_features
from psc.conversion.merging import merge_linear
from psc.conversion.report import ConversionReport, LayerReport
from psc.conversion.run_factors import composed_run_weight
from psc.conversion.run_layer import SeparableRun3d

__all__ = [
    "Conversion",
    "ConversionReport",
    "LayerReport",
    "SeparableConv3d",
    "SeparableRun3d",
    "calibrate",
    "composed_run_weight",
    "composed_weight",
    "convert",
    "match_features",
    "merge_linear",
]
