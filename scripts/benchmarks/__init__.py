"""What ``scripts/benchmark.py`` measures: a module per field, ``timing`` for all of them."""
