"""How many filters M a stream of P_mSC_n gets: Eq. 5 of the paper and its caps.

Eq. 5 chooses M so that one 2D (d×d) and one 1D (d) convolution through M filters have as many
weights as the d×d×d convolution that they replace. What the paper leaves open (the floor of 3, the
division by the number of streams and the caps) follows the authors' own network definitions.
"""

from psc.errors import ConfigError

MINIMUM_WIDTH = 3
"""Smallest M before it is divided among the streams (the authors' definitions)."""

PUBLISHED_MAXIMUM_WIDTH = 512
"""Largest M of a stream in the authors' networks."""


def separable_width(in_channels: int, out_channels: int, kernel_size: int = 3) -> int:
    """M of Eq. 5, rounded down: k_i·k_{i-1}·d³ / (k_{i-1}·d² + k_i·d).

    Args:
        in_channels: k_{i-1}, the channels that enter.
        out_channels: k_i, the channels that leave.
        kernel_size: d, the extent of the symmetric 3D filter.

    Returns:
        M, at least ``MINIMUM_WIDTH``.

    Raises:
        ConfigError: if an argument is not positive.
    """
    for name, value in (
        ("in_channels", in_channels),
        ("out_channels", out_channels),
        ("kernel_size", kernel_size),
    ):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    d = kernel_size
    numerator = out_channels * in_channels * d**3
    denominator = in_channels * d**2 + out_channels * d
    return max(MINIMUM_WIDTH, numerator // denominator)


def stream_width(
    in_channels: int,
    out_channels: int,
    divisor: int,
    *,
    kernel_size: int = 3,
    maximum: int | None = None,
) -> int:
    """M of each parallel stream: Eq. 5, divided, truncated, then capped.

    Args:
        in_channels: channels that enter the segment (not the single convolution: where a
            segment holds several blocks, all share the M of its first).
        out_channels: k_i, the filters of one of the convolutions that are replaced.
        divisor: m, among whose streams Eq. 5 is divided (Section 3.3: "scaled by 1/s").
        kernel_size: d of Eq. 5.
        maximum: cap of M, None for none. Published: min(out_channels, 512) in the U-Net, 512 in
            the ResNet.

    Returns:
        M per stream, at least 1.

    Raises:
        ConfigError: if an argument is not positive.
    """
    if divisor < 1:
        raise ConfigError(f"divisor must be at least 1, got {divisor}")
    if maximum is not None and maximum < 1:
        raise ConfigError(f"maximum must be at least 1 or None, got {maximum}")
    width = separable_width(in_channels, out_channels, kernel_size) // divisor
    if maximum is not None:
        width = min(width, maximum)
    return max(1, width)
