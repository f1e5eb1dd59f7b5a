"""Brain MRI (Section 4.2): NIfTI → tissues per voxel → Dice per subject."""
