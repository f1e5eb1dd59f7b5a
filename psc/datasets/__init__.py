"""Data of the paper's three tasks: readers of the published formats, crops, and stand-ins."""
