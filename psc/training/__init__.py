"""A run: trainer, checkpoints, folder, record, evaluation."""
