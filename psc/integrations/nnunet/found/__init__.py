"""The folder for ``nnUNet_extTrainer``: nnU-Net imports every file in it, and nothing else."""
