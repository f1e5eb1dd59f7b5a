"""psc.convert: its speed and memory, and its factors beside tensorly-torch's at equal parameters.

Kernels are factorised by ``psc.convert`` at the M of Eq. 5, and by ``FactorizedConv.from_conv`` of
tensorly-torch (CP, Tucker, tensor train) at the ranks that give as many parameters, or as few less
as they can (``benchmarks.tensorly_peer`` says what had to be done for it). The error is that of the
kernel, ‖W − W'‖ / ‖W‖. Everything runs in fp32.

Forward times are of one layer, without gradients, each contestant in its fastest layout, as ratios
to the plain ``nn.Conv3d`` in its fastest; a column counts convolutions that PyTorch gives to its
slow kernels on a CPU. tensorly-torch runs factor by factor (``implementation="factorized"``); two
more columns have its other implementations. Of these "reconstructed" is a plain 3D convolution
whose kernel is put together at every call; ``psc.merge_linear`` does that once, for ours.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.conditions import LAYOUTS, conditions_on
from benchmarks.conversion_speed import NETWORKS, speed_rows
from benchmarks.equal_parameters import compare
from benchmarks.kernels import LAYERS, random_layers, trained_layers
from benchmarks.report import Report, Row
from benchmarks.side_by_side import side_by_side
from benchmarks.tensorly_peer import require
from benchmarks.timing import Clock

__all__ = ["PARTS", "run"]

PARTS = ("speed", "peers")


def run(
    *,
    parts: Sequence[str] = PARTS,
    networks: Sequence[str] = tuple(NETWORKS),
    layers: Sequence[str] = LAYERS,
    checkpoint: Path | None = None,
    iterations: int = 100,
    memory: float = 2.0,
    size: int | None = None,
    device: str | None = None,
    layouts: Sequence[str] = tuple(LAYOUTS),
    clock: Clock | None = None,
    repeats: int = 3,
    seed: int = 0,
) -> Report:
    """Measure what converting costs and how near its kernels are.

    Args:
        parts: of ``PARTS``: ``convert`` on whole networks; on layers, beside tensorly-torch.
        networks: of ``NETWORKS``, for the first part.
        layers: of ``LAYERS``, with random kernels, for the second.
        checkpoint: of train.py, whose trained kernels are compared too; None = random ones only.
        iterations: at most, of the alternating least squares of CP and Tucker (100: its default).
        memory: gigabytes; CP is left out where its Khatri-Rao product takes more.
        size: most voxels per axis of a layer's input; None = those of ``benchmarks.kernels``.
        device: "cuda" or "cpu"; None = a GPU if there is one.
        layouts: of "contiguous" and "channels_last_3d".
        clock: "cpu" or "wall"; None = wall seconds on a GPU, CPU seconds on a CPU.
        repeats: rounds per contestant.
        seed: of weights, inputs and CP's start.

    Returns:
        Seconds, memory and errors of ``convert`` per network; errors, seconds to factorise and
        forward times of all factorisations; and these side by side.

    Raises:
        ConfigError: no GPU where one is asked for, a network or layer that there is not, a
            checkpoint without 3D convolutions, or tensorly-torch is not installed.
        CheckpointError: the checkpoint cannot be read.
    """
    conditions = conditions_on(device, ("fp32",), layouts, clock)
    kernels = []
    if "peers" in parts:  # all that can be refused, before anything runs
        require()
        kernels = random_layers(layers, conditions.device, size, seed)
        if checkpoint is not None:
            kernels += trained_layers(checkpoint, conditions.device, size)
    tables: dict[str, Sequence[Row]] = {}
    if "speed" in parts:
        tables["convert"] = speed_rows(networks, conditions, repeats, seed)
    if "peers" in parts:
        rows = [
            row
            for layer in kernels
            for row in compare(
                layer,
                conditions,
                repeats=repeats,
                iterations=iterations,
                memory=memory,
                seed=seed,
            )
        ]
        tables["at equal parameters"] = rows
        tables["side by side"] = side_by_side(rows)
    settings = {
        "device": conditions.device,
        "clock": conditions.clock_name,
        "layouts": list(layouts),
        "iterations": iterations,
        "memory": memory,
        "repeats": repeats,
        "seed": seed,
    }
    return Report("conversion", settings, tables)
