"""What ``psc.convert`` costs: seconds and memory for whole networks."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.conditions import Conditions
from benchmarks.configurations import PEER, backbone_configuration, block_configuration
from benchmarks.memory import peak_extra_mb
from benchmarks.report import Row
from benchmarks.timing import Timing, interleave
from psc.conversion import Conversion, ConversionReport, convert
from psc.errors import ConfigError
from psc.networks.build import build_network

__all__ = ["NETWORKS", "speed_rows"]

_STREAMS = (1, 2, 3)


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import video

    network: nn.Module = getattr(video, name)(weights=None)
    return network


def _unet() -> nn.Module:
    return build_network(backbone_configuration("unet"), block_configuration(PEER))


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "r3d_18": partial(_torchvision, "r3d_18"),
    "unet": _unet,
    "mc3_18": partial(_torchvision, "mc3_18"),
    "r2plus1d_18": partial(_torchvision, "r2plus1d_18"),
    "s3d": partial(_torchvision, "s3d"),
    "mvit_v2_s": partial(_torchvision, "mvit_v2_s"),
    "swin3d_b": partial(_torchvision, "swin3d_b"),
}
"""The paper's U-Net and torchvision's video networks, of each family the largest."""


def speed_rows(names: Sequence[str], conditions: Conditions, repeats: int, seed: int) -> list[Row]:
    """Convert whole networks with random weights, ``init="svd"``, M of Eq. 5, not in place.

    Layers that cannot be converted (one output channel per group and several streams, say) are
    skipped, and named with the others that stay.

    Args:
        names: of ``NETWORKS``.
        conditions: device and clock.
        repeats: rounds per number of streams.
        seed: of the weights.

    Returns:
        Seconds, memory, errors and parameters, a row per network and m. A *kernel* is the weight of
        the largest layer that is converted (None without one). *Working* memory is the peak without
        the new network's own weights, also of a conversion of that layer alone: at the network's
        peak not all new weights need be there.

    Raises:
        ConfigError: for a network that there is not.
    """
    if unknown := [name for name in names if name not in NETWORKS]:
        raise ConfigError(f"networks {unknown}: there are {', '.join(NETWORKS)}")
    return [row for name in names for row in _convert(name, conditions, repeats, seed)]


def _convert(name: str, conditions: Conditions, repeats: int, seed: int) -> list[Row]:
    torch.manual_seed(seed)
    network = NETWORKS[name]().to(conditions.device)
    contestants = {m: partial(convert, network, m, unsupported="skip") for m in _STREAMS}
    timings = interleave(contestants, repeats, finish=conditions.finish)
    return [
        _row(name, network, m, call, timings[m], conditions.device)
        for m, call in contestants.items()
    ]


def _row(
    name: str,
    network: nn.Module,
    m: int,
    call: Callable[[], Conversion[nn.Module]],
    timing: Timing,
    device: str,
) -> Row:
    peak, conversion = _peak(call, device)
    report = conversion.report
    before, after = _megabytes(network), _megabytes(conversion.model)
    kernel = alone = None
    if report.converted:
        largest = max(report.converted, key=lambda layer: layer.parameters[0])
        layer = network.get_submodule(largest.name)
        kernel = _bytes(layer.get_parameter("weight")) / 1e6
        alone_peak, alone_conversion = _peak(partial(convert, layer, m), device)
        alone = None if alone_peak is None else alone_peak - _megabytes(alone_conversion.model)
    errors = [layer.relative_error for layer in report.converted]
    known = [error for error in errors if error is not None]
    return {
        "network": name,
        "m": m,
        "convolutions": len(report.layers),
        "converted": len(report.converted),
        "left": _left(report),
        "parameters_before": report.parameters[0],
        "parameters_after": report.parameters[1],
        "mean_error": sum(known) / len(known) if known else None,
        "max_error": max(known, default=None),
        "cpu_seconds": timing.cpu_median,
        "wall_seconds": timing.wall_median,
        "network_mb": before,
        "new_network_mb": after,
        "largest_kernel_mb": kernel,
        "peak_extra_mb": peak,
        "peak_over_network": _over(peak, before),
        "peak_over_kernel": _over(peak, kernel),
        "working_over_kernel": None if peak is None else _over(peak - after, kernel),
        "working_of_largest_layer_over_kernel": _over(alone, kernel),
    }


def _peak(
    call: Callable[[], Conversion[nn.Module]], device: str
) -> tuple[float | None, Conversion[nn.Module]]:
    """Megabytes at the peak of a conversion, and its result, which is among them."""
    results: list[Conversion[nn.Module]] = []
    peak = peak_extra_mb(lambda: results.append(call()), device)
    return peak, results[0] if results else call()  # a failed one raises again


def _left(report: ConversionReport) -> str | None:
    """Why the other convolutions stay as they are; a reason that names channels is cut short."""
    reasons = (layer.reason.split(";")[0] for layer in report.layers if layer.reason is not None)
    counted = Counter(reasons).items()
    return "; ".join(f"{count} × {reason}" for reason, count in counted) or None


def _over(size: float | None, kernel: float | None) -> float | None:
    return size / kernel if size is not None and kernel else None


def _megabytes(network: nn.Module) -> float:
    """Weights and buffers, shared ones once."""
    tensors = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return sum(_bytes(tensor) for tensor in tensors.values()) / 1e6


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
