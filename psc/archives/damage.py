"""What the standard library raises about a damaged archive, as one error that says what to do."""

import errno
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psc.errors import DataError, PSCError


@contextmanager
def reported_damage(archive: Path) -> Iterator[None]:
    """Within it, whatever shows that the archive is damaged becomes a DataError.

    Errors of ours and of the disk pass. The latter are OSErrors with a number: those of gzip and
    bz2 have none, and an invalid argument is a place before the beginning, which a header named.
    """
    try:
        yield
    except PSCError:
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        raise damaged(archive, error) from error
    # zipfile's NotImplementedError: a compression or a version of the format that it does not know
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        ValueError,
        OverflowError,  # sizes that no file has
        MemoryError,
        NotImplementedError,
    ) as error:
        raise damaged(archive, error) from error


def damaged(archive: Path, why: object) -> DataError:
    """The error for an archive that is not as it was packed."""
    return DataError(
        f"{archive} ({archive.stat().st_size} bytes) is damaged or cut off ({why}); delete it and"
        " download it again"
    )
