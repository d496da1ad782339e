"""Legends below the panels of a figure, and the looks of the lines and points that they name."""

from collections.abc import Sequence
from math import ceil
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from neuroscope.reporting.plots.layout import FAINT, LEGEND
from neuroscope.reporting.plots.text import plain, shorten, text_width

Entry = tuple[str, Artist]  # name in the legend, and the sample beside it

# colours of Okabe and Ito without the yellow, which is hard to see on white
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8c8c8c")
MARKERS = "os^DvPX*"
REFERENCE: dict[str, Any] = {"color": FAINT, "linewidth": 1.3, "zorder": 1.5}
REFERENCE_DASHES = ((0, (1, 1.5)), (0, (6, 2)), (0, (6, 1.5, 1, 1.5)), (0, (2.5, 1.2)))

HANDLE = 0.75  # inches: width of a sample in a legend and the gaps around it
ROW = 0.2  # inches per row of a legend
MOST_COLUMNS = 4


class Legend:
    """Legend below the panels of a figure, whose names are shortened to fit.

    Args:
        entries: names and samples; those without a name are left out.
        left: left edge of the legend, in inches from the left edge of the figure.
        room: width of the legend in inches.
    """

    def __init__(self, entries: Sequence[Entry], left: float, room: float):
        self.entries = [entry for entry in entries if entry[0]]
        self.left, self.room = left, room
        widest = max((text_width(plain(name), 9) for name, _ in self.entries), default=1.0)
        self.columns = int(min(MOST_COLUMNS, max(1, room / (widest + HANDLE))))

    @property
    def height(self) -> float:
        """Height in inches; 0 if there are no entries."""
        return ROW * ceil(len(self.entries) / self.columns)

    def draw(self, figure: Figure) -> None:
        """Draw the legend at the bottom of a figure, if it has entries."""
        if not self.entries:
            return
        width, height = figure.get_size_inches()
        handles = [handle for _, handle in self.entries]
        style = {"borderaxespad": 0, "borderpad": 0, "handlelength": 3, "ncols": self.columns}
        corner = (self.left / width, 0.08 / height)
        names = [""] * len(handles)
        legend = figure.legend(handles, names, bbox_to_anchor=corner, **LEGEND, **style)
        for text, (name, _) in zip(legend.get_texts(), self.entries, strict=True):
            # set here, because matplotlib omits lines whose label starts with an underscore
            text.set_text(shorten(plain(name), 9, self.room / self.columns - HANDLE))
