"""From affinities to instances, and back: the segmentation pipeline of the paper's EM experiment.

Needs NumPy, SciPy, scikit-image and numba; waterz only where something is agglomerated.
"""
