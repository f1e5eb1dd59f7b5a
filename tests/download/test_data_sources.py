import re
from pathlib import Path

import pytest
import yaml

from psc.config.choices import FIBSEM_FILES
from psc.download.download import SourceFile, source_files
from psc.errors import DataError

ROOT = Path(__file__).parents[2]
SOURCES = yaml.safe_load((ROOT / "data/sources.yaml").read_text(encoding="utf-8"))
FILES = [(name, file) for name, source in SOURCES.items() for file in source["files"]]


def test_the_papers_three_data_sets_are_described():
    assert set(SOURCES) == {"fibsem", "ucf101", "ibsr"}
    for source in SOURCES.values():
        assert {"title", "home", "citation", "licence", "files"} == set(source)
        assert source["home"].startswith("https://")


@pytest.mark.parametrize(("name", "file"), FILES, ids=lambda value: str(value)[:40])
def test_each_file_says_where_it_comes_from_and_lands(name: str, file: dict):
    assert file["path"].startswith(f"data/{name}/")
    assert file["url"].startswith("https://")
    assert Path(file["path"]).name == Path(file["url"]).name
    assert file["sha256"] == "unknown" or re.fullmatch("[0-9a-f]{64}", file["sha256"])
    assert file["size"] == "unknown" or re.fullmatch(r"[0-9.]+ (kB|MB|GB)", file["size"])


def test_checksums_are_all_different():
    sums = [file["sha256"] for _, file in FILES if file["sha256"] != "unknown"]
    assert len(sums) == len(set(sums)) == 7


def test_downloads_land_where_the_data_set_is_looked_for():
    listed = {file["path"] for file in SOURCES["fibsem"]["files"]}
    assert listed == {f"data/fibsem/{name}" for name in FIBSEM_FILES}
    config = yaml.safe_load((ROOT / "configs/dataset/fibsem.yaml").read_text(encoding="utf-8"))
    slabs = [*config["train"], *config["validation"], *config["test"]]
    assert listed == {slab[key] for slab in slabs for key in ("raw", "labels")}


def test_the_readme_shows_every_folder_and_file_of_fibsem():
    readme = (ROOT / "data/README.md").read_text(encoding="utf-8")
    for name in FIBSEM_FILES:
        folder, file = name.split("/")
        assert re.search(rf"^ +{folder}/ .*{file}", readme, flags=re.MULTILINE), name


def test_the_list_is_read_as_it_is_written():
    rar, splits = source_files("ucf101")
    assert rar == SourceFile(
        path=Path("UCF101.rar"),
        url="https://www.crcv.ucf.edu/data/UCF101/UCF101.rar",
        rounded_size=6_500_000_000,
        sha256=None,
    )
    assert splits.rounded_size == 113_943
    assert [file.path.as_posix() for file in source_files("fibsem")] == list(FIBSEM_FILES)
    assert source_files("ibsr") == []


ENTRY = {"path": "data/x/file", "url": "https://host/file", "size": "1 MB", "sha256": "a" * 64}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "FileNotFoundError"),
        ("a: [", "ParserError"),
        ("- a", "TypeError"),
        ("y: {files: []}", "KeyError"),
        (yaml.safe_dump({"x": {"files": [{**ENTRY, "path": "data/y/file"}]}}), "data/y/file"),
        (yaml.safe_dump({"x": {"files": [{**ENTRY, "size": "much"}]}}), "size 'much'"),
        (yaml.safe_dump({"x": {"files": [{**ENTRY, "sha256": "b"}]}}), "sha256 'b'"),
        (yaml.safe_dump({"x": {"files": [{"path": "data/x/file"}]}}), "'url'"),
    ],
)
def test_a_list_that_cannot_be_used(tmp_path, content, what):
    listing = tmp_path / "sources.yaml"
    if content is not None:
        listing.write_text(content)
    with pytest.raises(DataError, match=rf"{listing} does not list the files of x .*{what}"):
        source_files("x", listing)
