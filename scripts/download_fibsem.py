"""Download the FIB-25 volumes (paper, Section 4.3): ``python scripts/download_fibsem.py``.

Three volumes, each a pair of HDF5 files, into data/fibsem, where ``dataset=fibsem`` reads them (and
applies each ground truth's map from supervoxels to neurons). A file that is there with the right
checksum is left alone; after an interruption, run it again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from psc.config.choices import FIBSEM_FILES
from psc.download.download import PROJECT, SOURCES, fetch, source_files
from psc.errors import DataError, PSCError
from psc.files import in_words


def main(arguments: Sequence[str] | None = None) -> None:
    """Download from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=PROJECT / "data" / "fibsem")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="another list, of a mirror")
    chosen = parser.parse_args(arguments)
    try:
        sources = source_files("fibsem", chosen.sources)
        if {file.path.as_posix() for file in sources} != set(FIBSEM_FILES):
            raise DataError(f"{chosen.sources}: fibsem must list {', '.join(FIBSEM_FILES)}")
        for source in sources:
            found = fetch(source, chosen.folder)
            done = "fetched" if found.fetched else "is there"
            print(f"{found.path}: {done} ({in_words(found.size)})", flush=True)
    except PSCError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
