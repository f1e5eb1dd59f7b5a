"""The benchmarks behind ``scripts/benchmark.py``: one module each, and what they share."""
