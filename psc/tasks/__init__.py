"""Tasks: thin LightningModules, one per application."""
