"""Gain and offset of converted channels, corrected in one forward pass."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from psc.conversion.convert import Conversion
from psc.conversion.following import affine_map
from psc.conversion.observation import ExampleInput, in_evaluation_mode, run_on
from psc.conversion.parallel_streams import ParallelStreams
from psc.conversion.results import kept_results, replaced_layers


@torch.no_grad()
def calibrate(original: nn.Module, conversion: Conversion[Any], batch: ExampleInput) -> None:
    """Bring every channel of the new blocks' results to the original's size, in place.

    Block by block in the order of the data, so that each is corrected for what those before it
    give: every channel is multiplied by the factor, and shifted by the offset, that bring it
    nearest to the original's channel over the batch (linear least squares), and the block's 1D
    convolutions take both in. A channel that has little to do with the original's shrinks towards
    its mean. Blocks without a bias have no offset. No training; ``match_features`` goes further.

    Args:
        original: the network before ``convert``.
        conversion: what ``convert`` returned; its model is changed.
        batch: an input, data as in training.
    """
    model = conversion.model
    layers = replaced_layers(conversion)
    corrected: set[str] = set()
    with ExitStack() as stack:
        stack.enter_context(in_evaluation_mode(original))
        stack.enter_context(in_evaluation_mode(model))
        wanted = kept_results(original, {layer: name for name, layer in layers.items()}, stack)
        run_on(original, batch)

        def correct(name: str, block: ParallelStreams, result: Tensor) -> Tensor | None:
            if name in corrected:  # a block that is called twice
                return None
            corrected.add(name)
            slope, offset = affine_map(result, wanted[name], through_zero=not _has_bias(block))
            _rescale(block, slope, offset)
            shape = (-1, 1, 1, 1)
            return result * slope.to(result).view(shape) + offset.to(result).view(shape)

        for name in layers:
            block = model.get_submodule(name)
            assert isinstance(block, ParallelStreams)
            handle = block.register_forward_hook(
                lambda part, _, y, name=name: correct(name, part, y)
            )
            stack.callback(handle.remove)
        run_on(model, batch)


def _lines(block: ParallelStreams) -> list[nn.Conv3d]:
    lines = [stream.get_submodule("line") for stream in block.streams]
    return [line for line in lines if isinstance(line, nn.Conv3d)]


def _has_bias(block: ParallelStreams) -> bool:
    return any(line.bias is not None for line in _lines(block))


def _rescale(block: ParallelStreams, slope: Tensor, offset: Tensor) -> None:
    """Make the block's result slope · result + offset, channel by channel."""
    if block.channel_order is not None:
        inverse = block.channel_order.argsort()
        slope, offset = slope[inverse], offset[inverse]
    begin = 0
    for line in _lines(block):
        part = slice(begin, begin + line.out_channels)
        factor = slope[part].to(line.weight)
        line.weight.mul_(factor[:, None, None, None, None])
        if line.bias is not None:
            line.bias.mul_(factor).add_(offset[part].to(line.bias))
        if block.merge == "concatenate":
            begin = part.stop
