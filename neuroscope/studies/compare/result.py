"""Result of a comparison: tidy rows, and the metrics in them."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from neuroscope.align import VIEWS
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.tables import rows_to_frame

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "cosine",
            "cosine",
            "cosine similarity of the raw activations",
            "high",
            "cosine similarity",
        ),
        Metric(
            "mse",
            "MSE",
            "mean squared difference of the raw activations",
            "low",
            "mean squared error",
        ),
        Metric(
            "cosine_z",
            "cos z",
            "cosine similarity of standardised activations",
            "high",
            "standardised cosine similarity",
        ),
        Metric("spearman", "Spearman", "rank correlation of standardised activations", "high"),
        Metric(
            "rms_z",
            "RMS z",
            "root mean square difference of standardised activations, in baseline standard"
            " deviations",
            "low",
        ),
        Metric(
            "top3_share",
            "top 3",
            "combined share in the raw cosine of the three neurons that contribute most",
        ),
    )
}
"""Name -> metric, in the order of the columns."""

VIEW_MEANINGS = {
    "aligned": "all tokens, special ones included; the replaced words are pooled to one position",
    "span": "the replaced words only",
    "context": "the shared words only: the replaced word can enter through attention alone",
}
"""View -> its meaning."""


@dataclass(frozen=True)
class ComparisonRow:
    """Metrics of a pair of prompts at a layer in a view; NaN if the view has no position."""

    layer: int
    a: str
    b: str
    view: str
    cosine: float
    mse: float
    cosine_z: float
    spearman: float
    rms_z: float
    top3_share: float
    positions: int  # number of positions in the view


@dataclass(frozen=True)
class PairTokens:
    """Numbers of tokens of two prompts, and the share in common, without special tokens."""

    a: str
    b: str
    tokens_a: int
    tokens_b: int
    jaccard: float  # Jaccard index of the sets of tokens


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison of prompts in one model: a row per layer, pair and view.

    >>> ns.compare(model, ["The engineer is a man.", "The engineer is a woman."]).to_frame()
    """

    model: str
    component: str
    rows: tuple[ComparisonRow, ...]
    pairs: tuple[PairTokens, ...]
    focus: tuple[int, ...]  # layers shown first and drawn neuron by neuron
    notes: tuple[str, ...] = ()  # sentences on what limits the meaning of the values
    run_id: str | None = None  # id of the MLflow run; None if not recorded

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that were compared, in order."""
        return tuple(sorted({row.layer for row in self.rows}))

    @property
    def text_pairs(self) -> list[tuple[str, str]]:
        """Pairs of prompts as texts, in order."""
        return [(pair.a, pair.b) for pair in self.pairs]

    def by_pair(self, layer: int) -> list[dict[str, ComparisonRow]]:
        """Return a mapping view -> row for each pair, at one layer."""
        pairs: dict[tuple[str, str], dict[str, ComparisonRow]] = {}
        for row in self.rows:
            if row.layer == layer:
                pairs.setdefault((row.a, row.b), {})[row.view] = row
        return list(pairs.values())

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per layer, pair and view."""
        return rows_to_frame(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values: an entry of `runs` in the JSON document."""
        return {
            "run_id": self.run_id,
            "model": self.model,
            "site": self.component,
            "views": list(VIEWS),
            "notes": list(self.notes),
            "rows": [asdict(row) for row in self.rows],
            "pairs": [asdict(pair) for pair in self.pairs],
        }
