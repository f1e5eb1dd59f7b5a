"""Moved: scripts/compare.py takes the same arguments."""

import sys

sys.exit("error: scripts/summarize.py is now `scripts/compare.py`, with the same arguments")
