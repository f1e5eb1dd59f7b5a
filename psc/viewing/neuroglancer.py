"""A scene in neuroglancer: its layers served to a browser from this process.

The page itself comes with the neuroglancer package, so nothing is fetched from elsewhere. Positions
are voxels of the source volume, as in test-<i>_bodies.csv.
"""

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from psc.em.bodies import BodyError
from psc.errors import ConfigError
from psc.viewing.scene import (
    AFFINITIES,
    BASELINE,
    FRAGMENTS,
    RAW,
    SEGMENTATION,
    TRUTH,
    Layer,
    Scene,
    Voxels,
)
from psc.volumes.intensity import grey_range

SPLITS, MERGES = "worst splits", "worst merges"

_MOST_PLACES = 20  # of each kind; more would hide what is there, and hardly add a bit
_MESHED_VOXELS = 400**3  # meshes are made of a whole volume at once, in memory
_HIGHLIGHTED_PIECES = 12  # of the worst error; a shattered body has thousands
_PANEL_PIXELS = 300  # of a panel on a usual screen
_AFFINITY_SHADER = """#uicontrol float brightness slider(min=0, max=2, default=1)
void main() {
  emitRGB(brightness * vec3(getDataValue(0), getDataValue(1), getDataValue(2)));
}
"""
_ANNOTATION_SHADER = """void main() {
  setColor(defaultColor());
  setPointMarkerSize(9.0);
}
"""
_COLOURS = {SPLITS: "#ffd500", MERGES: "#ff40ff"}


def serve(scene: Scene, *, address: str, port: int) -> None:
    """Serve a scene and print its address, until interrupted (Ctrl-C)."""
    with opened_viewer(scene, address=address, port=port) as viewer:
        try:
            # Within: who reads the address may interrupt before the next line is reached.
            print(f"{scene.title}: open {viewer.get_viewer_url()}\nCtrl-C ends it", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nended", flush=True)


@contextmanager
def opened_viewer(scene: Scene, *, address: str = "127.0.0.1", port: int = 0) -> Iterator[Any]:
    """A ``neuroglancer.Viewer`` that serves a scene until the context ends."""
    neuroglancer = _neuroglancer()
    neuroglancer.set_server_bind_address(address, port)
    try:
        viewer = neuroglancer.Viewer()
    except (OSError, OverflowError) as error:
        why = "is in use" if getattr(error, "errno", 0) == errno.EADDRINUSE else f"failed: {error}"
        raise ConfigError(
            f"port={port} at address={address} {why}; give another, or port=0 for any that is free"
        ) from error
    try:
        with viewer.txn() as state:
            _fill(neuroglancer, state, scene)
        yield viewer
    finally:
        neuroglancer.stop()


def _neuroglancer() -> Any:
    try:
        import neuroglancer
    except ImportError as error:
        raise ConfigError(
            f"the viewer needs the package neuroglancer ({error}): pip install -e '.[viewer]'; or"
            " write a page instead: report=report.html"
        ) from error
    return neuroglancer


def _fill(neuroglancer: Any, state: Any, scene: Scene) -> None:
    """Write layers, places, position and layout into a viewer's state."""
    space = _space(neuroglancer, scene)
    state.title = scene.title
    state.dimensions = space
    state.display_dimensions = ["x", "y", "z"]  # rightwards, downwards, into the screen
    # Voxel i is the interval [i, i + 1): its centre is half a voxel further.
    state.position = [a + b + 0.5 for a, b in zip(scene.start, scene.offset, strict=True)]
    size = np.asarray(scene.pixel)
    extent = np.asarray(scene.shape) * size / size.min()
    state.cross_section_scale = float(min(extent[1:].max(), 512) / _PANEL_PIXELS)
    state.projection_scale = float(2.5 * extent.max())
    hidden = [BASELINE, FRAGMENTS] if TRUTH in scene.layers else []  # a click shows them
    for name, layer in scene.layers.items():
        state.layers.append(name=name, layer=_layer(neuroglancer, space, layer, scene))
        state.layers[name].visible = name not in hidden
    for name, errors, segments in (
        (SPLITS, scene.worst("split", _MOST_PLACES), TRUTH),
        (MERGES, scene.worst("merge", _MOST_PLACES), SEGMENTATION),
    ):
        if errors:
            places = _places(neuroglancer, space, name, errors, segments)
            state.layers.append(name=name, layer=places)
    state.layout = _layout(neuroglancer, scene, [layer.name for layer in state.layers])
    if scene.errors:
        first = SPLITS if scene.errors[0].kind == "split" else MERGES
        state.layers[first].layer.tab = "annotations"
        state.selected_layer.layer = first
        state.selected_layer.visible = True


def _space(neuroglancer: Any, scene: Scene, *, channels: bool = False) -> Any:
    units = "nm" if scene.voxel_size is not None else ""
    leading = ["c^"] if channels else []  # ^: an axis of a value, not of space
    return neuroglancer.CoordinateSpace(
        names=[*leading, "z", "y", "x"],
        units=["" for _ in leading] + [units] * 3,
        scales=[1.0 for _ in leading] + list(scene.pixel),
    )


def _layer(neuroglancer: Any, space: Any, layer: Layer, scene: Scene) -> Any:
    if layer.kind != "labels":
        coloured = layer.kind == "affinities"
        # Integers up to 32 bits neuroglancer has; all else becomes float32.
        dtype = layer.voxels.dtype
        fits = dtype.kind in "iu" and dtype.itemsize <= 4 and not coloured
        source = neuroglancer.LocalVolume(
            _Converted(layer.voxels, dtype if fits else np.dtype(np.float32)),
            dimensions=_space(neuroglancer, scene, channels=coloured),
            voxel_offset=(*([0] if coloured else []), *scene.offset),
            volume_type="image",
        )
        look: dict[str, Any] = {"shader": _AFFINITY_SHADER}
        if not coloured:
            z = scene.start[0]
            low, high = grey_range(layer.voxels[(slice(z, z + 1), *scene.box[1:])])
            black_white = {"range": [low, max(high, low + 1e-3)]}
            look = {"shader_controls": {"normalized": black_white}}
        return neuroglancer.ImageLayer(source=source, opacity=1.0, **look)
    meshed = _has_meshes(layer)
    kind = neuroglancer.LocalVolume if meshed else _without_meshes(neuroglancer)
    # Meshes are made of the very array; 64 bits hold any id.
    data = layer.in_memory.astype(np.uint64, copy=False) if layer.in_memory is not None else None
    source = kind(
        data if data is not None else _Converted(layer.voxels, np.dtype(np.uint64)),
        dimensions=space,
        voxel_offset=scene.offset,
        volume_type="segmentation",
    )
    options: dict[str, Any] = {"selected_alpha": 0.4, "not_selected_alpha": 0.12}
    if meshed and (chosen := _highlighted(layer.name, scene)):
        options["segments"] = chosen
    return neuroglancer.SegmentationLayer(source=source, **options)


def _has_meshes(layer: Layer) -> bool:
    return layer.in_memory is not None and layer.in_memory.size <= _MESHED_VOXELS


def _highlighted(name: str, scene: Scene) -> list[int]:
    """Ids of a layer that take part in the worst error; they are seen in three dimensions."""
    if not scene.errors or name not in (TRUTH, SEGMENTATION):
        return []
    worst = scene.errors[0]
    if (worst.kind == "split") == (name == TRUTH):
        return [worst.label]
    return [piece.label for piece in worst.pieces[:_HIGHLIGHTED_PIECES]]


class _Converted:
    """An array in a dtype that neuroglancer has, converted where it is read."""

    def __init__(self, voxels: Voxels, dtype: np.dtype[Any]) -> None:
        self._voxels, self.dtype, self.shape = voxels, dtype, voxels.shape

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        return np.asarray(self._voxels[index]).astype(self.dtype, copy=False)


def _without_meshes(neuroglancer: Any) -> Any:
    """LocalVolume for what is too large to be meshed as a whole."""
    from neuroglancer.local_volume import MeshesNotSupportedForVolume

    class WithoutMeshes(neuroglancer.LocalVolume):  # type: ignore[misc]  # untyped
        def get_object_mesh(self, object_id: int) -> bytes:
            raise MeshesNotSupportedForVolume

    return WithoutMeshes


def _places(
    neuroglancer: Any, space: Any, name: str, errors: Sequence[BodyError], segments: str
) -> Any:
    """A layer of points that says of each what is wrong there, the worst first."""
    annotations = [
        neuroglancer.PointAnnotation(
            id=f"{i:03d}",
            point=[position + 0.5 for position in error.location],
            description=f"{error.bits:.4f} bits: {error.what}",
            segments=[[error.label]],
        )
        for i, error in enumerate(errors)
    ]
    return neuroglancer.LocalAnnotationLayer(
        dimensions=space,
        annotations=annotations,
        annotation_color=_COLOURS[name],
        annotation_relationships=["segments"],
        linked_segmentation_layer={"segments": segments},
        shader=_ANNOTATION_SHADER,
    )


def _layout(neuroglancer: Any, scene: Scene, names: Sequence[str]) -> Any:
    """Panels that move together: what went in, what came out, what was wanted, and all in 3D."""
    places = [name for name in names if name in (SPLITS, MERGES)]

    def panel(layout: str, *wanted: str) -> Any:
        layers = [name for name in wanted if name in names]
        return neuroglancer.LayerGroupViewer(layers=layers, layout=layout)

    meshed = any(_has_meshes(layer) for layer in scene.layers.values() if layer.kind == "labels")
    below = RAW if RAW in names else AFFINITIES
    other = TRUTH if TRUTH in names else FRAGMENTS
    raw = [panel("xy", RAW, *places)] if RAW in names else []
    pieces = [FRAGMENTS] if other == TRUTH else []
    columns = [
        [*raw, panel("xy", below, other, *places)],
        [
            panel("xy", AFFINITIES, *places),
            panel("xy", below, *pieces, BASELINE, SEGMENTATION, *places),
        ],
        [panel("3d", SEGMENTATION, *places)]
        if meshed
        else [panel(plane, below, SEGMENTATION, *places) for plane in ("xz", "yz")],
    ]
    return neuroglancer.row_layout([neuroglancer.column_layout(column) for column in columns])
