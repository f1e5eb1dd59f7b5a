"""Is bf16 right? Segments under bf16 autocast against the same in fp32.

Wrong kernels exist: torch 2.9 computed bf16 convolutions with kernel (1, 3, 3) wrongly.
"""

from torch import Tensor

from benchmarks.conditions import arithmetic
from benchmarks.report import Row
from benchmarks.segments import Level, build_level

__all__ = ["bf16_errors"]

_CHECKED_VOXELS = {"cuda": 16, "cpu": 7}


def bf16_errors(level: Level, block: str, device: str, seed: int) -> Row:
    """Largest error of output and of gradients, relative to the largest value of each tensor."""
    level = level.capped(_CHECKED_VOXELS[device])
    exact, rounded = (_results(level, block, p, device, seed) for p in ("fp32", "bf16"))
    output, *gradients = (_relative_error(a, b) for a, b in zip(rounded, exact, strict=True))
    return {
        "network": level.network,
        "channels": level.name,
        "input": "x".join(map(str, level.shape)),
        "segment": block,
        "output_error": output,
        "gradient_error": max(gradients),
    }


def _results(level: Level, block: str, precision: str, device: str, seed: int) -> list[Tensor]:
    """Output and gradients, in fp32."""
    segment, x = build_level(level, block, "auto", device, seed)
    # Batch norm as in inference: normalising by the batch would hide the scale of what is wrong.
    segment.eval()
    with arithmetic(precision, device):
        y = segment(x)
    # Half the sum of squares: a rounding that switches a ReLU on or off at 0 then changes no
    # gradient by much. Random gradients would make every such switch look like a wrong kernel.
    (y.float().square().sum() / 2).backward()
    gradients = [p.grad for p in segment.parameters()] + [x.grad]
    return [t.detach().float() for t in (y, *gradients) if t is not None]


def _relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())
