"""Pictures of a segmentation: what went in, what was wanted, what came out, and where it errs.

The layout is that of the paper's Figure 6 (a)-(c), where ellipses mark the regions that differ.
There they were drawn by hand; here they are where the bits of variation of information are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from psc.errors import ConfigError, DataError
from psc.reporting.canvas import (
    GAP,
    add_scale_bar,
    checked_png,
    page_style,
    row_of_panels,
    save_png,
    show_image,
)
from psc.reporting.colours import assign_colours, match_labels
from psc.reporting.disagreement import Region, disagreement, worst_regions, worst_slice
from psc.reporting.sections import grey_image, overlay

__all__ = ["affinity_figure", "region_ellipse", "segmentation_figure"]

_Labels = npt.NDArray[np.integer[Any]]
_VoxelSize = float | tuple[float, float, float]

_COLOUR_BAR_WIDTH = 0.42  # inches, numbers included
_REGION_EXTENT = 0.2  # of the slice's shorter side


def segmentation_figure(
    raw: npt.NDArray[Any],
    truth: _Labels,
    predictions: Mapping[str, _Labels],
    path: Path | str,
    *,
    voxel_size_nm: _VoxelSize | None = None,
    captions: Mapping[str, str] | None = None,
    slice_index: int | None = None,
    regions: int = 3,
) -> None:
    """One row of panels: raw | ground truth | each prediction, of one slice of a volume.

    Colours match: a predicted segment has the colour of the true segment that it covers most of in
    the volume. In each prediction, dotted ellipses mark where the slice holds most of the volume's
    variation of information.

    Args:
        raw: grey values (D, H, W), any real dtype and range.
        truth: integer labels (D, H, W), 0 = unknown.
        predictions: integer labels (D, H, W) by name, at least one; names become titles.
        path: the PNG to write.
        voxel_size_nm: nanometres, one number or (z, y, x); a scale bar is drawn where it is given.
        captions: second line of a prediction's title, by name. By default its VI over the volume.
        slice_index: z of the slice; by default the one with most disagreement, summed over
            predictions.
        regions: ellipses in each prediction, at most; 0 for none.

    Raises:
        DataError: shapes differ or are not three-dimensional, or labels are no valid labels.
        ConfigError: no prediction, a slice outside the volume, a caption for no prediction, a
            voxel size that is not positive, or a path that is no PNG.
    """
    path = checked_png(path)
    _check_volumes(raw, {"truth": truth, **predictions})
    if not predictions:
        raise ConfigError("a segmentation figure needs at least one prediction")
    if captions is not None and not set(captions) <= set(predictions):
        raise ConfigError(f"captions for {sorted(captions)}, predictions {sorted(predictions)}")
    maps = {name: disagreement(truth, labels) for name, labels in predictions.items()}
    if slice_index is None:
        slice_index = worst_slice(np.sum([m.total for m in maps.values()], axis=0))
    z = _checked_slice(slice_index, raw.shape[0])

    matched = {name: match_labels(truth, labels)[z] for name, labels in predictions.items()}
    colours = assign_colours([truth[z], *matched.values()])
    size = _voxel_size(voxel_size_nm)
    with page_style():
        figure, panels = row_of_panels(2 + len(matched), raw.shape[1:], size[1:], title_lines=2)
        grey = grey_image(raw[z])
        show_image(panels[0], grey, ["raw", f"z = {z}"])
        show_image(panels[1], overlay(grey, truth[z], colours), ["ground truth", ""])
        for panel, (name, labels) in zip(panels[2:], matched.items(), strict=True):
            vi = f"VI split {maps[name].vi_split:.2f}, merge {maps[name].vi_merge:.2f}"
            subtitle = vi if captions is None else captions.get(name, "")
            show_image(panel, overlay(grey, labels, colours), [name, subtitle])
            if regions > 0:
                _circle(panel, maps[name].total[z], regions)
        if voxel_size_nm is not None:
            add_scale_bar(panels[0], raw.shape[1:], size[2])
        save_png(figure, path)


def affinity_figure(
    raw: npt.NDArray[Any],
    affinities: npt.NDArray[np.floating[Any]],
    path: Path | str,
    *,
    voxel_size_nm: _VoxelSize | None = None,
    slice_index: int | None = None,
) -> None:
    """One row of panels: raw | affinity along z | along y | along x, of one slice of a volume.

    Args:
        raw: grey values (D, H, W), any real dtype and range.
        affinities: (3, D, H, W) in [0, 1], channels z, y, x.
        path: the PNG to write.
        voxel_size_nm: nanometres, one number or (z, y, x); a scale bar is drawn where it is given.
        slice_index: z of the slice; by default the middle one.

    Raises:
        DataError: shapes do not belong together, or an affinity is outside [0, 1].
        ConfigError: a slice outside the volume, a voxel size that is not positive, or a path that
            is no PNG.
    """
    path = checked_png(path)
    if affinities.ndim != 4 or affinities.shape[0] != 3:
        raise DataError(f"affinities must have shape (3, D, H, W), found {affinities.shape}")
    _check_volumes(raw, {"affinities": affinities[0]})
    z = _checked_slice(raw.shape[0] // 2 if slice_index is None else slice_index, raw.shape[0])
    section = np.asarray(affinities[:, z], dtype=np.float32)
    if not (section.min() >= 0 and section.max() <= 1):
        raise DataError(
            f"affinities must be in [0, 1], found {section.min():g} to {section.max():g} in slice"
            f" {z}; apply the sigmoid first"
        )
    size = _voxel_size(voxel_size_nm)
    with page_style():
        figure, panels = row_of_panels(
            4, raw.shape[1:], size[1:], title_lines=1, right=_COLOUR_BAR_WIDTH
        )
        show_image(panels[0], grey_image(raw[z]), [f"raw, z = {z}"])
        for panel, image, axis in zip(panels[1:], section, "zyx", strict=True):
            show_image(panel, image, [f"affinity along {axis}"], cmap="cividis")
        box = panels[-1].get_position()
        width = figure.get_figwidth()
        bar = figure.add_axes((box.x1 + GAP / width, box.y0, 0.08 / width, box.height))
        figure.colorbar(panels[-1].images[0], cax=bar, ticks=[0, 0.5, 1])
        if voxel_size_nm is not None:
            add_scale_bar(panels[0], raw.shape[1:], size[2])
        save_png(figure, path)


def region_ellipse(
    bits: npt.NDArray[np.floating[Any]], region: Region
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The upright ellipse around the disagreement inside a box of a slice.

    Args:
        bits: disagreement of each pixel (H, W).
        region: a box of this slice that holds disagreement.

    Returns:
        centre: (row, column), the mean position of the bits.
        radii: (rows, columns), two and a half standard deviations of them, but no less than a
            quarter of the box's extent, and no more than those of the ellipse through its corners.
    """
    inside = bits[region.slices].astype(np.float64)
    centre, radii = [], []
    for axis in range(2):
        weight = inside.sum(axis=1 - axis)
        position = np.arange(region.start[axis], region.stop[axis])
        mean = float(np.average(position, weights=weight))
        spread = float(np.sqrt(np.average((position - mean) ** 2, weights=weight)))
        extent = region.stop[axis] - region.start[axis]
        centre.append(mean)
        radii.append(float(np.clip(2.5 * spread, extent / 4, extent / np.sqrt(2))))
    return (centre[0], centre[1]), (radii[0], radii[1])


def _check_volumes(raw: npt.NDArray[Any], others: Mapping[str, npt.NDArray[Any]]) -> None:
    if raw.ndim != 3 or raw.size == 0:
        raise DataError(f"raw must have shape (D, H, W) with voxels in it, found {raw.shape}")
    for name, volume in others.items():
        if volume.shape != raw.shape:
            raise DataError(f"{name} has shape {volume.shape}, raw {raw.shape}; crop one to match")


def _checked_slice(index: int, depth: int) -> int:
    if not 0 <= index < depth:
        raise ConfigError(f"slice_index must be from 0 to {depth - 1}, found {index}")
    return index


def _voxel_size(voxel_size_nm: _VoxelSize | None) -> tuple[float, float, float]:
    """Voxel size (z, y, x); cubes of side 1 where it is unknown."""
    if voxel_size_nm is None:
        return (1.0, 1.0, 1.0)
    size = np.broadcast_to(np.asarray(voxel_size_nm, dtype=np.float64), 3)
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise ConfigError(f"voxel_size_nm must be positive, found {voxel_size_nm}")
    return (float(size[0]), float(size[1]), float(size[2]))


def _circle(panel: Axes, bits: npt.NDArray[np.float32], count: int) -> None:
    extent = max(1, round(_REGION_EXTENT * min(bits.shape)))
    for region in worst_regions(bits, (extent, extent), count):
        (row, column), (rows, columns) = region_ellipse(bits, region)
        ellipse = Ellipse(
            (column, row), 2 * columns, 2 * rows, fill=False, edgecolor="white", linewidth=1.2
        )
        ellipse.set_linestyle((0, (1.2, 0.9)))
        ellipse.set_path_effects([patheffects.withStroke(linewidth=2.4, foreground="black")])
        panel.add_patch(ellipse)
