"""P_mSC_n, the paper's operation (Section 3): Eq. 5, stream, block, unit. Needs torch only."""

from psc.block.block import PSCBlock
from psc.block.convolution import ConvolutionOptions
from psc.block.unit import make_unit

__all__ = ["ConvolutionOptions", "PSCBlock", "make_unit"]
