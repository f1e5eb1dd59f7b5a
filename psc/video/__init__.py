"""Video (Section 4.1): films → clips → classes → top-1 accuracy."""
