"""What ``psc.convert`` costs on whole networks, and how far its kernels are from the given ones."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from benchmarks import timing
from benchmarks.networks import PEER, named, torchvision_network
from benchmarks.timing import Conditions, Row, ratio
from psc.conversion import convert
from psc.errors import ConfigError
from psc.networks.build import build_network


def _unet() -> nn.Module:
    return build_network(named("backbone", "unet"), named("block", PEER))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    name: _unet if name == "unet" else partial(torchvision_network, name, weights=None)
    for name in ("r3d_18", "unet", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_b")
}
"""The paper's U-Net and torchvision's video networks, of each family the largest."""


def run(
    on: Conditions, *, networks: Sequence[str] = (), repeats: int = 3, seed: int = 0
) -> timing.Report:
    """Convert networks with random weights: ``init="svd"``, M of Eq. 5, not in place, by m.

    Layers that cannot be converted (one output channel per group and several streams, say) are
    skipped, and named with the others that stay. The largest kernel is the weight of the largest
    layer that is converted (None without one); working memory is the peak without the new network.

    Options:
        networks: to convert: r3d_18, unet, ...; default: all.
    """
    names = networks or tuple(NETWORKS)
    if unknown := [name for name in names if name not in NETWORKS]:
        raise ConfigError(f"networks {unknown}: there are {', '.join(NETWORKS)}")
    rows = [row for name in names for row in _rows(name, on, repeats, seed)]
    return timing.Report({"convert": rows}, {"device": on.device, "clock": on.clock_name})


def _rows(name: str, on: Conditions, repeats: int, seed: int) -> list[Row]:
    torch.manual_seed(seed)
    network = NETWORKS[name]().to(on.device)
    contestants = {m: partial(convert, network, m, unsupported="skip") for m in (1, 2, 3)}
    timings = timing.interleave(contestants, repeats, on.finish)
    rows = []
    for m, call in contestants.items():
        peak = timing.peak_extra_mb(call, on.device)  # before anything else holds a result
        converted = call()
        report = converted.report
        before, after = _megabytes(network), _megabytes(converted.model)
        working = None if peak is None else peak - after
        largest = max(report.converted, key=lambda layer: layer.parameters[0], default=None)
        kernel = None
        if largest is not None:
            kernel = network.get_parameter(f"{largest.name}.weight").nbytes / 1e6
        errors = [r.relative_error for r in report.converted if r.relative_error is not None]
        # Why the others stay as they are; a reason that names channels is cut short.
        reasons = Counter(r.reason.split(";")[0] for r in report.layers if r.reason is not None)
        rows.append(
            {
                "network": name,
                "m": m,
                "convolutions": len(report.layers),
                "converted": len(report.converted),
                "left": "; ".join(f"{n} × {reason}" for reason, n in reasons.items()) or None,
                "parameters_before": report.parameters[0],
                "parameters_after": report.parameters[1],
                "mean_error": sum(errors) / len(errors) if errors else None,
                "max_error": max(errors, default=None),
                "cpu_seconds": timings[m].median("cpu"),
                "wall_seconds": timings[m].median("wall"),
                "network_mb": before,
                "new_network_mb": after,
                "largest_kernel_mb": kernel,
                "peak_extra_mb": peak,
                "working_mb": working,
                "peak_over_network": ratio(peak, before),
                "peak_over_kernel": ratio(peak, kernel),
                "working_over_kernel": ratio(working, kernel),
            }
        )
    return rows


def _megabytes(network: nn.Module) -> float:
    """Weights and buffers, shared ones once."""
    tensors = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values()) / 1e6
