"""Result of a study of associations: tidy rows, and the metrics in them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from neuroscope.labels import counted, short_model, short_repr
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.tables import rows_to_frame
from neuroscope.studies.association.measures import VIEWS, EstablishedRow
from neuroscope.studies.association.words import WordPair
from neuroscope.studies.study import Shown

if TYPE_CHECKING:
    import pandas as pd

SIGNIFICANT = 0.05
"""Largest q-value of a contrast that is called more than chance."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "raw",
            "raw",
            "how much more alike the role is with the first group than with the second:"
            " difference of mean standardised cosines",
            digits=3,
        ),
        Metric("raw_low", "low", "lower end of its 95 % interval over templates", digits=3),
        Metric("raw_high", "high", "upper end of its 95 % interval", digits=3),
        Metric(
            "controlled",
            "controlled",
            "the raw contrast minus the mean of that of the control roles",
            digits=3,
        ),
        Metric("low", "low", "lower end of its 95 % interval over templates", digits=3),
        Metric("high", "high", "upper end of its 95 % interval", digits=3),
        Metric("p", "p", "p-value of the controlled contrast, by a sign-flip test over templates"),
        Metric("q", "q", "p-value corrected for everything tested (Benjamini-Hochberg)"),
        Metric(
            "effect",
            "d",
            "controlled contrast in standard deviations over templates (Cohen's d_z)",
            digits=2,
        ),
        Metric(
            "placebo",
            "placebo",
            "controlled contrast of control groups, of words without the groups' meaning",
            digits=3,
        ),
    )
}
"""Name -> metric of a contrast, in the order of the columns."""

SHARE = Metric(
    "share",
    "remains",
    "share of the raw contrast that is left in the controlled one; a dash where the raw contrast"
    " may be zero",
    axis="share that remains",
    digits=2,
)


@dataclass(frozen=True)
class AssociationRow:
    """Contrast of one role, or of all roles together, at a layer in a view."""

    layer: int
    view: str
    role: str
    group_a: str
    group_b: str
    raw: float
    raw_low: float
    raw_high: float
    controlled: float
    low: float
    high: float
    p: float
    q: float
    effect: float
    placebo: float
    n: int  # number of templates

    @property
    def significant(self) -> bool:
        """Whether the controlled contrast is more than chance; by its interval without q-values."""
        if np.isnan(self.q):
            return self.low > 0 or self.high < 0
        return self.q < SIGNIFICANT


@dataclass(frozen=True)
class PairRow(AssociationRow):
    """Contrast of two groups, as the mean over the roles that have it; `role` is empty."""

    roles: int = 0  # number of roles
    share: float = np.nan
    share_low: float = np.nan
    share_high: float = np.nan


@dataclass(frozen=True)
class NeuronRow:
    """Neuron that contributes to the controlled contrast of the words at a layer."""

    layer: int
    neuron: int
    role: str
    group_a: str
    group_b: str
    contribution: float  # those of all neurons of the layer add up to the contrast
    p: float
    q: float


@dataclass(frozen=True)
class PredictionRow:
    """Contrast of the log probabilities of two groups' words, in nats, in a masked model."""

    role: str
    group_a: str
    group_b: str
    raw: float
    raw_low: float
    raw_high: float
    controlled: float
    low: float
    high: float
    p: float
    q: float
    effect: float
    n: int  # number of statements


@dataclass(frozen=True)
class WordRow:
    """Word of the study as one model reads it."""

    word: str
    use: str  # `role`, `control role`, `group: <name>` or `control word`
    tokens: str
    token_count: int
    rank: int  # largest token id; most vocabularies begin with the most frequent tokens
    controls: str  # control roles of a role; control word of a word of a group


@dataclass(frozen=True)
class AssociationResult(Shown):
    """Result of a study of associations in one model.

    >>> ns.associate(model, "experiments/occupations_gender.yaml").to_frame()
    """

    kind: ClassVar[str] = "association"

    model: str
    component: str
    rows: tuple[AssociationRow, ...]
    pairs: tuple[PairRow, ...]
    neurons: tuple[NeuronRow, ...]
    established: tuple[EstablishedRow, ...]
    predictions: tuple[PredictionRow, ...]
    words: tuple[WordRow, ...]
    word_pairs: tuple[WordPair, ...]
    templates: int
    headline: str
    notes: tuple[str, ...] = ()
    run_id: str | None = None

    def __repr__(self) -> str:
        counts = f"{counted(len(self.layers), 'layer')}, {counted(self.templates, 'template')}"
        source = f"{short_model(self.model)}, {self.component}"
        return short_repr(self, f"{source}, {counts}: {self.headline}")

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that were measured, in order."""
        return tuple(sorted({row.layer for row in self.rows}))

    @property
    def group_pairs(self) -> list[tuple[str, str]]:
        """Pairs of groups that are compared, in order."""
        return list(dict.fromkeys((row.group_a, row.group_b) for row in self.pairs))

    def roles_of(self, pair: tuple[str, str]) -> list[str]:
        """Return the roles that have a contrast of two groups, in order."""
        rows = (row for row in self.rows if (row.group_a, row.group_b) == pair)
        return list(dict.fromkeys(row.role for row in rows))

    def by_layer(self, pair: tuple[str, str], view: str = "span", role: str = "") -> list[Any]:
        """Return the rows of two groups in a view by layer: of all roles together, or of one."""
        rows: Sequence[AssociationRow] = self.rows if role else self.pairs
        return [
            row
            for row in rows
            if (row.group_a, row.group_b, row.view, row.role) == (*pair, view, role)
        ]

    def values(
        self, name: str, pair: tuple[str, str], view: str = "span", role: str = ""
    ) -> NDArray[np.float64]:
        """Return a column of `by_layer`, (layers,); NaN at a layer without a value."""
        rows = {row.layer: getattr(row, name) for row in self.by_layer(pair, view, role)}
        return np.array([rows.get(layer, np.nan) for layer in self.layers], dtype=np.float64)

    @property
    def leading_pair(self) -> tuple[str, str]:
        """Pair of groups with the largest raw contrast of the words, mean over layers."""
        sizes = {pair: np.abs(self.values("raw", pair)).mean() for pair in self.group_pairs}
        return max(self.group_pairs, key=lambda pair: float(sizes[pair]))

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per layer, view, role and pair of groups."""
        return rows_to_frame(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values: an entry of `runs` in the JSON document."""
        lists = (
            *("rows", "pairs", "neurons", "established", "predictions"),
            *("words", "word_pairs"),
        )
        return {
            "run_id": self.run_id,
            "model": self.model,
            "site": self.component,
            "views": list(VIEWS),
            "templates": self.templates,
            "headline": self.headline,
            "notes": list(self.notes),
        } | {name: [asdict(row) for row in getattr(self, name)] for name in lists}


def contrast_label(row: AssociationRow | PredictionRow) -> str:
    """Return the short name of a contrast, such as "nurse: men - women"."""
    pair = f"{row.group_a} \N{MINUS SIGN} {row.group_b}"
    return f"{row.role}: {pair}" if row.role else pair
