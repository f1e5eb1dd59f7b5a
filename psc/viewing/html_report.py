"""A scene as one page of HTML: nothing is fetched, everything is in the file."""

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from psc.errors import DataError
from psc.viewing.layers import AFFINITIES, Scene
from psc.viewing.pictures import Picture, PictureRow

__all__ = ["report_html", "write_html"]

_SCALE_BAR_EXTENT = 0.3  # of a picture's width, at most

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1d20; --faint: #5b626b;
  --line: #d9dde2; --alarm: #9a3412; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171a; --ink: #e7e9ec; --faint: #a2abb5; --line: #363c43; --alarm: #fdba74; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; margin: .3rem 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .1rem; }
p { margin: .2rem 0 .5rem; max-width: 70ch; overflow-wrap: anywhere; }
.faint, figcaption { color: var(--faint); font-size: .9rem; }
.alarm { color: var(--alarm); font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.facts td { overflow-wrap: anywhere; }
.facts th { min-width: 6rem; }
.row { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 9rem), 1fr)); }
@media (min-width: 45rem) { .row { grid-template-columns: repeat(4, 1fr); max-width: 64rem; }
  .overview { grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); max-width: none; } }
figure { margin: 0; }
.picture { position: relative; overflow: hidden; }
.picture img { display: block; width: 100%; height: 100%; image-rendering: pixelated; }
.picture i { position: absolute; width: 1.2rem; height: 1.2rem; margin: -.6rem;
  border: 2px solid #fff; border-radius: 50%;
  box-shadow: 0 0 2px 1px #000, inset 0 0 2px 1px #000; }
.picture b { position: absolute; left: 4%; bottom: 5%; border-bottom: 3px solid #fff; color: #fff;
  font: 600 .75rem/1.4 system-ui, sans-serif; text-shadow: 0 0 2px #000, 0 0 2px #000;
  white-space: nowrap; filter: drop-shadow(0 0 1px #000); }
"""


def report_html(scene: Scene, sections: Sequence[PictureRow], places: Sequence[PictureRow]) -> str:
    """The page.

    Args:
        scene: its scores and facts.
        sections: of the whole volume.
        places: close-ups of splits and merges.
    """
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(scene.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n",
        f"<h1>{html.escape(scene.title)}</h1>\n",
        _lead(scene),
        _scores(scene),
        "<h2>Overview</h2>\n",
        _legend(scene),
        *(_row(row, "row overview") for row in sections),
    ]
    if places:
        parts += ["<h2>Worst places</h2>\n", _bits(scene), *(_row(row, "row") for row in places)]
    elif scene.scores:
        parts.append("<h2>Worst places</h2>\n<p>No split and no merge is shown.</p>\n")
    parts += ["<h2>Where it comes from</h2>\n", _facts(scene), "</body>\n</html>\n"]
    return "".join(parts)


def write_html(text: str, path: Path) -> None:
    """Write a page, completely or not at all; missing folders are made.

    Raises:
        DataError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise DataError(
            f"could not write {path}: {error}; free disk space or give another report=…"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _lead(scene: Scene) -> str:
    z, y, x = scene.shape
    size = (
        f"voxels of {' × '.join(f'{s:g}' for s in scene.voxel_size)} nm"
        if scene.voxel_size
        else "voxels of unknown size"
    )
    begin = ", ".join(map(str, scene.offset))
    data = scene.facts.get("data", "")
    alarm = ' class="alarm"' if "SYNTHETIC" in data else ""
    kind = f"<p{alarm}>{html.escape(data)}</p>\n" if data else ""
    return (
        f"{kind}<p class=faint>{z} × {y} × {x} {size} (z, y, x), which begin at voxel {begin} of"
        " their source volume.</p>\n"
    )


def _scores(scene: Scene) -> str:
    if not scene.scores:
        return ""
    columns = list(next(iter(scene.scores.values())))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *columns))
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{scores[column]:.4f}</td>" for column in columns)
        + "</tr>"
        for name, scores in scene.scores.items()
    )
    return (
        f"<h2>Scores of the test part</h2>\n<div class=wide><table><tr>{head}</tr>{rows}</table>"
        "</div>\n<p class=faint>VI in bits; each threshold was chosen on the validation part."
        "</p>\n"
    )


def _legend(scene: Scene) -> str:
    text = "The ring marks the same voxel everywhere."
    if AFFINITIES in scene.layers:
        text += " Affinities along z, y, x are red, green and blue: dark is a boundary."
    if scene.errors:
        text += (
            " A segment has the colour of the body that it covers most; every further piece of that"
            " body has another."
        )
    return f"<p class=faint>{text}</p>\n"


def _bits(scene: Scene) -> str:
    splits, merges = (
        sum(1 for error in scene.errors if error.kind == kind) for kind in ("split", "merge")
    )
    return (
        f"<p class=faint>This region has {splits} splits, {scene.bits('split'):.4f} bits of VI"
        f" split, and {merges} merges, {scene.bits('merge'):.4f} bits of VI merge. Only what"
        " belongs to an error is coloured.</p>\n"
    )


def _row(row: PictureRow, kind: str) -> str:
    text = f"<p class=faint>{html.escape(row.text)}</p>\n" if row.text else ""
    figures = "".join(_figure(picture, first=i == 0) for i, picture in enumerate(row.pictures))
    return f'<h3>{html.escape(row.heading)}</h3>\n{text}<div class="{kind}">{figures}</div>\n'


def _figure(picture: Picture, *, first: bool) -> str:
    rows, columns = picture.image.shape[:2]
    height, width = rows * picture.pixel_size[0], columns * picture.pixel_size[1]
    row, column = picture.mark
    bar = _scale_bar(width) if first and picture.in_nm else ""
    name = html.escape(picture.title)
    return (
        f'<figure><div class=picture style="aspect-ratio: {width:g} / {height:g}">'
        f'<img alt="{name}" src="data:image/png;base64,{_png(picture)}">'
        f'<i style="left: {100 * column / columns:.2f}%; top: {100 * row / rows:.2f}%"></i>{bar}'
        f"</div><figcaption>{name}</figcaption></figure>\n"
    )


def _scale_bar(width: float) -> str:
    """A bar of the longest of 1, 2, 5, 10, … nm that fits."""
    longest = _SCALE_BAR_EXTENT * width
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step == 1 or step * power <= longest)
    label = f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
    return f'<b style="width: {100 * length / width:.2f}%">{label}</b>'


def _png(picture: Picture) -> str:
    file = io.BytesIO()
    Image.fromarray(picture.image).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _facts(scene: Scene) -> str:
    facts = {**scene.facts, "file": scene.path.name}
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f'<table class="facts">{rows}</table>\n'
