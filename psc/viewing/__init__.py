"""Segmentations to look at: in neuroglancer, or as one page of HTML and a PNG.

``psc.viewing.neuroglancer`` says what is shown, ``evaluations`` and ``blockwise_outputs`` read it
from disk; ``neuroglancer_server`` and ``html_report`` (with ``png_report``) show it.
"""
