"""EM volumes larger than memory: affinities, fragments, region graph and segmentation by blocks.

Needs NumPy, numba, dask, zarr and what ``psc.em`` needs; no training framework.
``psc.blockwise.pipeline`` is the way in; every other file is one idea that it uses.
"""
