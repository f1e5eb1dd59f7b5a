"""The documentation site: its pages are there, its links lead somewhere, every key is told."""

import html.parser
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from psc.config.compose import CONFIG_DIRECTORY, register
from psc.conversion.checkpoints import ConvertConfig

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "hooks"))
import configuration_keys  # noqa: E402
import site_pages  # noqa: E402

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PARTS = [pages for part in SITE["nav"] for pages in part.values()]
NAVIGATED = [page for pages in PARTS for named in pages for page in named.values()]
MADE = {*site_pages.SECTIONS, *site_pages.WHOLE.values(), "reference/configuration.md"}
MADE |= {f"reference/{name}.md" for name in ("psc", *(f"psc.{m}" for m in site_pages.MODULES))}
WRITTEN = {path.name for path in (ROOT / "docs").glob("*.md")}
SOURCES = [*site_pages.WHOLE, *sorted(f"docs/{name}" for name in WRITTEN)]


def test_the_navigation_leads_to_every_page_once():
    assert sorted(NAVIGATED) == sorted(MADE | WRITTEN)


@pytest.mark.parametrize("source", SOURCES)
def test_every_file_that_is_linked_exists(source: str):
    text = site_pages._FENCE.sub("", site_pages.text_of(source))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "data:")):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / source).parent / file if file else ROOT / source
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {site_pages.slug(title) for title in titles}, link


def test_a_section_ends_at_the_next_and_comments_in_code_are_no_headings():
    text = "# T\n\nfirst\n\n## A\n\n```\n## no heading\n```\n\n### inner\n\n## B\n\nlast\n"
    assert site_pages.section(text, "") == "# T\n\nfirst\n"
    assert site_pages.section(text, "A") == "```\n## no heading\n```\n\n### inner\n"
    assert site_pages.section(text, "B") == "last\n"
    with pytest.raises(ValueError, match="no section 'C'; there are: , A, B"):
        site_pages.section(text, "C")


@pytest.mark.parametrize(
    ("link", "there"),
    [
        ("[here](#limits)", "[here](#limits)"),
        ("[c](docs/theory.md#2-hosvd)", "[c](theory.md#2-hosvd)"),
        ("![f](docs/figures/figure-1.png)", "![f](figures/figure-1.png)"),
        ("[t](experiments/table-4b/README.md)", "[t](experiments/table-4b/README.md)"),
        ("[all keys](psc/block/block.py)", "all keys (`psc/block/block.py`)"),  # code is named
        ("[x](https://tensorly.org)", "[x](https://tensorly.org)"),
        ("[x](nowhere.md)", "[x](nowhere.md)"),  # left to mkdocs, which refuses it
        ("```\n[x](docs/theory.md)\n```", "```\n[x](docs/theory.md)\n```"),
    ],
)
def test_links_are_turned_to_where_things_are_in_the_site(link: str, there: str):
    assert site_pages.relinked(link, "README.md", "index.md") == there


def leaves(config: DictConfig, prefix: str = ""):
    for key in config:
        value = None if OmegaConf.is_missing(config, key) else config[key]
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@pytest.mark.parametrize("program", ["train", "evaluate", "segment", "classify", "account", "view"])
def test_every_key_that_a_program_takes_is_told(program: str):
    page = configuration_keys.configuration_page()
    told = re.findall(r"^\| `([\w.\[\]]+)` \|", page, re.MULTILINE)
    choices = [[]]
    if program == "train":
        choices = [["backbone=resnet34"], ["backbone=resnet34", "dataset=own_video"]]
        choices += [["backbone=unet", "dataset=own_em"]]
        choices += [["backbone=densenet"], ["backbone=densenet", "dataset=own_mri"]]
    register()
    for overrides in choices:
        with initialize_config_dir(str(CONFIG_DIRECTORY), version_base="1.3"):
            composed = hydra_compose(program, overrides=overrides)
        assert set(leaves(composed)) <= set(told)


def test_every_key_has_a_meaning():
    rows = re.findall(
        r"^\| `([\w.\[\]]+)` \|.*\| (.*) \|$",
        configuration_keys.configuration_page(),
        re.MULTILINE,
    )
    assert len(rows) > 200
    assert [key for key, meaning in rows if not meaning.strip()] == []


def test_every_key_of_converting_is_told():
    chapter = configuration_keys.configuration_page().partition("## scripts/convert.py")[2]
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", chapter.partition("\n## ")[0], re.MULTILINE)
    assert [key for key, _ in rows] == [field.name for field in fields(ConvertConfig)]
    assert all(meaning for _, meaning in rows)


class Sources(html.parser.HTMLParser):
    """What a page fetches."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "link"):
            self.found += [given[key] for key in ("src", "href") if given.get(key)]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path):
    """One strict build, which takes most of a minute, for everything that is asked of it."""
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    pytest.importorskip("latex2mathml", reason="the extra docs is not installed")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tutorial = (site / "tutorial.html").read_text(encoding="utf-8")
    assert tutorial.count("data:image/png;base64,") == 1  # what a cell draws
    pages = list(site.rglob("*.html"))
    assert len(pages) == len(NAVIGATED) + 1  # and that of what is not found
    for page in pages:
        text = page.read_text(encoding="utf-8")
        sources = Sources()
        sources.feed(text)
        assert sources.found
        assert not [s for s in sources.found if re.match(r"(https?:)?//", s)]
        assert "arithmatex" not in text  # every formula is drawn
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", sheet.read_text(encoding="utf-8"))
