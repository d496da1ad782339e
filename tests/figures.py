"""Helpers that read what figures show, and strings that figures must be able to draw."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from neuroscope.reporting.metrics import Metric

Floats = NDArray[np.float64]

COSINE = Metric("cosine", "cosine similarity", "cosine of two activations", "high")
RMS = Metric("rms_z", "standardised difference", "root mean square difference", "low")
ENTROPY = Metric("entropy", "prompt entropy", "effective rank of the tokens")

MINUS = "\N{MINUS SIGN}"
HOSTILE = [
    "_under $x^2$ and $\\frac{",
    "\\$ 5$ % {0}",
    "",
    "line\nbreak\r\n\ttab",
    "\x00\x1b\u202e\ud800",
    "中文 🙂👩‍💻",
    "مرحبا e\u0301",
    "W" * 10_000,
    "i " * 5_000,
]


def text_outside(figure: Figure) -> str:
    """Return all text of a figure outside its axes: title, notes and table."""
    return "\n".join(text.get_text() for text in figure.texts)


def text_inside(figure: Figure) -> list[str]:
    """Return the texts inside the first axes."""
    return [text.get_text() for text in figure.axes[0].texts]


def legend_names(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def image_of(figure: Figure) -> np.ma.MaskedArray:
    """Return the cells of the heat map in the first axes."""
    return np.ma.asarray(figure.axes[0].images[0].get_array())
