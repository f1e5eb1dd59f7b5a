"""What blocks give, beside what the layers gave that they replace."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from psc.conversion.convert import Conversion
from psc.conversion.parallel_streams import ParallelStreams


def replaced_layers(conversion: Conversion[Any]) -> dict[str, str]:
    """Name of every block → of the original's layer whose result it should give."""
    last = {run[0]: run[-1] for run in conversion.report.runs}
    return {
        name: last.get(name, name)
        for name, part in conversion.model.named_modules()
        if isinstance(part, ParallelStreams)
    }


def kept_results(model: nn.Module, names: Mapping[str, str], stack: ExitStack) -> dict[str, Tensor]:
    """A dictionary that every forward pass fills with the results of some modules.

    Args:
        model: the network.
        names: module → key.
        stack: keeps them until it closes.
    """
    results: dict[str, Tensor] = {}

    def keep(key: str, result: Tensor) -> None:
        results[key] = result.clone()  # what follows may change it in place

    for module, key in names.items():
        part = model.get_submodule(module)
        handle = part.register_forward_hook(lambda _m, _x, y, key=key: keep(key, y))
        stack.callback(handle.remove)
    return results
