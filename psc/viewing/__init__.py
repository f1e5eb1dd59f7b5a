"""Segmentations to look at: in neuroglancer, or as one page of HTML and a PNG.

``scene`` reads what is shown from disk; ``neuroglancer`` serves it to a browser; ``report`` writes
the page and the PNG; ``command`` is what ``scripts/view.py`` does.
"""
