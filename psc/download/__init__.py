"""Data sets from the net: resumed, verified, safely unpacked."""
