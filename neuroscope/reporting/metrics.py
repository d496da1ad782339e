"""Declaration of metrics, which tables, reports and figures share."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """Quantity that a study computes, with its names and its presentation.

    >>> Metric("mse", "mean squared error", "mean of the squared differences", "low").better
    'low'
    """

    name: str
    """Name of the column in tables and JSON, such as `cosine_z`."""
    heading: str
    """Short name for the headings of tables, such as "cos z"."""
    meaning: str
    """Phrase that explains the metric, for reports and the documentation."""
    better: Literal["high", "low"] | None = None
    """End of the scale that is better, such as more alike; None if neither is."""
    axis: str = ""
    """Longer name for the axes of figures; empty to use the heading."""
    digits: int = 4
    """Number of decimals in tables."""

    @property
    def axis_label(self) -> str:
        """Label of an axis."""
        return self.axis or self.heading
