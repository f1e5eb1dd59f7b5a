"""A scene in neuroglancer: its layers served to a browser from this process.

The page itself comes with the neuroglancer package, so nothing is fetched from elsewhere. Axes are
z, y, x as everywhere; positions are voxels of the source volume, as in test-<i>_bodies.csv.
"""

import errno
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from psc.em.bodies import BodyError
from psc.errors import ConfigError, DataError
from psc.volumes.tiling import Size3

# ----------------------------------------
# What is shown of a segmentation: its layers, where they lie, and where to look first.


RAW = "raw"
AFFINITIES = "affinities"
FRAGMENTS = "fragments"
SEGMENTATION = "segmentation"
BASELINE = "no network"
TRUTH = "ground truth"

LayerKind = Literal["grey", "affinities", "labels"]


class Voxels(Protocol):
    """An array in memory or on disk; slices along all axes, without steps, read a box."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) or (3, D, H, W)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""

    def __getitem__(self, index: Any, /) -> npt.NDArray[Any]:
        """Read a box."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One volume.

    Attributes:
        name: one of the names above.
        kind: "grey" values of any real dtype; "affinities" in [0, 1], channels z, y, x; "labels".
        voxels: (D, H, W), of affinities (3, D, H, W).
    """

    name: str
    kind: LayerKind
    voxels: Voxels

    @property
    def in_memory(self) -> npt.NDArray[Any] | None:
        """The voxels, unless they are on disk and perhaps larger than memory."""
        return self.voxels if isinstance(self.voxels, np.ndarray) else None


@dataclass(frozen=True, eq=False)
class Scene:
    """Volumes of one place.

    Attributes:
        title: what it is, in a few words.
        path: where it was read.
        layers: by name, in the order in which they are shown.
        voxel_size: nm (z, y, x); None where it is unknown.
        offset: first voxel of the layers within their source volume (z, y, x).
        errors: splits and merges, the worst first; none without a ground truth. Locations are
            voxels of the source volume.
        scores: rows of a table: name, then score by column.
        facts: where it comes from, by name.

    Raises:
        DataError: there is no layer, or two of them cover different voxels.
    """

    title: str
    path: Path
    layers: Mapping[str, Layer]
    voxel_size: tuple[float, float, float] | None
    offset: Size3 = (0, 0, 0)
    errors: tuple[BodyError, ...] = ()
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise DataError(f"{self.path} holds no volume to show")
        for name, layer in self.layers.items():
            leading = (3,) if layer.kind == "affinities" else ()
            if layer.voxels.shape != (*leading, *self.shape) or 0 in self.shape:
                shapes = ", ".join(f"{n} {one.voxels.shape}" for n, one in self.layers.items())
                raise DataError(
                    f"{self.path}: {name} does not cover the same voxels as the others ({shapes});"
                    " they were not written together: evaluate the checkpoint again"
                )

    @property
    def shape(self) -> Size3:
        """Voxels along z, y, x."""
        z, y, x = next(iter(self.layers.values())).voxels.shape[-3:]
        return z, y, x

    @property
    def start(self) -> Size3:
        """The voxel to look at first, within the layers: the worst error, else the middle."""
        if not self.errors:
            z, y, x = (size // 2 for size in self.shape)
            return z, y, x
        return self.within(self.errors[0].location)

    def within(self, location: Size3) -> Size3:
        """A voxel of the source volume as an index into the layers."""
        z, y, x = (a - b for a, b in zip(location, self.offset, strict=True))
        return z, y, x

    def worst(self, kind: Literal["split", "merge"], count: int) -> tuple[BodyError, ...]:
        """The worst errors of one kind."""
        return tuple(error for error in self.errors if error.kind == kind)[:count]

    def bits(self, kind: Literal["split", "merge"]) -> float:
        """VI split or VI merge of this place: the sum over all its errors of that kind."""
        return sum(error.bits for error in self.errors if error.kind == kind)


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
    """Serve a scene and print its address, until interrupted (Ctrl-C).

    Args:
        scene: what to show.
        address: of the network interface; 127.0.0.1 = this machine only.
        port: 0 = any that is free.

    Raises:
        ConfigError: neuroglancer is not installed, or the port cannot be had.
    """
    with opened_viewer(scene, address=address, port=port) as viewer:
        try:
            # Within: who reads the address may interrupt before the next line is reached.
            print(f"{scene.title}: open {viewer.get_viewer_url()}\nCtrl-C ends it", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nended", flush=True)


@contextmanager
def opened_viewer(scene: Scene, *, address: str = "127.0.0.1", port: int = 0) -> Iterator[Any]:
    """A ``neuroglancer.Viewer`` that serves a scene until the context ends.

    Args and raises as ``serve``.
    """
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
    size = np.asarray(scene.voxel_size or (1.0, 1.0, 1.0))
    extent = np.asarray(scene.shape) * size / size.min()
    state.cross_section_scale = float(min(extent[1:].max(), 512) / _PANEL_PIXELS)
    state.projection_scale = float(2.5 * extent.max())
    hidden = [BASELINE, FRAGMENTS] if TRUTH in scene.layers else []  # a click shows them
    for name, layer in scene.layers.items():
        state.layers.append(name=name, layer=_layer(neuroglancer, space, layer, scene))
        state.layers[name].visible = name not in hidden
    for name, kind, segments in ((SPLITS, "split", TRUTH), (MERGES, "merge", SEGMENTATION)):
        errors = scene.worst(kind, _MOST_PLACES)  # type: ignore[arg-type]  # mypy widens the tuple
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
        scales=[1.0 for _ in leading] + list(scene.voxel_size or (1.0, 1.0, 1.0)),
    )


def _layer(neuroglancer: Any, space: Any, layer: Layer, scene: Scene) -> Any:
    if layer.kind == "affinities":
        source = neuroglancer.LocalVolume(
            _Converted(layer.voxels, np.dtype(np.float32)),
            dimensions=_space(neuroglancer, scene, channels=True),
            voxel_offset=(0, *scene.offset),
            volume_type="image",
        )
        return neuroglancer.ImageLayer(source=source, shader=_AFFINITY_SHADER, opacity=1.0)
    if layer.kind == "grey":
        source = neuroglancer.LocalVolume(
            _Converted(layer.voxels, _grey_dtype(layer.voxels.dtype)),
            dimensions=space,
            voxel_offset=scene.offset,
            volume_type="image",
        )
        controls = {"normalized": {"range": _grey_range(layer.voxels, scene)}}
        return neuroglancer.ImageLayer(source=source, shader_controls=controls, opacity=1.0)
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


def _grey_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype itself where neuroglancer has it: integers up to 32 bits; else float32."""
    return dtype if dtype.kind in "iu" and dtype.itemsize <= 4 else np.dtype(np.float32)


def _grey_range(voxels: Voxels, scene: Scene) -> list[float]:
    """Black and white: the darkest and brightest half per cent of a section clipped."""
    z = scene.start[0]
    section = voxels[slice(z, z + 1), slice(0, scene.shape[1]), slice(0, scene.shape[2])]
    low, high = (float(value) for value in np.percentile(section, [0.5, 99.5]))
    return [low, max(high, low + 1e-3)]


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
            description=f"{error.bits:.4f} bits: {_what(error)}",
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


def _what(error: BodyError) -> str:
    if error.kind == "split":
        return f"{error.label} in {len(error.pieces)} pieces"
    return f"{error.label} joins {len(error.pieces)} bodies"


def _layout(neuroglancer: Any, scene: Scene, names: Sequence[str]) -> Any:
    """Panels that move together: what went in, what came out, what was wanted, and all in 3D."""
    places = [name for name in names if name in (SPLITS, MERGES)]

    def panel(layout: str, *wanted: str) -> Any:
        layers = [name for name in wanted if name in names]
        return neuroglancer.LayerGroupViewer(layers=layers, layout=layout)

    meshed = any(_has_meshes(layer) for layer in scene.layers.values() if layer.kind == "labels")
    below = RAW if RAW in names else AFFINITIES
    other = TRUTH if TRUTH in names else FRAGMENTS
    columns = [
        [
            *([panel("xy", RAW, *places)] if RAW in names else []),
            panel("xy", below, other, *places),
        ],
        [
            panel("xy", AFFINITIES, *places),
            panel(
                "xy",
                below,
                *([FRAGMENTS] if other == TRUTH else []),
                BASELINE,
                SEGMENTATION,
                *places,
            ),
        ],
        [panel("3d", SEGMENTATION, *places)]
        if meshed
        else [panel(plane, below, SEGMENTATION, *places) for plane in ("xz", "yz")],
    ]
    return neuroglancer.row_layout([neuroglancer.column_layout(column) for column in columns])
