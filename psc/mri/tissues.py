"""Values of IBSR's tissue labels (Section 4.2)."""

BACKGROUND, CSF, GM, WM = range(4)

TISSUES = {"csf": CSF, "gm": GM, "wm": WM}
"""Name → value of cerebrospinal fluid, grey matter and white matter."""

CLASSES = 1 + len(TISSUES)
"""The tissues and background."""
