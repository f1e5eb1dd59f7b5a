"""P_mSC_n, the paper's operation (Section 3): Eq. 5, stream, block, unit. Needs torch only."""

from psc.block.block import PSCBlock
from psc.block.stream import ConvolutionOptions
from psc.block.unit import make_segment

__all__ = ["ConvolutionOptions", "PSCBlock", "make_segment"]
