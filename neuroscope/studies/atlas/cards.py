"""Cards of neurons: what a reader sees of a neuron, in reports and on the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.storage.atlas_file import Atlas
from neuroscope.storage.atlas_queries import NeuronCard
from neuroscope.storage.atlas_schema import COVARIATES
from neuroscope.studies.atlas.result import AtlasResult
from neuroscope.studies.atlas.tables import (
    AREA,
    ONE_VS_ONE,
    PARTIAL,
    PRECISION,
    RIVAL,
    TOPIC,
    VERDICT,
    D,
    Q,
    plain_records,
    plain_value,
    records,
    verdict,
)

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 5  # examples of each kind
_BARS = 40  # of a histogram
_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Card:
    """Card of one neuron: tables and sentences."""

    name: str
    summary: str
    """Sentence on the distribution of its values."""
    histogram: str
    """Bars of the prompts by value, from the lowest to the highest."""
    topics: Table
    examples: Table
    words: Mapping[str, str]
    """Title -> list of words, such as the tokens that the neuron promotes."""
    best_for: str = ""
    """Topics of which it is the best neuron."""


def strongest_cards(atlas: Atlas, result: AtlasResult) -> list[Card]:
    """Return the card of the best neuron of each topic that is separable, without repetition."""
    best: dict[str, list[str]] = {}  # neuron -> topics
    for row in result.topics:
        if not row.reason:
            best.setdefault(row.best_neuron, []).append(row.topic)
    topics = atlas.topics()
    return [
        replace(card_of(atlas.neuron(name), topics=topics), best_for=", ".join(own))
        for name, own in best.items()
    ]


def card_of(
    card: NeuronCard, examples: int = _SHOWN, *, topics: "pd.DataFrame | None" = None
) -> Card:
    """Return what a reader sees of a neuron.

    Args:
        card: what an atlas holds on the neuron.
        examples: number of prompts of each kind.
        topics: `Atlas.topics()`; if given, the table has a column with the best covariate.
    """
    neuron = card.neuron
    words = {
        "promotes": _tokens(neuron["promotes"]),
        "suppresses": _tokens(neuron["suppresses"]),
        "neighbours": ", ".join(
            f"{row['neuron']} ({row['cosine']:.2f})" for row in records(card.neighbours)
        ),
    }
    return Card(
        neuron["name"],
        _summary(neuron),
        histogram_text(neuron["edges"], neuron["counts"]),
        topic_table(neuron["name"], card, topics),
        example_table(card, examples),
        {name: text for name, text in words.items() if text},
    )


def _summary(neuron: Mapping[str, Any]) -> str:
    """Return a sentence on the values of a neuron."""
    text = (
        "Mean {mean:.3g}, sd {sd:.3g}, from {low:.3g} to {high:.3g};"
        " positive at {active:.0%} of the prompts"
    )
    if plain_value(neuron["eta_squared"]) is not None:
        text += "; the topics account for {eta_squared:.0%} of its variance"
    return f"{text.format_map(neuron)}."


def _tokens(tokens: Sequence[Mapping[str, Any]] | None) -> str:
    return ", ".join(str(token["token"]) for token in tokens or ())


def histogram_text(edges: Sequence[float], counts: Sequence[int]) -> str:
    """Return a histogram with bars of equal width as one line of text.

    The bins of an atlas hold about equal numbers of prompts, and are wide where values are rare;
    each bin's prompts are spread evenly over its width.

    >>> histogram_text([0.0, 1.0, 2.0, 4.0], [10, 5, 1])
    '0 ██████████▄▄▄▄▄▄▄▄▄▄▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁ 4'
    """
    low, high = edges[0], edges[-1]
    ends = np.linspace(low, high, _BARS + 1)
    below = np.interp(ends, *_strictly(edges, np.concatenate([[0], np.cumsum(counts)])))
    shares = np.diff(below) / max(np.diff(below).max(), 1e-9)
    levels = np.ceil(shares * (len(_BLOCKS) - 1) - 1e-9).astype(int)
    return f"{low:.3g} {''.join(_BLOCKS[level] for level in levels)} {high:.3g}"


def _strictly(
    edges: Sequence[float], below: "NDArray[np.float64]"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return edges without repetition, and the number of prompts up to each."""
    values, last = np.unique(np.asarray(edges, dtype=np.float64)[::-1], return_index=True)
    return values, below[::-1][last]


def topic_table(name: str, card: NeuronCard, topics: "pd.DataFrame | None" = None) -> Table:
    """Return the statistics of a neuron by topic, with the AUROC of the best covariate."""
    reached = {} if topics is None else _reached(topics)
    best = Column("covariate", meaning="AUROC of the best covariate", digits=3)
    columns = [TOPIC, AREA, PARTIAL, PRECISION, ONE_VS_ONE, RIVAL, D, Q]
    columns += [best, VERDICT] if reached else [VERDICT]
    rows: list[list[Any]] = [
        [
            *(row["topic"], row["auroc_heldout"], row["partial_auroc"], row["ap_heldout"]),
            *(row["one_vs_one"], row["rival"], row["d"], row["q"]),
            *([reached[row["topic"]]] if reached else []),
            verdict(row),
        ]
        for row in plain_records(card.topics)
    ]
    return Table(name, columns, [Section("", rows)])


def _reached(topics: "pd.DataFrame") -> dict[str, float]:
    """Return the AUROC of the best covariate, by topic."""
    areas = topics.set_index("name")[list(COVARIATES)].astype(float)
    return {str(topic): area for topic, area in ((areas - 0.5).abs().max(axis=1) + 0.5).items()}


def card_document(card: NeuronCard, topics: "pd.DataFrame") -> dict[str, Any]:
    """Return everything that an atlas holds on a neuron as plain values.

    Args:
        card: what an atlas holds on the neuron.
        topics: `Atlas.topics()`; each topic gets `covariate_auroc`, that of its best covariate.
    """
    reached = _reached(topics)
    return {
        **{name: plain_value(value) for name, value in card.neuron.items()},
        "topics": [
            {**row, "covariate_auroc": plain_value(reached[row["topic"]])}
            for row in plain_records(card.topics)
        ],
        "examples": plain_records(card.examples),
        "neighbours": plain_records(card.neighbours),
    }


def example_table(card: NeuronCard, count: int = _SHOWN) -> Table:
    """Return example prompts of a neuron, with the token at which it peaks."""
    columns = [Column("value", digits=3), Column("prompt, with [the token] where it peaks")]
    sections = []
    for kind in ("strongest", "random", "weakest"):
        rows: list[list[Any]] = [
            [row["value"], row["excerpt"]]
            for row in records(card.examples[card.examples["kind"] == kind].head(count))
        ]
        sections.append(Section(kind, rows))
    return Table("", columns, sections)
