"""Parallel separable 3D convolution (P_mSC_n) for video and volumes."""

from psc.blocks import PSCBlock
from psc.convolutions import ConvolutionOptions
from psc.segments import make_segment

__all__ = ["ConvolutionOptions", "PSCBlock", "make_segment"]
__version__ = "0.1.0"
