"""Figure of patching: how much of a change returns when a layer gets its old activations."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.plots.curves import plot_curves
from neuroscope.reporting.plots.panels import Curve, Panel, Values, panel_lines
from neuroscope.reporting.plots.text import Doubles, format_numbers

REFERENCES = {"nothing returns": 0.0, "everything returns": 1.0}


def plot_patching(
    layers: Sequence[int],
    shares: Values,
    band: tuple[Values, Values] | None = None,
    *,
    metric: Metric,
    title: str,
    notes: Sequence[str] = (),
    before: float = 0.0,
) -> Figure:
    """Draw the share of a change in behaviour that returns when a layer's activations are patched.

    The step to the layer at which the share rises most is marked and named in the legend. Layers
    without a value are passed over.

    Args:
        layers: numbers of the patched layers, increasing.
        shares: shares of the change, one per layer: 0 if nothing returns, 1 if everything does.
        band: lower and upper end of the error bar of each share.
        metric: metric of the shares; its label is written beside the y axis.
        title: heading of the figure.
        notes: lines below the title.
        before: share before the first layer, from which its step is counted.

    Raises:
        ValueError: if the shares or error bars cannot be drawn (see `panel_lines`).
    """
    curve = Curve(layers, shares, band, bars=True)
    line = panel_lines(Panel(metric, {"": curve}), "layer")[""]
    marks = _largest_jump(line.x, line.y, before)
    panel = Panel(metric, {metric.heading: curve, **marks}, references=REFERENCES)
    return plot_curves([[panel]], title=title, notes=notes)


def _largest_jump(layers: Doubles, shares: Doubles, before: float) -> dict[str, Curve]:
    """Return the largest rise from one layer to the next by its name; nothing if none rises."""
    known = ~np.isnan(shares)
    x, y = layers[known].astype(int), shares[known]
    jumps = np.diff(y, prepend=before)
    if not (jumps > 0).any():
        return {}
    last = int(jumps.argmax())
    step = slice(max(last - 1, 0), last + 1)
    size = format_numbers([jumps[last]], "+.2f")[0]
    return {f"largest jump: {size} at layer {x[last]}": Curve(x[step].tolist(), y[step])}
