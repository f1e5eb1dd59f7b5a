"""The kernel error that m streams leave at the M of Eq. 5 / m: a table of ``docs/theory.md``."""

from collections.abc import Mapping

import torch
from torch import Tensor

from psc.decomposition import factorise_streams, factorise_sum
from psc.reporting.network_summary import markdown_table
from psc.widths import stream_width

__all__ = ["stream_error_table", "stream_errors"]

_SWEEPS = 5


def stream_errors(weight: Tensor, m: int) -> tuple[float, float]:
    """Relative errors of m concatenated and of m summed streams for one layer.

    Args:
        weight: (out, in, d, d, d), at least m output channels.
        m: number of streams; each has the M of Eq. 5 divided by m, uncapped.

    Returns:
        ‖W − approximation‖ / ‖W‖, concatenated and summed.
    """
    weight = weight.detach().double()
    width = stream_width(weight.shape[1], weight.shape[0], m, kernel_size=weight.shape[2])
    concatenated = factorise_streams(weight, m, width).relative_error
    summed = factorise_sum(weight, m, width, _SWEEPS).relative_error
    return float(concatenated), float(summed)


def stream_error_table(layers: Mapping[str, Tensor], seed: int = 0) -> str:
    """Means over layers for m = 1, 2, 3, of the layers and of random normal ones, as Markdown.

    Args:
        layers: weights (out, in, d, d, d) by name, at least one.
        seed: of the random kernels.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = list(layers.values())
    random = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in trained]
    rows = []
    for label, weights in (("trained", trained), ("random", random)):
        for m in (1, 2, 3):
            errors = torch.tensor([stream_errors(weight, m) for weight in weights]).mean(0)
            rows.append((label, str(m), *(f"{float(error):.3f}" for error in errors)))
    return markdown_table(("kernels", "m", "concatenated", "summed"), rows)
