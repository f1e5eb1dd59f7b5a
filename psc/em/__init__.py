"""Electron microscopy (Section 4.3): volumes → affinities → watershed → agglomeration → VI."""
