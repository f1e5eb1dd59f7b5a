"""From the table of all factorisations to one line per form of ours, its peers beside it."""

from collections.abc import Sequence

from benchmarks.report import Row

__all__ = ["side_by_side"]

_OURS = "psc "
_PEERS = "tensorly "
_FORWARD = ("forward_ratio", "mobilenet_ratio")  # not that of the 3D convolution put together


def side_by_side(rows: Sequence[Row]) -> list[Row]:
    """Error, seconds to factorise, and forward time of each form of ours beside its peers'.

    Args:
        rows: of ``equal_parameters.compare``.

    Returns:
        A row per layer and form of ours; peers have at most its number of parameters. Forward is
        the fastest way to compute with the factors, as a ratio to ``nn.Conv3d``. That everybody's
        factors can be put together to one 3D convolution (ours by ``psc.merge_linear``) is no gain.
    """
    names = dict.fromkeys(r["contestant"] for r in rows if r["contestant"].startswith(_PEERS))
    return [
        _line(row, {name: _beside(rows, row, name) for name in names})
        for row in rows
        if row["contestant"].startswith(_OURS)
    ]


def _beside(rows: Sequence[Row], mine: Row, name: str) -> Row:
    same = ("kernels", "layer", "at_most")
    (row,) = (r for r in rows if r["contestant"] == name and all(r[k] == mine[k] for k in same))
    return row


def _line(mine: Row, peers: dict[str, Row]) -> Row:
    contestants = {"psc": mine} | {name.removeprefix(_PEERS): row for name, row in peers.items()}
    line: Row = {key: mine[key] for key in ("kernels", "layer", "kernel")}
    line |= {"psc": mine["contestant"].removeprefix(_OURS), "parameters": mine["parameters"]}
    line |= {f"{name}_error": row["error"] for name, row in contestants.items()}
    line |= {f"{name}_seconds": row["factorise_seconds"] for name, row in contestants.items()}
    for name, row in contestants.items():
        ratios = [row[column] for column in _FORWARD if row[column] is not None]
        line[f"{name}_forward"] = min(ratios, default=None)
    return line
