"""Segmentations to look at: in neuroglancer, or as one page of HTML and a PNG.

``scene`` reads what is shown from disk; ``neuroglancer`` serves it to a browser; ``report`` writes
the page and the PNG; ``view`` is what ``scripts/view.py`` does.
"""

import logging
from pathlib import Path

from psc.config.schema import ViewConfig
from psc.errors import ConfigError, DataError
from psc.viewing.neuroglancer import serve
from psc.viewing.report import write_report
from psc.viewing.scene import (
    Scene,
    evaluation_folder,
    is_blockwise_output,
    open_blockwise_output,
    open_evaluation,
)

log = logging.getLogger(__name__)


def view(config: ViewConfig) -> None:
    """Serve in neuroglancer until interrupted; with ``report``, or ``serve`` false, a page."""
    if not 0 <= config.port <= 65535:  # impossible values are refused before data are read
        raise ConfigError(f"port={config.port}: must be from 0 (any) to 65535")
    if config.worst < 0:
        raise ConfigError(f"worst={config.worst}: must be 0 or more")
    report = None if config.report is None else Path(config.report)
    if report is not None and report.suffix != ".html":
        raise ConfigError(f"report={report}: a page is written; name it *.html")
    if report is not None and report.is_dir():
        raise ConfigError(f"report={report} is a folder; give a file")
    if report is not None and not report.exists() and (own := report.with_suffix(".png")).exists():
        raise ConfigError(f"report={report}: its picture would replace {own}; give another name")
    scene = _open(config)
    if report is None and config.serve:
        serve(scene, address=config.address, port=config.port)
        return
    page = report or Path(config.run) / f"report-{config.region}.html"
    log.info("written to %s and %s", *write_report(scene, page, config.worst))


def _open(config: ViewConfig) -> Scene:
    """The layers of a run, of an evaluation, or of an output of scripts/segment.py."""
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
