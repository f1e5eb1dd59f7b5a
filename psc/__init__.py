"""Parallel separable 3D convolution (P_mSC_n) for video and volumes."""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psc.block.block import PSCBlock
    from psc.block.convolution import ConvolutionOptions
    from psc.block.unit import make_unit
    from psc.conversion import calibrate, convert, match_features, merge_linear
    from psc.networks.named import create, list_networks
    from psc.networks.weights import list_weights

__all__ = [
    "ConvolutionOptions",
    "PSCBlock",
    "calibrate",
    "convert",
    "create",
    "list_networks",
    "list_weights",
    "make_unit",
    "match_features",
    "merge_linear",
]
__version__ = "0.2.0"

_HOMES = {
    "PSCBlock": "psc.block.block",
    "ConvolutionOptions": "psc.block.convolution",
    "make_unit": "psc.block.unit",
    "calibrate": "psc.conversion",
    "convert": "psc.conversion",
    "match_features": "psc.conversion",
    "merge_linear": "psc.conversion",
    "create": "psc.networks.named",
    "list_networks": "psc.networks.named",
    "list_weights": "psc.networks.weights",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: programs set the process up before torch is loaded."""
    if name == "make_segment":
        message = "psc.make_segment is psc.make_unit now"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        name = "make_unit"
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
