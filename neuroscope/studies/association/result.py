"""Result of a study of associations: tidy rows, and the metrics in them."""

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
            "how much more similar the role is to the first group than to the second: difference of"
            " mean standardised cosines",
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
        Metric("q", "q", "p-value corrected over all contrasts of the model (Benjamini-Hochberg)"),
        Metric(
            "effect",
            "d",
            "controlled contrast in standard deviations over templates (Cohen's d_z)",
            digits=2,
        ),
        Metric(
            "words_low",
            "words low",
            "lower end of the range of 95 % of the controlled contrasts of random groups of words",
            digits=3,
        ),
        Metric("words_high", "words high", "upper end of that range", digits=3),
        Metric(
            "p_words",
            "p words",
            "share of random groups of words whose controlled contrast is as large, of either sign",
        ),
        Metric("q_words", "q words", "that share corrected over all contrasts of the model"),
    )
}
"""Name -> metric of the contrast of one role, in the order of the columns."""

SHARE = Metric(
    "share",
    "remains",
    "share of the raw contrast that is left in the controlled one; a dash where the raw contrast"
    " may be zero",
    axis="share that remains",
    digits=2,
)
"""Metric of two groups over all roles."""


@dataclass(frozen=True)
class AssociationRow:
    """Contrast of one role with two groups, at a layer in a view."""

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
    words_low: float
    words_high: float
    p_words: float
    q_words: float
    n: int  # number of templates

    @property
    def certain(self) -> bool:
        """Whether other templates would show it, too; never without a q-value."""
        return self.q < SIGNIFICANT

    @property
    def significant(self) -> bool:
        """Whether it is certain, and larger than what control words show, if there are any."""
        return self.certain and not self.q_words >= SIGNIFICANT


@dataclass(frozen=True)
class PairRow:
    """Two groups over all roles that have a contrast of them, at a layer in a view."""

    layer: int
    view: str
    group_a: str
    group_b: str
    roles: int  # number of roles
    raw: float  # root mean square over roles of the raw contrasts
    controlled: float  # root mean square over roles of the controlled contrasts
    share: float
    share_low: float
    share_high: float
    p_words: float  # share of random groups of words whose root mean square is as large
    q_words: float  # that share corrected over all pairs of groups, layers and views
    n: int  # number of templates


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
    controls: str  # control roles of a role


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
    def contrasts(self) -> list[tuple[str, str, str]]:
        """Role and two groups of each contrast, in order."""
        return list(dict.fromkeys((row.role, row.group_a, row.group_b) for row in self.rows))

    def largest(self, most: int) -> list[tuple[str, str, str]]:
        """Return up to `most` contrasts of the words, largest at any layer after control first."""
        sizes = {
            key: float(np.nanmax(np.abs(self.values("controlled", key)))) for key in self.contrasts
        }
        return sorted(sizes, key=lambda key: -sizes[key])[:most]

    def largest_pairs(self, most: int) -> list[tuple[str, str]]:
        """Return up to `most` pairs of groups, largest at any layer after control first."""
        sizes: dict[tuple[str, str], float] = {}
        for row in self.pairs:
            pair = row.group_a, row.group_b
            sizes[pair] = max(sizes.get(pair, 0.0), row.controlled)
        return sorted(sizes, key=lambda pair: -sizes[pair])[:most]

    def values(
        self, name: str, contrast: tuple[str, str, str], view: str = "span"
    ) -> NDArray[np.float64]:
        """Return a column of the rows of one contrast, (layers,); NaN where there is no value."""
        values = {
            row.layer: getattr(row, name)
            for row in self.rows
            if (row.role, row.group_a, row.group_b, row.view) == (*contrast, view)
        }
        return np.array([values.get(layer, np.nan) for layer in self.layers], dtype=np.float64)

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


def pair_label(a: str, b: str) -> str:
    """Return the short name of two groups, such as "men - women"."""
    return f"{a} \N{MINUS SIGN} {b}"


def contrast_label(role: str, a: str, b: str) -> str:
    """Return the short name of a contrast, such as "nurse: men - women"."""
    return f"{role}: {pair_label(a, b)}"
