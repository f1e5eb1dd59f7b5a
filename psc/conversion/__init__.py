"""Trained networks as separable ones: ``convert``, its report, and ``merge_linear``, its inverse.

Works on any ``nn.Module``; needs nothing of this project's networks or training.
"""

from psc.conversion.convert import Conversion, convert
from psc.conversion.factors import composed_weight
from psc.conversion.layer import SeparableConv3d
from psc.conversion.merging import merge_linear
from psc.conversion.report import ConversionReport, LayerReport

__all__ = [
    "Conversion",
    "ConversionReport",
    "LayerReport",
    "SeparableConv3d",
    "composed_weight",
    "convert",
    "merge_linear",
]
