"""Time, memory and disk against volume, of the blockwise benchmark."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.report import Row
from psc.paper.style import PAGE_WIDTH, checked_png, page_style, save_png

__all__ = ["draw"]

_PANELS = (
    ("cpu_seconds", "CPU seconds"),
    ("process_mb", "memory of a process at its peak (MB)"),
    ("disk_mb", "written (MB)"),
)


def draw(rows: Sequence[Row], path: Path) -> None:
    """A panel each, both axes logarithmic; dashed: proportional to the volume.

    Args:
        rows: of the benchmark's table; each number of workers is a line.
        path: the PNG to write.

    Raises:
        ConfigError: a path that is no PNG.
    """
    path = checked_png(path)
    with page_style():
        figure = Figure(figsize=(PAGE_WIDTH, PAGE_WIDTH / 3), layout="constrained")
        for axes, (key, label) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
            for workers in dict.fromkeys(row["workers"] for row in rows):
                own = [row for row in rows if row["workers"] == workers]
                volumes, values = ([row[k] for row in own] for k in ("million_voxels", key))
                word = "process" if workers == 1 else "processes"
                axes.plot(volumes, values, marker="o", label=f"{workers} {word}")
                if key != "process_mb":
                    line = [values[-1] * volume / volumes[-1] for volume in volumes]
                    axes.plot(volumes, line, color="0.5", linestyle=(0, (4, 2)), linewidth=0.8)
            volumes = sorted({row["million_voxels"] for row in rows})
            axes.set(xscale="log", xlabel="million voxels", title=label)
            axes.set_xticks(volumes, [f"{volume:.3g}" for volume in volumes], minor=False)
            if key == "process_mb":
                axes.set_ylim(0, 1.1 * max(row[key] for row in rows))
            else:
                axes.set_yscale("log")
            axes.minorticks_off()
        figure.axes[0].legend()
        save_png(figure, path)
