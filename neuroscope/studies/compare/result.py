"""Result of a comparison: tidy rows, and the metrics in them."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from neuroscope.align import VIEWS
from neuroscope.labels import counted, pair_labels, short_model, short_repr
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.tables import rows_to_frame
from neuroscope.studies.compare.headline import headline
from neuroscope.studies.study import Shown

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
            "standardised cosine",
            "cosine similarity of standardised activations",
            "high",
        ),
        Metric("spearman", "Spearman", "rank correlation of standardised activations", "high"),
        Metric(
            "rms_z",
            "standardised difference",
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

LEADING = "cosine_z"
"""Metric that is shown first: a raw cosine can be determined by one to three neurons."""
MOST_PAIRS = 12
"""Number of pairs up to which each is shown; of more, the extremes and a matrix are shown."""

VIEW_NAMES = {"span": "replaced words", "context": "shared words", "aligned": "all tokens"}
"""View -> its name in words, in the order in which views are shown."""

VIEW_MEANINGS = {
    "span": "the words in which the prompts differ",
    "context": "the replaced words enter through attention alone",
    "aligned": "shared tokens match themselves, which pulls it towards 1",
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
    id_a: str = ""  # ids in the table of prompts
    id_b: str = ""


@dataclass(frozen=True)
class Comparison(Shown):
    """Result of a comparison of prompts in one model: a row per layer, pair and view.

    >>> ns.compare(model, ["The cat is on the mat", "The dog is on the mat"]).to_frame()
    """

    kind: ClassVar[str] = "compare"

    model: str
    component: str
    rows: tuple[ComparisonRow, ...]
    pairs: tuple[PairTokens, ...]
    focus: tuple[int, ...]  # layers shown first and drawn neuron by neuron
    notes: tuple[str, ...] = ()  # sentences on what limits the meaning of the values
    run_id: str | None = None  # id of the MLflow run; None if not recorded

    def __repr__(self) -> str:
        counts = f"{counted(len(self.layers), 'layer')}, {counted(len(self.pairs), 'pair')}"
        source = f"{short_model(self.model)}, {self.component}"
        return short_repr(self, f"{source}, {counts}: {self.headline}")

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that were compared, in order."""
        return tuple(sorted({row.layer for row in self.rows}))

    @property
    def text_pairs(self) -> list[tuple[str, str]]:
        """Pairs of prompts as texts, in order."""
        return [(pair.a, pair.b) for pair in self.pairs]

    @property
    def prompts(self) -> list[str]:
        """Prompts that are compared, in order."""
        return list(dict.fromkeys(prompt for pair in self.text_pairs for prompt in pair))

    @cached_property
    def labels(self) -> list[str]:
        """Short, distinct name of each pair, in order; of many pairs, with the prompts' ids."""
        ids = [(pair.id_a, pair.id_b) for pair in self.pairs if pair.id_a and pair.id_b]
        known = ids if len(ids) == len(self.pairs) else []
        many = len(self.pairs) > MOST_PAIRS
        return list(pair_labels(self.text_pairs, known, with_ids=many).values())

    @property
    def pair_labels(self) -> dict[tuple[str, str], str]:
        """Texts of each pair -> its label."""
        return dict(zip(self.text_pairs, self.labels, strict=True))

    @property
    def headline(self) -> str:
        """Sentence on the pairs and layers that are most and least alike."""
        view = self.leading_view
        values = None if view is None else self.values(LEADING, view)
        return headline(self.labels, self.layers, view or "", values)

    @property
    def leading_view(self) -> str | None:
        """View whose extremes are shown: replaced words, or all tokens if none has a value."""
        values = {view: self.values(LEADING, view) for view in ("span", "aligned")}
        return next((view for view in values if np.isfinite(values[view]).any()), None)

    def values(self, metric: str, view: str) -> NDArray[np.float64]:
        """Return the values of a metric in a view, (pairs, layers); NaN if there is none."""
        pairs = {pair: index for index, pair in enumerate(self.text_pairs)}
        columns = {layer: index for index, layer in enumerate(self.layers)}
        values = np.full((len(pairs), len(columns)), np.nan)
        for row in self.rows:
            if row.view == view:
                values[pairs[row.a, row.b], columns[row.layer]] = getattr(row, metric)
        return values

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
            "headline": self.headline,
            "notes": list(self.notes),
            "rows": [asdict(row) for row in self.rows],
            "pairs": [asdict(pair) for pair in self.pairs],
        }


def mean_over_pairs(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of (pairs, layers) values over the pairs, (layers,); NaN if there is none.

    Pairs without a value, whose view contains no word, are left out.
    """
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = np.where(known, values, 0).sum(axis=0) / known.sum(axis=0)
    return means
