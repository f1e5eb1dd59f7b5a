"""The page and its PNG: whole in themselves, with the record's numbers."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from psc.config.schema import ViewConfig
from psc.errors import ConfigError, DataError
from psc.paper import style
from psc.viewing import view
from psc.viewing.report import overview, report_html
from psc.viewing.scene import Layer, Scene


class Page(HTMLParser):
    """Attributes that name resources, texts of cells, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.resources, self.cells, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.resources += [value for key, value in attrs if key in ("src", "href", "srcset")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th", "h3"):
            self.cells.append(data)


@pytest.fixture(scope="module")
def page(finished_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "made" / "report.html"
    view(ViewConfig(run=str(finished_run[1]), report=str(path), worst=2))
    return path


def test_nothing_is_fetched(page):
    text = page.read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert all(src.startswith("data:image/png;base64,") for src in parsed.resources)
    assert not re.search(r"https?://|url\(|@import|<script|<link", text)
    for theme in ("prefers-color-scheme: dark", 'name="viewport"'):
        assert theme in text
    sizes = {Image.open(io.BytesIO(base64.b64decode(src[22:]))).size for src in parsed.resources}
    assert (40, 40) in sizes  # (x, y) of the sections across z
    assert (40, 12) in sizes


def test_numbers_are_those_of_the_record(page, finished_run):
    metrics, cells = finished_run[0].metrics, Page(page.read_text()).cells
    for part in (metrics, metrics["baseline"]):
        row = [part["test"][key] for key in ("split", "merge", "total", "adapted_rand_error")]
        wanted = [f"{value:.4f}" for value in (*row, part["threshold"])]
        assert any(cells[i : i + 5] == wanted for i in range(len(cells)))
    text = page.read_text()
    assert f"{metrics['test']['split']:.4f} bits of VI split" in text
    assert finished_run[0].run in text
    assert finished_run[0].data["files"][0]["sha256"][:12] in text
    lines = (finished_run[1] / "evaluation" / "test-0_bodies.csv").read_text().splitlines()[1:]
    for kind in ("split", "merge"):
        bits = [float(line.split(",")[2]) for line in lines if line.startswith(kind)][:2]
        assert [cell for cell in cells if cell.startswith(kind.capitalize())] == [
            f"{kind.capitalize()}: {value:.4f} bits" for value in bits
        ]


def test_the_png_is_beside_it(page):
    with Image.open(page.with_suffix(".png")) as image:
        assert image.width == 6.9 * style.DOTS_PER_INCH
        assert np.asarray(image.convert("L")).std() > 20
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.png"]


def test_names_cannot_break_the_page(tmp_path):
    layer = Layer("ground truth", "labels", np.ones((2, 3, 4), np.uint64))
    scene = Scene("<b>&", tmp_path, {"ground truth": layer}, None, facts={"<i>": "<script>"})
    text = report_html(scene, overview(scene), [])
    assert "<script" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "voxels of unknown size" in text


def test_synthetic_data_cannot_be_overlooked(tmp_path):
    layer = Layer("ground truth", "labels", np.ones((2, 3, 4), np.uint64))
    facts = {"data": "SYNTHETIC data, no result of the paper's"}
    scene = Scene("", tmp_path, {"ground truth": layer}, None, facts=facts)
    assert '<p class="alarm">SYNTHETIC data' in report_html(scene, [], [])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"run": "nowhere"}, DataError, "run=nowhere does not exist"),
        ({"run": __file__}, DataError, "is a file"),
        ({"report": "page.pdf"}, ConfigError, r"name it \*.html"),
        ({"report": "."}, ConfigError, r"name it \*.html"),
        ({"port": -1}, ConfigError, "port=-1: must be from 0"),
        ({"port": 65536}, ConfigError, "port=65536"),
        ({"worst": -1}, ConfigError, "worst=-1"),
        ({"raw": "em.zarr"}, ConfigError, "leave them out"),
        ({"region": 5}, ConfigError, "has the test regions 0"),
        ({"report": "/proc/no/report.html"}, DataError, "cannot be written"),
    ],
)
def test_what_cannot_work_is_refused(finished_run, change, error, message):
    config = ViewConfig(**({"run": str(finished_run[1]), "serve": False} | change))
    with pytest.raises(error, match=message):
        view(config)


def test_a_picture_of_the_user_s_is_not_replaced(finished_run, tmp_path):
    (tmp_path / "em.png").write_bytes(b"mine")
    config = ViewConfig(run=str(finished_run[1]), report=str(tmp_path / "em.html"), serve=False)
    with pytest.raises(ConfigError, match=r"would replace .*em\.png; give another name"):
        view(config)
    assert (tmp_path / "em.png").read_bytes() == b"mine"


def test_without_a_name_the_page_goes_into_the_run(finished_run, tmp_path, monkeypatch):
    (tmp_path / "evaluation").mkdir()
    for name in ("result.json", "evaluation/test-0.h5"):
        (tmp_path / name).symlink_to(finished_run[1] / name)
    monkeypatch.setattr("psc.viewing.serve", lambda *_, **__: pytest.fail("it serves"))
    view(ViewConfig(run=str(tmp_path), serve=False, worst=0))
    assert (tmp_path / "report-0.html").is_file()
