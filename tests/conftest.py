"""Shared fixtures: a tiny real HDF5 volume, and the overrides of a run that takes seconds.

What loads PyTorch is imported where it is used: of ``make test``'s processes one runs no test.
"""

import copy
import gc
import io
import logging
import os
import pickle
import runpy
import sys
from collections.abc import Callable
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

import h5py
import hypothesis
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from started import Started

from psc import machine

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
machine.set_up()  # before anything loads torch
gc.disable()  # while tests are collected: a third of what that takes

PROJECT = Path(__file__).parents[1]

# No test asserts a time: on a busy machine any example may take long.
hypothesis.settings.register_profile("untimed", deadline=None, max_examples=30)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items):
    """Set up a process that runs tests, when it has loaded them all."""
    _begin_with_slow_files(items)
    import torch

    from psc.paper import style

    # Tests are many small computations: threads would only wait for each other.
    torch.set_num_threads(1)
    style.DOTS_PER_INCH = 100  # a ninth of the pixels that figures have
    # Composing configurations makes many small objects: look for dead ones less often, and never
    # among what libraries hold.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
    if (evaluation := sys.modules.get("psc.training.evaluation")) is not None:
        _leave_out_pictures(evaluation, style)
    if "hydra" in sys.modules:
        _compose_files_once()


def _begin_with_slow_files(items):
    """Deal the files that have a ``slow`` test to the processes, each at the start of its share.

    xdist cuts the list into equal parts, of which a process that has finished takes half of what
    another has left: a long test at the end would run while the others idle.
    """
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    slow = list({item.path: None for item in items if item.get_closest_marker("slow")})
    others = chain.from_iterable(tests for path, tests in files.items() if path not in slow)
    processes, ordered = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), []
    for i in range(processes):
        share = (len(items) - len(ordered)) // (processes - i)
        own = [item for path in slow[i::processes] for item in files[path]]
        ordered += own + list(islice(others, max(0, share - len(own))))
    items[:] = [*ordered, *others]


def _compose_files_once():
    """Hydra reads and merges the same files for every test: keep what it makes of each choice.

    Composing is the largest single cost of the tests, and this is half of it.
    """
    from hydra._internal import defaults_list
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
    from hydra.core.override_parser.overrides_parser import OverridesParser

    def kept(function, key):
        made = {}

        def once(self, *arguments, **named):
            where = key(self, *arguments, **named)
            if where not in made:
                made[where] = pickle.dumps(function(self, *arguments, **named))
            return pickle.loads(made[where])  # several times as fast as copy.deepcopy

        return once

    def adopt(self, delegate):  # Hydra copies deeply, and then replaces ``sources`` at most
        self.delegate, self.cache = copy.copy(delegate), {}

    def places(repository):
        return [source.path for source in repository.get_sources()]

    OverridesParser.parse_rule = kept(
        OverridesParser.parse_rule, lambda self, line, rule: (line, rule)
    )
    defaults_list._create_interpolation_map = kept(
        defaults_list._create_interpolation_map,
        lambda overrides, defaults, own: f"{overrides.known_choices} {defaults} {own}",
    )
    CachingConfigRepository.__init__ = adopt
    ConfigRepository.load_config = kept(
        ConfigRepository.load_config, lambda self, config_path: str((places(self), config_path))
    )
    ConfigLoaderImpl._compose_config_from_defaults_list = kept(
        ConfigLoaderImpl._compose_config_from_defaults_list,
        lambda self, defaults, repo: str((places(repo), defaults)),
    )


_DRAWN: list[None] = []


def _leave_out_pictures(evaluation, style):
    """Evaluations leave a pixel for each picture, unless within ``real_pictures``.

    Drawing takes more than half of a tiny run; figures have tests of their own.
    """
    arithmetic, save, pixel = evaluation.arithmetic, style._save, io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")

    def write_pixel(figure, *paths):
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pixel.getvalue())

    @contextmanager
    def without_pictures(*arguments):  # it stands around every evaluation
        style._save = save if _DRAWN else write_pixel
        try:
            with arithmetic(*arguments):
                yield
        finally:
            style._save = save

    evaluation.arithmetic = without_pictures


@pytest.fixture(scope="session")
def real_pictures():
    """Context manager: within it evaluations draw their pictures."""

    @contextmanager
    def draw():
        _DRAWN.append(None)
        try:
            yield
        finally:
            _DRAWN.pop()

    return draw


@pytest.fixture
def full_resolution(monkeypatch):
    """Pictures as they are, for tests that measure them."""
    monkeypatch.setattr("psc.paper.style.DOTS_PER_INCH", 300)


@pytest.fixture(scope="session")
def tiny_volume(tmp_path_factory):
    """A volume of 48×40×40 voxels in CREMI's layout: Voronoi bodies with dark boundaries."""
    rng = np.random.default_rng(0)
    shape = (48, 40, 40)
    seeds = np.zeros(shape, dtype=bool)
    seeds[tuple(rng.integers(0, n, 30) for n in shape)] = True
    points, _ = ndimage.label(seeds)
    nearest = ndimage.distance_transform_edt(~seeds, return_indices=True)[1]
    labels = points[tuple(nearest)].astype(np.uint64) + 10**12
    edge = np.zeros(shape, dtype=bool)
    for axis in range(3):
        edge |= labels != np.roll(labels, 1, axis)
    raw = 180 - 120 * ndimage.gaussian_filter(edge.astype(float), 0.8) + rng.normal(0, 8, shape)
    path = tmp_path_factory.mktemp("volume") / "tiny.h5"
    with h5py.File(path, "w") as file:
        file["volumes/raw"] = raw.clip(0, 255).astype(np.uint8)
        file["volumes/labels/neuron_ids"] = labels
        file["volumes/raw"].attrs["resolution"] = (8.0, 8.0, 8.0)
    return path


def overrides_of_a_tiny_run(volume, output):
    """A run on the tiny volume: a network of a few hundred parameters, 6 iterations."""
    return [
        "dataset=fibsem",
        "budget=quick",
        f"dataset.train=[{{raw:{volume},z:[0,24]}}]",
        f"dataset.validation=[{{raw:{volume},z:[24,36]}}]",
        f"dataset.test=[{{raw:{volume},z:[36,48]}}]",
        "backbone.base_width=4",
        "backbone.growth=2",
        "backbone.depth=1",
        "recipe.iterations=6",
        "recipe.validate_every=2",
        "recipe.output_size=16",
        "segmentation.tile_input=64",
        "segmentation.thresholds=[0.2,0.5,0.8]",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        "trainer.precision=32-true",
        "trainer.progress_bar=false",
        f"output_directory={output}",
    ]


@pytest.fixture
def tiny_run(tiny_volume, tmp_path):
    """Overrides of a tiny run into tmp_path/runs."""
    return overrides_of_a_tiny_run(tiny_volume, tmp_path / "runs")


@pytest.fixture(scope="session")
def finished_run(tiny_volume, tmp_path_factory, real_pictures):
    """Record, folder and overrides of a finished tiny run with P_2SC_2; not to be changed."""
    from psc.config import compose
    from psc.training.training import train

    output = tmp_path_factory.mktemp("finished") / "runs"
    overrides = [*overrides_of_a_tiny_run(tiny_volume, output), "block=p2sc2"]
    with real_pictures():
        record = train(compose(overrides))
    return record, output / record.run, overrides


@pytest.fixture
def program(monkeypatch, capfd):
    """Function: a program's exit code, output and errors, run in this process as if typed.

    A process of its own would take longer to load PyTorch than most programs here take to run.
    """

    def call(script, *arguments, folder=PROJECT):
        monkeypatch.setattr(sys, "argv", [str(PROJECT / script), *map(str, arguments)])
        monkeypatch.chdir(folder)
        capfd.readouterr()
        root, code = logging.getLogger(), 0
        before = root.handlers[:], root.level
        try:
            runpy.run_path(str(PROJECT / script), run_name="__main__")
        except SystemExit as error:
            code = error.code
        finally:
            root.handlers[:], root.level = before
        output, errors = capfd.readouterr()
        return SimpleNamespace(code=code, output=output, errors=errors)

    return call


@pytest.fixture
def start(tmp_path_factory):
    """Function: a program in a process of its own (``Started``), which ends with the test."""
    running, folder = [], tmp_path_factory.mktemp("output")

    def begin(script, *arguments, **options):
        running.append(Started(folder / f"{len(running)}", script, *arguments, **options))
        return running[-1]

    yield begin
    for program in running:
        program.kill()


@pytest.fixture
def sample_data():
    """Folder of the real sample data; the test is skipped where there is none."""
    folder = os.environ.get("PSC_SAMPLE_DATA")
    if not folder:
        pytest.skip("PSC_SAMPLE_DATA is not set")
    return Path(folder)


@pytest.fixture
def reach_of_gradient():
    """Function: extent of the input that a module's central output voxel depends on.

    By its gradient in float64; the module's weights are made positive, so that nothing cancels.
    """

    import torch

    def reach(module, shape):
        for parameter in module.parameters():
            parameter.data.abs_()
        x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        y = module.double()(x)
        centre = tuple(size // 2 for size in y.shape[2:])
        (gradient,) = torch.autograd.grad(y[(0, slice(None), *centre)].sum(), x)
        used = gradient[0].abs().sum(0) > 0
        others = [[b for b in range(3) if b != axis] for axis in range(3)]
        return tuple(int(used.any(dim=dims).sum()) for dims in others)

    return reach


@pytest.fixture(scope="session")
def sample_em() -> Path:
    """Folder of the real EM sample."""
    root = os.environ.get("PSC_SAMPLE_DATA")
    if not root:
        pytest.skip("PSC_SAMPLE_DATA is not set")
    return Path(root) / "em"


@pytest.fixture
def make_volume():
    """Volumes of random grey values and blocky labels without 0."""
    from psc.em.data import LabelledVolume

    def make(shape=(20, 18, 16), *, seed=0, name="volume", dtype=np.uint8, **changes):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(1, 9, [-(-size // 4) for size in shape], dtype=np.uint64)
        labels = np.kron(coarse, np.ones((4, 4, 4), np.uint64))
        parts = {
            "raw": rng.integers(0, 256, shape).astype(dtype),
            "labels": labels[tuple(slice(size) for size in shape)] * 1000,
            "voxel_size": None,
            "name": name,
            "synthetic": False,
            "files": ({"name": f"{name}.h5", "bytes": 1, "sha256": "0"},),
        }
        return LabelledVolume(**(parts | changes))

    return make


@pytest.fixture(scope="session")
def blobs() -> Callable[..., np.ndarray]:
    """Factory of Voronoi cells, ids 1..N, that fill a volume."""
    from psc.em.labels import split_disconnected

    def make(shape: tuple[int, int, int], cells: int, seed: int = 0) -> np.ndarray:
        generator = np.random.default_rng(seed)
        voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        centres = generator.uniform(0, 1, (cells, 3)) * shape
        distance = ((voxels[..., np.newaxis, :] - centres) ** 2).sum(-1)
        return split_disconnected(distance.argmin(-1) + 1)

    return make


@pytest.fixture(scope="session")
def smooth_affinities() -> Callable[[np.ndarray], np.ndarray]:
    """What a good network says: low on both sides of a boundary, high two voxels away from it."""
    from psc.em.affinities import affinities_from_labels

    def make(labels: np.ndarray) -> np.ndarray:
        true, mask = affinities_from_labels(labels, zero_label="boundary")
        inside = np.where(mask, true, 1).min(axis=0)
        logits = 4 * np.tanh((ndimage.distance_transform_edt(inside) - 1) / 1.5)
        return (1 / (1 + np.exp(np.where(mask, 1.0 - true, 0) - logits))).astype(np.float32)

    return make
