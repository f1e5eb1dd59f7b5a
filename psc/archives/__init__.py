"""Zip, RAR and tar archives, unpacked safely."""

from psc.archives.rar_tools import require_rar_tool
from psc.archives.unpacking import unpack

__all__ = ["require_rar_tool", "unpack"]
