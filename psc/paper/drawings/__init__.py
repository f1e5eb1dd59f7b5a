"""Figures 1–3 of the paper as drawings of what this project really builds and computes.

No drawing repeats a list by hand: channels, kernels, sizes and skip connections are read from the
modules, energies from a computed decomposition. So a drawing changes when the code does.
"""
