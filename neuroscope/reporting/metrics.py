"""The declaration of a metric, which tables, reports and figures share."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A quantity that a study computes, and how to name it.

    >>> Metric("mse", "mean squared error", "mean of the squared differences", "low").better
    'low'
    """

    name: str  # column in tables and JSON, e.g. "cosine_z"
    heading: str  # short, for table heads, e.g. "standardised cosine"
    meaning: str  # one phrase
    better: Literal["high", "low"] | None = None  # which end means "more alike"; None where neither
