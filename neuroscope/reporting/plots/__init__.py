"""Figures of neurons, layers and matrices, for the reports of all studies.

Every function takes numbers and plain strings and returns a matplotlib `Figure`; none uses pyplot,
so figures can be drawn in any thread. Strings may be anything a user types: text that does not fit
is shortened, and letters that the font lacks become □.
"""

from neuroscope.reporting.plots.curves import plot_curves
from neuroscope.reporting.plots.history import VersionCheck, plot_history
from neuroscope.reporting.plots.intervals import plot_intervals
from neuroscope.reporting.plots.layout import save_png
from neuroscope.reporting.plots.matrix import plot_matrix
from neuroscope.reporting.plots.neurons import grid_shape, plot_activations, plot_difference
from neuroscope.reporting.plots.panels import Band, Curve, Panel
from neuroscope.reporting.plots.patching import plot_patching
from neuroscope.reporting.plots.scatter import NeuronPair, plot_neuron_pairs

__all__ = [
    "Band",
    "Curve",
    "NeuronPair",
    "Panel",
    "VersionCheck",
    "grid_shape",
    "plot_activations",
    "plot_curves",
    "plot_difference",
    "plot_history",
    "plot_intervals",
    "plot_matrix",
    "plot_neuron_pairs",
    "plot_patching",
    "save_png",
]
