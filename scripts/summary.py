"""Moved: scripts/account.py takes the same arguments."""

import sys

sys.exit("error: scripts/summary.py is now `scripts/account.py`, with the same arguments")
