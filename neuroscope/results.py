"""What a study found, as values: tidy rows that become a table."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    "cosine": "cosine similarity of the activations as they are",
    "mse": "mean squared error of the activations as they are",
    "cosine_z": "cosine similarity of standardised activations",
    "spearman": "rank correlation of standardised activations",
    "rms_z": "root mean square difference, in reference standard deviations",
    "top3_share": "share of the three largest contributions in the cosine",
}
"""Metric -> what it measures."""


@dataclass(frozen=True)
class ComparisonRow:
    """One pair of prompts at one layer in one view; NaN where the view holds no position."""

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
    positions: int  # of the view; 0 where it holds none


@dataclass(frozen=True)
class PairTokens:
    """How much two prompts share on the surface, special tokens left out."""

    a: str
    b: str
    tokens_a: int
    tokens_b: int
    jaccard: float  # of the sets of tokens


@dataclass(frozen=True)
class Comparison:
    """A comparison of prompts in one model: rows for each layer, pair and view.

    >>> ns.compare(model, ["The engineer is a man.", "The engineer is a woman."]).to_frame()
    """

    model: str
    site: str
    rows: tuple[ComparisonRow, ...]
    pairs: tuple[PairTokens, ...]
    notes: tuple[str, ...] = ()  # what makes the values mean less than they seem to
    run_id: str | None = None  # in MLflow, where it was recorded

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted({row.layer for row in self.rows}))

    def to_frame(self) -> "pd.DataFrame":
        """One line for each layer, pair and view."""
        return rows_to_frame(self.rows)


def rows_to_frame(rows: Sequence[Any]) -> "pd.DataFrame":
    """A table of dataclass values of one kind, with one column a field."""
    import pandas as pd

    columns = [field.name for field in fields(rows[0])] if rows else None
    return pd.DataFrame([asdict(row) for row in rows], columns=columns)


def model_label(name: str) -> str:
    """A model's name for people: of a folder the last part of its path.

    >>> model_label("/models/news-v2"), model_label("someone/tiny")
    ('news-v2', 'someone/tiny')
    """
    is_path = name.startswith(("/", ".", "~"))
    return Path(name).expanduser().resolve().name if is_path else name


def pair_labels(pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """A short, distinct name for each pair of prompts: the words in which they differ.

    >>> pair_labels([("The cat is on the mat", "The dog is on the mat")])
    {('The cat is on the mat', 'The dog is on the mat'): 'cat vs dog'}
    """
    labels: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for a, b in pairs:
        words = " vs ".join(_differing(a, b))
        numbered = (f"{words} #{number}" for number in itertools.count(2))
        labels[a, b] = next(one for one in itertools.chain([words], numbered) if one not in taken)
        taken.add(labels[a, b])
    return labels


def _differing(a: str, b: str, longest: int = 30) -> tuple[str, str]:
    words_a, words_b = a.split(), b.split()
    shortest = min(len(words_a), len(words_b))
    start = next((i for i in range(shortest) if words_a[i] != words_b[i]), shortest)
    room = shortest - start
    end = next((i for i in range(room) if words_a[-1 - i] != words_b[-1 - i]), room)
    spans = [" ".join(words[start : len(words) - end]) for words in (words_a, words_b)]
    shown = [(span.strip(".,;:!?") or span or "(nothing)") for span in spans]
    if shown[0] == shown[1]:
        shown = [span or "(nothing)" for span in spans]
    first, second = (one if len(one) <= longest else one[: longest - 1] + "…" for one in shown)
    return first, second
