"""Moved: scripts/paper.py run takes the same arguments."""

import sys

sys.exit("error: scripts/experiment.py is now `scripts/paper.py run`, with the same arguments")
