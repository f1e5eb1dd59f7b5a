"""The viewer: its state, the data that it serves over HTTP, and what is refused."""

import io
import json
import os
import signal
import socket
import sys
import urllib.request
import zlib
from pathlib import Path

import numpy as np
import pytest

from psc.em.bodies import body_errors
from psc.errors import ConfigError
from psc.viewing.neuroglancer import opened_viewer
from psc.viewing.scene import Layer, Scene, evaluation_folder, open_evaluation

PROJECT = Path(__file__).parents[2]


def test_the_command_serves_until_interrupted(start, finished_run):
    """Before any server runs here, of which the started process would be a copy."""
    pytest.importorskip("neuroglancer")
    served = start("scripts/view.py", f"run={finished_run[1]}")
    served.until(lambda: "Ctrl-C ends it" in served.text)
    (line,) = (line for line in served.text.splitlines() if "open http" in line)
    assert finished_run[0].run in line
    with urllib.request.urlopen(line.split("open ")[1].strip(), timeout=20) as answer:
        assert b"neuroglancer" in answer.read()
    os.kill(served.pid, signal.SIGINT)
    assert served.wait() == 0, served.text
    assert "ended" in served.text
    assert "Traceback" not in served.text


@pytest.fixture(scope="module")
def scene(finished_run):
    return open_evaluation(evaluation_folder(finished_run[1]), 0)


@pytest.fixture(scope="module")
def viewer(scene):
    pytest.importorskip("neuroglancer", reason="pip install -e '.[viewer]'")
    with opened_viewer(scene) as opened:
        yield opened


def test_the_state_says_where_everything_lies(viewer, scene):
    state = viewer.state.to_json()
    assert state["dimensions"] == {axis: [8e-9, "m"] for axis in "zyx"}
    assert state["displayDimensions"] == ["x", "y", "z"]
    assert state["position"] == [p + 0.5 for p in scene.errors[0].location]
    layers = {layer["name"]: layer for layer in state["layers"]}
    assert list(layers)[:5] == ["raw", "affinities", "segmentation", "no network", "ground truth"]
    assert layers["no network"]["visible"] is False
    assert [layers[name]["type"] for name in ("raw", "segmentation")] == ["image", "segmentation"]
    worst = scene.errors[0]
    owner = "ground truth" if worst.kind == "split" else "segmentation"
    assert [int(i) for i in layers[owner]["segments"]] == [worst.label]


def test_the_worst_places_are_points(viewer, scene):
    layers = {layer["name"]: layer for layer in viewer.state.to_json()["layers"]}
    for name, kind in (("worst splits", "split"), ("worst merges", "merge")):
        errors = scene.worst(kind, 20)
        if not errors:
            assert name not in layers
            continue
        points = layers[name]["annotations"]
        assert [p["point"] for p in points] == [[v + 0.5 for v in e.location] for e in errors]
        assert points[0]["description"].startswith(f"{errors[0].bits:.4f} bits")
        assert points[0]["segments"] == [[str(errors[0].label)]]


def fetch(viewer, path):
    base = viewer.get_viewer_url().split("/v/")[0]
    assert base.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{base}/{path}", timeout=20) as answer:
        return answer.read()


def key_of(viewer, name):
    """What a layer's volume is called in the server's addresses."""
    (url,) = [source.url for source in viewer.state.layers[name].layer.source]
    return url.rsplit("/", 1)[1]


@pytest.mark.parametrize(
    "name", ["raw", "affinities", "segmentation", "no network", "ground truth"]
)
def test_served_voxels_are_those_of_the_file(viewer, scene, name):
    key = key_of(viewer, name)
    info = json.loads(fetch(viewer, f"neuroglancer/info/{key}"))
    leading = [0] if name == "affinities" else []
    assert [int(v) for v in info["voxelOffset"]] == [*leading, 36, 0, 0]
    assert info["shape"] == list(scene.layers[name].voxels.shape)
    assert info["coordinateSpace"]["z"] == [8e-9, "m"]
    start, stop = [0] * len(leading) + [2, 10, 20], [3] * len(leading) + [9, 31, 40]
    scale = ",".join("1" for _ in start)
    where = "/".join(",".join(map(str, corner)) for corner in (start, stop))
    chunk = zlib.decompress(fetch(viewer, f"neuroglancer/npz/{key}/{scale}/{where}"))
    found = np.load(io.BytesIO(chunk))
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    expected = scene.layers[name].voxels[box]
    assert np.array_equal(found, expected)
    assert found.dtype == (np.float32 if leading else expected.dtype)
    assert np.unique(found).size > 1


def test_a_mesh_is_made_of_a_body(viewer, scene):
    label = int(scene.layers["ground truth"].voxels[6, 20, 20])
    mesh = fetch(viewer, f"neuroglancer/mesh/{key_of(viewer, 'ground truth')}/{label}")
    assert len(mesh) > 1000


def test_the_page_is_served_too(viewer):
    page = fetch(viewer, f"v/{viewer.token}/").decode()
    assert "<script" in page
    assert "http" not in page


class OnDisk:
    """An array that is not in memory."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, index):
        return self.values[index]


def test_what_is_on_disk_is_served_without_meshes(tmp_path):
    pytest.importorskip("neuroglancer")
    rng = np.random.default_rng(0)
    labels = OnDisk(rng.integers(1, 9, (5, 6, 7), dtype=np.uint64))
    grey = OnDisk(rng.random((5, 6, 7)))
    layers = {
        "raw": Layer("raw", "grey", grey),
        "fragments": Layer("fragments", "labels", labels),
        "segmentation": Layer("segmentation", "labels", labels),
    }
    with opened_viewer(Scene("", tmp_path, layers, None)) as viewer:
        state = viewer.state.to_json()
        assert state["dimensions"] == {axis: [1, ""] for axis in "zyx"}
        key = key_of(viewer, "segmentation")
        chunk = fetch(viewer, f"neuroglancer/npz/{key}/1,1,1/1,2,3/4,5,6")
        found = np.load(io.BytesIO(zlib.decompress(chunk)))
        assert np.array_equal(found, labels.values[1:4, 2:5, 3:6])
        for _ in range(2):  # the second request must not wait for the first for ever
            with pytest.raises(urllib.error.HTTPError, match="405"):
                fetch(viewer, f"neuroglancer/mesh/{key}/1")


def test_ids_of_64_bits_survive(tmp_path):
    pytest.importorskip("neuroglancer")
    truth = np.full((4, 5, 6), 2**63 + 5, np.uint64)
    cut = truth.copy()
    cut[2:] += np.uint64(2)
    layers = {
        "raw": Layer("raw", "grey", np.zeros(truth.shape, np.uint8)),
        "segmentation": Layer("segmentation", "labels", cut),
        "ground truth": Layer("ground truth", "labels", truth),
    }
    errors = tuple(body_errors(truth, cut))
    with opened_viewer(Scene("", tmp_path, layers, None, errors=errors)) as viewer:
        shown = {layer["name"]: layer for layer in viewer.state.to_json()["layers"]}
        assert shown["ground truth"]["segments"] == [str(2**63 + 5)]
        assert sorted(shown["segmentation"]["segments"]) == [str(2**63 + 5), str(2**63 + 7)]


def test_a_port_in_use_is_refused(scene):
    pytest.importorskip("neuroglancer")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f"port={port} at address=127.0.0.1 is in use"),
            opened_viewer(scene, port=port),
        ):
            pass


def test_an_address_of_another_machine_is_refused(scene):
    pytest.importorskip("neuroglancer")
    with (
        pytest.raises(ConfigError, match=r"address=192.0.2.1 failed"),
        opened_viewer(scene, address="192.0.2.1"),
    ):
        pass


def test_without_neuroglancer_it_says_what_to_install(scene, monkeypatch):
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    with (
        pytest.raises(ConfigError, match=r"pip install -e '.\[viewer\]'.*report=report.html"),
        opened_viewer(scene),
    ):
        pass


def test_wrong_input_is_one_message(program, tmp_path):
    done = program("scripts/view.py", f"run={tmp_path}")
    assert done.code == 1
    assert f"error: {tmp_path} holds neither test-*.h5" in done.errors
    assert "Traceback" not in done.errors
