"""The page: what tables and records say, escaped, in one file, and in a browser if there is one."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image
from torch import nn

from psc.accounting import account
from psc.errors import DataError
from psc.paper import compare
from psc.paper.compare import draw_table
from psc.paper.experiments import (
    EXPERIMENTS,
    REDUCED,
    Experiment,
    Protocol,
    RecordedRun,
    Row,
)
from psc.paper.figures import FIGURES, MadeFigure, Source
from psc.paper.measures import measures_of
from psc.paper.page import inline, page_html, page_origin, paragraph_of
from psc.paper.table import Line, Table, claims, results, tables_of
from psc.training.records import read_record

ACCOUNT = account(nn.Conv3d(1, 2, 3), (1, 1, 8, 8, 8))
ACCOUNTS = {("unet", "3d"): ACCOUNT, ("unet", "p1sc1"): replace(ACCOUNT, parameters=5)}
ORIGIN = ("0123abcd-dirty", "2026-01-02")


class Page(HTMLParser):
    """Addresses, identifiers, the text of each cell and of all, and whether elements are closed."""

    def __init__(self, text):
        super().__init__()
        self.links, self.sources, self.identifiers, self.alternatives = [], [], [], []
        self.cells, self.words, self.open = [], "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.links += [found["href"]] if tag == "a" else []
        self.sources += [value for key, value in attrs if key in ("src", "srcset", "poster")]
        self.alternatives += [found["alt"]] if tag == "img" else []
        self.identifiers += [found["id"]] if "id" in found else []
        self.cells += [""] if tag in ("td", "th") else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def has_row(self, cells):
        """Whether these cells stand side by side."""
        wanted = list(cells)
        return any(self.cells[i : i + len(wanted)] == wanted for i in range(len(self.cells)))


def page_of(tables, folder, figures=()):
    return page_html(
        tables, figures, ACCOUNTS, ORIGIN, folder=folder, page_folder=folder / "build" / "paper"
    )


@pytest.fixture
def drawn(tmp_path):
    """A wide figure and a narrow one of synthetic data, as if they had been drawn."""
    made = []
    for name, size in (("figure-1", (2070, 1000)), ("figure-5", (1005, 1300))):
        png = tmp_path / f"{name}.png"
        Image.new("RGB", size, "gold").save(png)
        source = None
        if name == "figure-5":
            source = Source("synthetic", "phantoms", (("3D", "a-run", "c0ffee00", 7),), ("x",))
        made.append(MadeFigure(FIGURES[name], source, png.with_suffix(".pdf"), png))
    return made


def test_every_cell_and_record_is_there(experiment_folder, add_record):
    add_record(seed=0, total=1.25)
    add_record(seed=1, total=2.5)
    add_record("p2sc2", "paper", kind="real", total=0.625)
    tables = tables_of(experiment_folder)
    page = Page(page_of([tables], experiment_folder.parent))
    for table in tables:
        for row in results(table)[1:]:
            assert page.has_row(row)
    for claim in claims(tables[0])[1:]:
        assert page.has_row(claim)
    assert "1 of 2 rows, 1 of 4 runs" in page.words
    for path in experiment_folder.glob("records/*/result.json"):
        record = read_record(path)
        place = f"table-0/records/{path.parent.name}"
        assert record.run in page.cells
        assert place in page.identifiers
        assert f"#{place}" in page.links  # from the table to the list
        assert f"../../{place}/result.json" in page.links
    for link in page.links:
        assert link[1:] in page.identifiers if link.startswith("#") else ":" not in link


def test_plots_of_a_protocol_stand_in_its_box(experiment_folder, add_record, tmp_path):
    for seed in range(2):
        folder = add_record(seed=seed, wall_seconds={"training": 60.0}).parent
        (folder / "metrics.csv").write_text("step,seconds,validation/loss\n9,1.0,0.5\n")
    add_record("p2sc2")  # its metrics are not there
    paper, reduced = tables_of(experiment_folder)
    assert draw_table(paper, tmp_path) == []
    drawn = draw_table(reduced, tmp_path)
    assert [path.name for path in drawn] == ["table-0-cpu-learning.png", "table-0-cpu-tradeoff.png"]
    folder = experiment_folder.parent
    places = {"folder": folder, "page_folder": folder / "build" / "paper"}
    plots = {("table-0", "cpu"): drawn}
    text = page_html([[paper, reduced]], (), ACCOUNTS, ORIGIN, **places, plots=plots)
    assert Page(text).alternatives == [
        "Validation loss against iterations and against time, " + reduced.heading,
        "Scores against parameters, FLOPs and training time, " + reduced.heading,
    ]


def test_ablations_are_in_the_trade_off_alone(experiment_folder, add_record, tmp_path, monkeypatch):
    for block in ("3d", "p2sc2"):
        folder = add_record(block, wall_seconds={"training": 60.0}).parent
        (folder / "metrics.csv").write_text("step,seconds,validation/loss\n9,1.0,0.5\n")
    _, reduced = tables_of(experiment_folder)
    first, second = reduced.lines
    ablation = replace(second, row=replace(second.row, in_paper=False))
    drawn = {}
    figures = (("_draw_learning", "curves"), ("tradeoff_figure", "points"))
    for name, what in figures:
        monkeypatch.setattr(compare, name, lambda of, *_, what=what: drawn.update({what: of}))
    draw_table(replace(reduced, lines=(first, ablation)), tmp_path)
    assert list(drawn["curves"]) == [first.row.label]
    assert list(drawn["points"][0]) == [first.row.label, second.row.label]


def test_deleting_a_record_empties_its_cell(experiment_folder, add_record):
    record = add_record("3d", "paper", kind="real", total=0.625)
    tables = tables_of(experiment_folder)
    assert "0.625" in Page(page_of([tables], experiment_folder.parent)).cells
    record.unlink()
    page = Page(page_of([tables_of(experiment_folder)], experiment_folder.parent))
    assert "0.625" not in page.words
    assert page.has_row(["1.5", "not run"])
    assert "None of the paper's 1 tables has been run at its protocol" in page.words
    assert "There are no records." in page.words


def test_synthetic_tables_are_far_from_the_papers(experiment_folder, add_record):
    runs = experiment_folder / "runs.yaml"
    runs.write_text(
        f"{runs.read_text()}synthetic:\n  - name: demo\n    title: toy\n    seeds: [0]\n"
        "    rows: [3d]\n    overrides: [budget=quick, dataset=fibsem_synthetic]\n"
    )
    add_record("3d", "demo", kind="synthetic", total=0.125)
    text = page_of([tables_of(experiment_folder)], experiment_folder.parent)
    before, section = text.split('<section id="synthetic">')
    section, records = section.split("</section>", 1)
    assert "0.125" in section
    assert "0.125" not in before + records
    assert "synthetic “demo”: 1 run" in before
    assert 'class="badge">synthetic' in section


def test_labels_cannot_break_the_page(experiment_folder, add_record):
    runs = experiment_folder / "runs.yaml"
    runs.write_text(
        runs.read_text()
        .replace('label: "3D"', "label: '<b>&\"'")
        .replace('"short"', '"<script>"')
        .replace('"quoted"', '"<i>"')
    )
    add_record(hardware={"accelerator": "cpu", "device": "<u>&"})
    text = page_of([tables_of(experiment_folder)], experiment_folder.parent)
    assert not re.search(r"<b>|<script|<i>|<u>", text)
    assert {'<b>&"', "<u>&"} <= set(Page(text).cells)


def test_it_is_one_file(experiment_folder, drawn):
    tables = [tables_of(experiment_folder)]
    text = page_of(tables, experiment_folder.parent, drawn)
    page = Page(text)
    assert len(page.sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?:|url\(|@import|<script|<link|javascript", text)
    assert page.alternatives[1].startswith("Synthetic data. Four panels")
    assert "0123abcd-dirty of 2026-01-02" in page.words
    assert "a-run" in page.words
    for theme in ("prefers-color-scheme: dark", "@media print", 'name="viewport"', 'lang="en"'):
        assert theme in text
    assert text == page_of(tables, experiment_folder.parent, drawn)


def test_figures_that_could_not_be_drawn_say_why(experiment_folder):
    made = [
        MadeFigure(FIGURES["figure-5"], missing="no <picture>"),
        MadeFigure(FIGURES["figure-6"], error="changed"),
    ]
    page = Page(page_of([tables_of(experiment_folder)], experiment_folder.parent, made))
    assert "Not drawn: no <picture>." in page.words
    assert "Not drawn: what it is drawn from is damaged: changed." in page.words
    assert page.sources == []


def committed_tables():
    """The committed records without runs.yaml, whose rows take half a minute to compose."""
    for folder in sorted(EXPERIMENTS.glob("table-*")):
        protocol = Protocol("all", REDUCED, "all", ())
        paths = sorted(folder.glob("records/*/result.json"))
        runs = [RecordedRun(path, read_record(path), protocol, None) for path in paths]
        if runs:
            measures = measures_of(runs[0].record)
            experiment = Experiment(folder, folder.name, measures, (), (protocol,), ())
            lines = tuple(Line(Row(r.record.run, r.record.run, ()), None, {}, (r,)) for r in runs)
            yield Table(experiment, protocol, lines)


def test_every_committed_record_is_listed_with_its_numbers():
    tables = [[table] for table in committed_tables()]
    folder = EXPERIMENTS.parent / "build" / "paper"
    page = Page(page_html(tables, (), ACCOUNTS, ORIGIN, folder=EXPERIMENTS, page_folder=folder))
    paths = sorted(EXPERIMENTS.glob("*/*/*/result.json"))
    paths = [path for path in paths if path.parts[-3] != "tuning"]  # which are in no table
    assert len(paths) >= 13
    for path in paths:
        record = read_record(path)
        assert page.cells.count(record.run) >= 1
        assert f"../../{path.relative_to(EXPERIMENTS.parent).as_posix()}" in page.links
        assert record.seal[:8] in page.cells
        if path.parts[-4].startswith("table-"):
            measures = measures_of(record)
            found = {s.key: [record.metrics["test"][s.key]] for s in measures.scores}
            if record.config["dataset"].get("folds"):  # mean ± sd over the subjects it tested
                tested = [record.metrics["subjects"][n] for n in record.data["splits"]["test"]]
                found = {key: [one[key] for one in tested] for key in found}
            scores = [measures.text(values) for values in found.values()]
            assert page.has_row([f"{record.parameters:,}", "–", *scores])
    for link in page.links:
        assert link.startswith("#") or (folder / link).resolve().exists()


def test_an_edited_record_of_a_figure_is_refused(tmp_path):
    shutil.copytree(EXPERIMENTS / "figure-4a", tmp_path / "figure-4a")
    record = min(tmp_path.glob("figure-4a/*/*/result.json"))
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DataError, match="edited by hand"):
        page_of([], tmp_path)


@pytest.mark.parametrize("folder", sorted(EXPERIMENTS.glob("[ft]*-*")), ids=lambda f: f.name)
def test_every_readme_has_the_paragraphs_that_the_page_takes(folder):
    readme = folder / "README.md"
    assert paragraph_of(readme, "What the paper claims", "What the paper shows")
    if folder.name.startswith("figure"):
        assert paragraph_of(readme, "Deviations")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "**P_mSC_n**, P_2SC_3",
            "<strong>P<sub>m</sub>SC<sub>n</sub></strong>, P<sub>2</sub>SC<sub>3</sub>",
        ),
        ("a < b & `x < *y*`", "a &lt; b &amp; <code>x &lt; *y*</code>"),
        ("[it](../a.md)\nhere", '<a href="up/../a.md">it</a> here'),
        ("[it](https://example.org)", "[it](https://example.org)"),  # no way out of the page
        ("fibsem_sample", "fibsem_sample"),
    ],
)
def test_the_markdown_of_captions(words, expected):
    assert inline(words, "up/") == expected


def test_the_date_is_the_commits(tmp_path):
    assert page_origin(tmp_path) is None
    (tmp_path / "file").touch()
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "x"]):
        subprocess.run(
            ["git", "-C", str(tmp_path), *arguments],
            check=True,
            env={"PATH": "/usr/bin:/bin", "GIT_COMMITTER_DATE": "2020-02-03T12:00:00Z"},
        )
    commit, date = page_origin(tmp_path)
    assert re.fullmatch("[0-9a-f]{8}", commit)
    assert date == "2020-02-03"


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_a_browser_shows_it(browser, experiment_folder, add_record, drawn):
    add_record()
    path = experiment_folder.parent / "build" / "paper" / "index.html"
    path.parent.mkdir(parents=True)
    path.write_text(page_of([tables_of(experiment_folder)], experiment_folder.parent, drawn))
    papers = {}
    for scheme in ("light", "dark"):
        for width in (1280, 390):
            size = {"width": width, "height": 800}
            page = browser.new_page(viewport=size, color_scheme=scheme)
            said, asked = [], []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            assert said == []
            assert {url.split(":")[0] for url in asked} <= {"file", "data"}
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
            colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
            papers[scheme] = sum(map(int, re.findall(r"\d+", colour)))
            plate = page.evaluate(
                "getComputedStyle(document.querySelector('.plate')).backgroundColor"
            )
            assert plate == "rgb(255, 255, 255)"  # figures are black on white
            page.close()
    assert papers["light"] > 700
    assert papers["dark"] < 100
