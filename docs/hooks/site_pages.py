"""The site's pages that are not written for it, and their links: a hook of mkdocs (``make docs``).

What a page of the repository says is said once. A page of the site is a file of ``docs/``, or made
when the site is built: of the README, the experiments' pages (``WHOLE``) or sections of them
(``SECTIONS``), of docstrings (mkdocstrings), or of the configuration's schema. Links are those that
work where a file lies; they are turned to where its text stands in the site. What a page shows or
links that is no page (pictures, CSV, YAML) goes along; what is code is named by its path. Formulas
become MathML, which browsers draw without a script.
"""

import html
import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from configuration_keys import configuration_page

PROJECT = Path(__file__).resolve().parents[2]

SECTIONS: dict[str, list[tuple[str, str]]] = {
    "deviations.md": [
        ("README.md", "Limits"),
        (
            "experiments/table-4b/README.md",
            "Our protocol, and where it may differ from the paper's",
        ),
        ("experiments/table-5d/README.md", "Our protocols, and where they differ from the paper's"),
        ("experiments/table-6d/README.md", "Our protocols, and where they differ from the paper's"),
    ],
}
"""Page → the sections of repository files that it is made of."""

TITLES = {"deviations.md": "Deviations from the paper"}

MODULES = ("block", "networks", "conversion", "accounting", "decomposition", "metrics")

WHOLE = {"README.md": "index.md", "data/README.md": "data/README.md"}
WHOLE |= {"docs/tutorial.ipynb": "tutorial.md", "CONTRIBUTING.md": "contributing.md"}
WHOLE |= {
    f"experiments/{n}/README.md": f"experiments/{n}/README.md"
    for n in (
        *("speed", "conversion", "data-efficiency", "another-volume", "malis"),
        *("table-4b", "table-5d", "table-6d"),
    )
}
"""Repository files that are pages as they are → their place in the site."""

_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_MARKER = re.compile(r"^<!-- /?[A-Z]+ -->\n", re.MULTILINE)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_ASSETS = {".png", ".csv", ".yaml", ".json", ".cff", ""}


def slug(title: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs both make it of letters, digits and spaces."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


def text_of(source: str) -> str:
    """The Markdown of a repository file; of a notebook its cells and what they gave."""
    text = (PROJECT / source).read_text(encoding="utf-8")
    if not source.endswith(".ipynb"):
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        content = "".join(cell["source"])
        parts.append(content if cell["cell_type"] == "markdown" else f"```python\n{content}\n```")
        for output in cell.get("outputs", ()):
            if "text" in output:
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            if drawn := output.get("data", {}).get("image/png"):
                parts.append(
                    f"![What the cell draws](data:image/png;base64,{''.join(drawn).strip()})"
                )
    return "\n\n".join(parts) + "\n"


def section(text: str, title: str) -> str:
    """A section of a Markdown file below its heading; "" is what stands before the first."""
    # With the comments of code that look like headings made to look like none.
    text = _FENCE.sub(lambda code: code[0].replace("\n#", "\n\0#"), text)
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    found = dict(zip(["", *parts[1::2]], parts[0::2], strict=True))
    if title not in found:
        raise ValueError(f"no section {title!r}; there are: {', '.join(found)}")
    return found[title].replace("\0", "").strip() + "\n"


def assembled(page: str) -> str:
    """The Markdown of a page of sections, links as they are where each section stands."""
    parts = [f"# {TITLES[page]}\n"]
    for source, title in SECTIONS[page]:
        whole = (PROJECT / source).read_text(encoding="utf-8")
        own = title if source == "README.md" else whole.split("\n", 1)[0].removeprefix("# ")
        parts.append(f"## {own}\n\n{relinked(section(whole, title), source, page)}")
    return "\n".join(parts)


def places() -> dict[str, str]:
    """Repository path → page of the site, for all files that are pages as they are."""
    return WHOLE | {f"docs/{path.name}": path.name for path in (PROJECT / "docs").glob("*.md")}


def relinked(
    text: str, source: str, page: str, shown: Callable[[str], object] = lambda path: None
) -> str:
    """The text of a repository file, ``source``, with links as they have to be in a page.

    ``shown`` is told the repository path of every file that has to go along.
    """
    homes = places()

    def turned(link: re.Match[str]) -> str:
        picture, label, target = link.groups()
        if re.match(r"\w+:", target):
            return link[0]
        path, _, anchor = target.partition("#")
        if not path:
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        home = homes.get(path)
        if home is not None and anchor:
            home += f"#{anchor}"
        if home is None and (PROJECT / path).is_file() and PurePosixPath(path).suffix in _ASSETS:
            shown(path)
            home = path.removeprefix("docs/")
        if home is not None:
            return f"{picture}[{label}]({posixpath.relpath(home, posixpath.dirname(page) or '.')})"
        if not (PROJECT / path).exists():
            return link[0]  # which mkdocs tells
        return label if path.endswith(label.strip("`")) else f"{label} (`{path}`)"

    pieces = _FENCE.split(text)
    pieces[0::2] = [_LINK.sub(turned, piece) for piece in pieces[0::2]]
    return "".join(pieces)


def reference(name: str) -> str:
    """The page of a module: its docstring and its public names."""
    if name != "psc":
        return f"# {name}\n\n::: {name}\n"
    import psc

    text = "# psc\n\nWhat `import psc` gives; each is loaded when it is asked for.\n\n"
    text += "| name | |\n|---|---|\n"
    for public in psc.__all__:
        value = getattr(psc, public)
        room = ".".join(value.__module__.split(".")[:2])
        told = " ".join((value.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
        text += f"| [`psc.{public}`]({room}.md#{room}.{public}) | {told} |\n"
    return text


def formula(tex: str, *, block: bool) -> str:
    """MathML of a formula; a tag becomes a number in the margin."""
    from latex2mathml.converter import convert

    tex = html.unescape(tex).strip()
    number = re.search(r"\\tag\{(\w+)\}", tex)
    tex = re.sub(r"\\tag\{\w+\}", lambda tag: rf"\qquad ({number[1]})" if number else "", tex)
    drawn: str = convert(tex, display="block" if block else "inline")
    return f'<span class="formula">{drawn}</span>' if block else drawn


# What mkdocs calls.


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, and what they and the pages of ``docs/`` show."""
    from mkdocs.structure.files import File

    made = {page: assembled(page) for page in SECTIONS}
    made |= {page: text_of(source) for source, page in WHOLE.items()}
    names = ("psc", *(f"psc.{name}" for name in MODULES))
    made |= {f"reference/{name}.md": reference(name) for name in names}
    made["reference/configuration.md"] = configuration_page()
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    shown: set[str] = set()
    for source, page in places().items():
        relinked(text_of(source), source, page, shown.add)
    for path in sorted(shown):
        place = path.removeprefix("docs/")
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(PROJECT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of pages that are files of the repository."""
    markdown = _MARKER.sub("", markdown)
    source = {place: source for source, place in places().items()}.get(page.file.src_uri)
    return markdown if source is None else relinked(markdown, source, page.file.src_uri)


def on_page_content(content: str, **_: Any) -> str:
    """Draw the formulas."""
    return _FORMULA.sub(lambda found: formula(found[3], block=found[2] == "["), content)
