"""P_mSC_n, the paper's operation (Section 3), for any network.

All tensors are (N, C, D, H, W). ``psc.segments`` builds runs of it, and of plain convolutions to
compare with.
"""

from dataclasses import replace

from torch import Tensor, nn

from psc.convolutions import ConvolutionOptions, Segment, check_positive
from psc.errors import ConfigError
from psc.formulations import Formulation, concatenate, folds
from psc.streams import Stream
from psc.widths import PUBLISHED_MAXIMUM_WIDTH, stream_width


class PSCBlock(Segment):
    """Parallel separable 3D convolution P_mSC_n (Section 3, Figure 1a right).

    m parallel streams, each n 2D convolutions (d×d, in the stream's plane) to M channels and one
    1D convolution along the remaining axis, concatenated over channels:

    ====== ============== =============
    stream 2D plane       1D axis
    ====== ============== =============
    1      (H, W)         D
    2      (D, W)         H
    3      (D, H)         W
    ====== ============== =============

    The 1D kernel spans n·(d−1)+1 voxels, the extent of n composed d-tap kernels (Eq. 4), so that
    the block has the receptive field, and under valid padding the output size, of the n 3D
    convolutions that it replaces. A non-linearity follows every convolution.

    Use it in any network in place of n consecutive ``nn.Conv3d``::

        block = PSCBlock(32, 64, m=2, n=2)          # same size out: (N, 64, D, H, W)

    Args:
        in_channels: channels that enter.
        out_channels: channels that leave, all streams together. Where m does not divide them, the
            first streams get one channel more than the others (33 on two streams: 17 + 16).
        m: number of streams, 1 to 3.
        n: number of 2D convolutions per stream, at least 1.
        stride: in all three axes: the first 2D convolution strides in its plane, the 1D
            convolution along its axis.
        width: M, filters per stream in the 2D sub-space. None: Eq. 5 divided by m, at most
            ``maximum_width``.
        maximum_width: cap of the M that Eq. 5 gives; None for none.
        options: kernel size, padding, normalisation, activation, formulation. Single fields may be
            given as keywords (``padding="valid"``) instead.

    Input (N, in_channels, D, H, W), result (N, out_channels, D', H', W'), dtype kept.

    Raises:
        ConfigError: for m outside 1–3, n < 1, fewer output channels than streams, or a stride with
            valid padding and n ≥ 2 (the streams would differ in size).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        m: int = 2,
        n: int = 2,
        *,
        stride: int = 1,
        width: int | None = None,
        maximum_width: int | None = PUBLISHED_MAXIMUM_WIDTH,
        options: ConvolutionOptions | None = None,
        **overrides: object,
    ) -> None:
        super().__init__()
        options = _override(options or ConvolutionOptions(), overrides)
        check_streams(m, n)
        check_positive(in_channels, out_channels, stride=stride)
        if out_channels < m:
            raise ConfigError(
                f"out_channels={out_channels} is less than m={m}: every stream needs at least one "
                "output channel; use fewer streams or more channels"
            )
        if stride > 1 and options.padding == "valid" and n > 1 and m > 1:
            raise ConfigError(
                f"stride={stride} with padding='valid', m={m}, n={n}: the streams' sizes would "
                "differ; use padding='same', n=1 or m=1"
            )
        d = options.kernel_size
        if width is None:
            width = stream_width(in_channels, out_channels, m, kernel_size=d, maximum=maximum_width)
        elif width < 1:
            raise ConfigError(f"width must be at least 1, got {width}")
        self.m, self.n, self.width = m, n, width
        self.streams = nn.ModuleList(
            Stream(
                in_channels,
                width,
                out_channels // m + (s < out_channels % m),
                s,
                n,
                stride,
                options,
            )
            for s in range(m)
        )
        along_axis = 1 + n * (d - 1)
        in_plane = 1 + (d - 1) * (1 + (n - 1) * stride)
        # Every axis but the first lies in some stream's plane; the first does once m ≥ 2.
        self.receptive_field = (max(along_axis, in_plane if m > 1 else 0), in_plane, in_plane)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, D, H, W) → (N, out_channels, D', H', W')."""
        if len(self.streams) == 1:
            y: Tensor = self.streams[0](x)
            return y
        folded = folds(x, self.formulation)
        return concatenate([stream(x) for stream in self.streams], folded=folded)

    @property
    def formulation(self) -> Formulation:
        """How the convolutions are computed (``psc.formulations``); may be set at any time."""
        first: Stream = self.streams[0]  # type: ignore[assignment]
        return first.formulation

    @formulation.setter
    def formulation(self, formulation: Formulation) -> None:
        for stream in self.streams:
            stream.formulation = formulation  # type: ignore[assignment]

    def extra_repr(self) -> str:
        """The paper's name of the block, and M."""
        return f"P{self.m}SC{self.n}, M={self.width}"


def check_streams(m: int, n: int) -> None:
    """Refuse an (m, n) that P_mSC_n does not have.

    Raises:
        ConfigError: if m is not 1, 2 or 3 (a volume has three axes), or n < 1.
    """
    if m not in (1, 2, 3):
        raise ConfigError(
            f"m={m}: P_mSC_n has 1, 2 or 3 streams, one per orientation of a volume's three axes"
        )
    if n < 1:
        raise ConfigError(f"n={n}: P_mSC_n has at least one 2D convolution per stream")


def _override(options: ConvolutionOptions, overrides: dict[str, object]) -> ConvolutionOptions:
    unknown = overrides.keys() - ConvolutionOptions.__dataclass_fields__.keys()
    if unknown:
        known = ", ".join(ConvolutionOptions.__dataclass_fields__)
        raise TypeError(f"PSCBlock got unknown arguments {sorted(unknown)}; options are: {known}")
    return replace(options, **overrides)  # type: ignore[arg-type]
