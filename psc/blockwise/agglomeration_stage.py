"""Fourth stage: the segment of every fragment, from the graphs of all blocks, in one process."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from psc.blockwise.graph_stage import graph_file
from psc.blockwise.merging import merge_regions, needs_histograms
from psc.blockwise.numbering import Numbering
from psc.blockwise.region_graph import GraphPart, assemble, joined_roots

__all__ = ["AgglomerationStage"]


@dataclass(frozen=True, eq=False)
class AgglomerationStage:
    """Writes one table for the whole volume: segment ids uint64 (N) by fragment.

    Attributes:
        graphs: folder that ``GraphStage`` wrote.
        numbering: of the fragments.
        scoring: see ``psc.segmentation.agglomeration.SCORING_FUNCTIONS``.
        threshold: up to which regions merge.
        target: the table, a .npy.
    """

    graphs: Path
    numbering: Numbering
    scoring: str
    threshold: float
    target: Path

    def __call__(self, reports: Mapping[int, Mapping[str, int]]) -> dict[str, int]:
        """Merge, write, and count.

        Args:
            reports: what ``GraphStage`` reported of each block.
        """
        blocks = sorted(reports)
        roots = joined_roots(self.numbering.fragments, self._joined(blocks))
        graph = assemble(
            roots,
            self._parts(blocks),
            edges=sum(report["pairs"] for report in reports.values()),
            entries=sum(report["entries"] for report in reports.values()),
            histograms=needs_histograms(self.scoring),
        )
        edges = int(graph.sizes[0])
        ((_, segments),) = merge_regions(graph, roots, [self.threshold], self.scoring)
        partial = self.target.with_name(f".{self.target.name}.tmp")
        with partial.open("wb") as file:
            np.save(file, segments)
        partial.replace(self.target)
        return {
            "fragments": self.numbering.fragments,
            "joined": int(np.count_nonzero(roots != np.arange(roots.size))),
            "edges": edges,
            "segments": int(segments.max(initial=0)),
        }

    def _joined(self, blocks: list[int]) -> Iterator[npt.NDArray[np.int64]]:
        for index in blocks:
            with np.load(graph_file(self.graphs, index)) as arrays:
                yield self.numbering.positions(arrays["joined"])

    def _parts(self, blocks: list[int]) -> Iterator[GraphPart]:
        for index in blocks:
            with np.load(graph_file(self.graphs, index)) as arrays:
                yield GraphPart(
                    pairs=self.numbering.positions(arrays["pairs"]),
                    offsets=arrays["offsets"],
                    values=arrays["values"],
                    counts=arrays["counts"],
                )
