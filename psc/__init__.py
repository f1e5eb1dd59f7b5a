"""Parallel separable 3D convolution (P_mSC_n) for video and volumes."""

from typing import TYPE_CHECKING, Any

from psc.block.block import PSCBlock
from psc.block.stream import ConvolutionOptions
from psc.block.unit import make_segment

if TYPE_CHECKING:
    from psc.conversion import convert, merge_linear

__all__ = ["ConvolutionOptions", "PSCBlock", "convert", "make_segment", "merge_linear"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the conversion only when asked for: it takes SciPy, which takes a second."""
    if name in ("convert", "merge_linear"):
        from psc import conversion

        return getattr(conversion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
