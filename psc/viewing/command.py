"""What ``scripts/view.py`` does: open what a run left, then serve it or write a page."""

import logging
from pathlib import Path

from psc.config.schema import ViewConfig
from psc.errors import ConfigError, DataError
from psc.viewing.neuroglancer import Scene, serve
from psc.viewing.outputs import (
    evaluation_folder,
    is_blockwise_output,
    open_blockwise_output,
    open_evaluation,
)
from psc.viewing.report import overview, report_html, worst_places, write_html, write_png

log = logging.getLogger(__name__)

_LARGEST_PORT = 65535


def view(config: ViewConfig) -> None:
    """Serve in neuroglancer until interrupted; with ``report``, or ``serve`` false, write a page.

    Args:
        config: what to show and how.

    Raises:
        ConfigError: a value is impossible, the port is taken, or neuroglancer is missing.
        DataError: there is nothing to show, or it is damaged.
    """
    report = _report(config)
    scene = open_scene(config)
    if report is None:
        serve(scene, address=config.address, port=config.port)
        return
    sections, places = overview(scene), worst_places(scene, config.worst)
    write_html(report_html(scene, sections, places), report)
    picture = report.with_suffix(".png")
    try:
        write_png(scene, [*sections, *places], picture)
    except OSError as error:
        raise DataError(f"could not write {picture}: {error}; give another report=…") from error
    log.info("written to %s and %s", report, picture)


def open_scene(config: ViewConfig) -> Scene:
    """The layers of a run, of an evaluation, or of an output of scripts/segment.py.

    Raises:
        ConfigError: an option does not belong to what is opened.
        DataError: there is nothing to show, or it is damaged.
    """
    run = Path(config.run)
    if not run.is_dir():
        what = "is a file; give its folder" if run.exists() else "does not exist; runs are in runs/"
        raise DataError(f"run={run} {what}")
    if is_blockwise_output(run):
        if config.region != 0:
            raise ConfigError(f"region={config.region}: {run} has one region only; leave it out")
        raw = Path(config.raw) if config.raw is not None else None
        return open_blockwise_output(run, raw, config.raw_key)
    folder = evaluation_folder(run)
    if config.raw is not None or config.raw_key is not None:
        raise ConfigError(f"raw and raw_key: the evaluation {folder} holds its raw; leave them out")
    return open_evaluation(folder, config.region)


def _report(config: ViewConfig) -> Path | None:
    """Where a page goes; None: serve instead. Refuses impossible values before data are read."""
    if not 0 <= config.port <= _LARGEST_PORT:
        raise ConfigError(f"port={config.port}: must be from 0 (any) to {_LARGEST_PORT}")
    if config.worst < 0:
        raise ConfigError(f"worst={config.worst}: must be 0 or more")
    if config.report is None:
        return None if config.serve else Path(config.run) / f"report-{config.region}.html"
    path = Path(config.report)
    if path.suffix != ".html":
        raise ConfigError(f"report={path}: a page is written; name it *.html")
    if path.is_dir():
        raise ConfigError(f"report={path} is a folder; give a file")
    return path
