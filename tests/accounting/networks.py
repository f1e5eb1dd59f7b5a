"""The paper's networks as numbers: their parameters and multiply-adds from the layer widths.

Written down from the published layouts, with no module built, as an independent check of
``psc.networks``. Batch of one.
"""

import math
from dataclasses import dataclass

from closed_form import Convolution, Norm, Rule, segment_multiply_adds, segment_parameters, unit

from psc.block.convolution import Padding, Triple


@dataclass
class Budget:
    """A running sum while a network is walked through.

    Attributes:
        size: voxels along (D, H, W) at the present layer.
        parameters: learnable numbers so far.
        multiply_adds: MACs so far.
    """

    size: Triple
    parameters: int = 0
    multiply_adds: int = 0

    def add(self, weights: int, positions: int = 0, beside: int = 0) -> None:
        """Weights that are used at so many positions, and parameters beside them."""
        self.parameters += weights + beside
        self.multiply_adds += weights * positions

    def convolution(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        *,
        bias: bool = False,
        norm: Norm = "none",
        padding: Padding = "same",
    ) -> None:
        """A convolution; its result is the present layer."""
        layer = Convolution(in_channels, out_channels, kernel, stride)
        self.size = layer.output_size(self.size, padding)
        normed = {"none": 0, "before": in_channels, "after": out_channels}[norm]
        self.add(layer.weights, math.prod(self.size), bias * out_channels + 2 * normed)

    def unit(
        self,
        rule: Rule,
        in_channels: int,
        out_channels: int,
        *,
        depth: int,
        stride: int = 1,
        width_limit: int | None = None,
        filters: int | None = None,
        bias: bool = False,
        norm: Norm = "none",
        final_norm: bool = True,
        padding: Padding = "same",
    ) -> None:
        """A unit; its result is the present layer."""
        convolutions = unit(
            rule,
            in_channels,
            out_channels,
            depth=depth,
            stride=stride,
            width_limit=width_limit,
            filters=filters,
        )
        work, self.size = segment_multiply_adds(convolutions, self.size, padding)
        self.multiply_adds += work
        self.parameters += segment_parameters(
            convolutions, bias=bias, norm=norm, final_norm=final_norm
        )

    def scale(self, numerator: int, denominator: int = 1) -> None:
        """Another resolution, without a parameter."""
        d, h, w = (n * numerator // denominator for n in self.size)
        self.size = d, h, w


def unet_budget(
    rule: Rule,
    size: Triple = (132, 132, 132),
    *,
    in_channels: int = 1,
    out_channels: int = 3,
    base_width: int = 24,
    growth: int = 3,
    depth: int = 3,
    padding: Padding = "valid",
) -> Budget:
    """``psc.networks.UNet`` (Section 4.3); arguments as there, defaults as published."""
    budget = Budget(size)
    widths = [base_width * growth**level for level in range(depth + 1)]
    channels = in_channels

    def level(k_in: int, width: int) -> None:
        budget.unit(rule, k_in, width, depth=2, width_limit=width, bias=True, padding=padding)

    for i, width in enumerate(widths):
        if i > 0:
            budget.scale(1, 2)  # pooling
        level(channels, width)
        channels = width
    for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True):
        budget.add(coarse * coarse * 2**3, math.prod(budget.size))  # transposed, from its input
        budget.scale(2)
        budget.convolution(coarse, fine, (1, 1, 1), bias=True)
        level(2 * fine, fine)
    budget.convolution(base_width, out_channels, (1, 1, 1), bias=True)
    return budget


def resnet_budget(
    rule: Rule,
    size: Triple = (64, 64, 64),
    *,
    in_channels: int = 3,
    classes: int = 101,
    blocks: tuple[int, ...] = (3, 4, 6, 3),
    base_width: int = 64,
) -> Budget:
    """``psc.networks.ResNet`` (Section 4.1) with plain stem and projections; defaults: ResNet-34.

    Args:
        rule: of the units.
        size: frames, height and width of a clip.
        in_channels: of the clip.
        classes: of the result.
        blocks: residual blocks of each stage.
        base_width: channels of the first stage.
    """
    budget = Budget(size)
    budget.convolution(in_channels, base_width, (3, 7, 7), (1, 2, 2), norm="after")
    channels = base_width
    for stage, count in enumerate(blocks):
        width = base_width * 2**stage
        for i in range(count):
            stride = 2 if stage and not i else 1
            entered = budget.size
            budget.unit(rule, channels, width, depth=2, stride=stride, norm="after")
            if channels != width:
                budget.size = entered
                budget.convolution(channels, width, (1, 1, 1), (stride,) * 3, norm="after")
            channels = width
    budget.add(channels * classes, 1, classes)
    return budget


def densenet_budget(
    rule: Rule,
    size: Triple = (64, 64, 64),
    *,
    in_channels: int = 1,
    classes: int = 4,
    initial_channels: int = 32,
    growth: int = 16,
    layers_per_block: int = 4,
    dense_blocks: int = 4,
    layers_per_segment: int = 1,
    state_of_the_art: bool = False,
) -> Budget:
    """``psc.networks.DenseNet`` (Section 4.2); arguments as there.

    ``state_of_the_art``: Bui et al.'s bottlenecks of 4, compression by half and transposed
    convolutions; else the paper's reproduction with none of them.
    """
    budget = Budget(size)
    budget.unit(rule, in_channels, initial_channels, depth=3, norm="after", final_norm=False)
    channels = initial_channels
    for level in range(dense_blocks):
        kept = channels
        if level:
            kept = channels // 2 if state_of_the_art else channels
            budget.convolution(channels, kept, (1, 1, 1), norm="before")
        budget.convolution(kept, kept, (2, 2, 2), (2, 2, 2), bias=level > 0, norm="before")
        channels = kept
        for _ in range(layers_per_block // layers_per_segment):
            new, entering = layers_per_segment * growth, channels
            if state_of_the_art:
                entering = 4 * growth
                budget.convolution(channels, entering, (1, 1, 1), norm="before")
            budget.unit(
                rule, entering, new, depth=layers_per_segment, filters=growth, norm="before"
            )
            channels += new
        positions = math.prod(budget.size)
        if state_of_the_art:  # one group of channels per class
            budget.add(channels * ((2 << level) + 2) ** 3, positions)
        else:
            budget.add(channels * classes, positions)
    budget.size = size
    entering = initial_channels + dense_blocks * classes
    budget.convolution(entering, classes, (1, 1, 1), bias=True, norm="before")
    return budget
