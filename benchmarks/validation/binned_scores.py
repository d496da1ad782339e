"""Scores from the histograms of an atlas, compared with those of the values themselves."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.tables import table
from benchmarks.validation.outcome import Outcome, figure, met
from neuroscope.extraction.counting import bins_of, counts_of
from neuroscope.stats.histograms import BINS, auroc, average_precision, edges_of

PROMPTS, PILOT, NEURONS = 20_000, 2048, 30
SHARES, SHIFTS = (0.01, 0.05, 0.2), (0.0, 1.0, 2.0)
"""Shares of a topic, and standard deviations by which neurons are more active on it."""


@dataclass(frozen=True)
class Scored:
    """Largest errors over the neurons of one kind."""

    share: float
    shift: float
    errors: tuple[float, float]
    """Of the AUROC and of the average precision."""
    bounds: tuple[float, float]
    """Largest bounds that the atlas gives."""
    within: bool
    """Whether every error is within its own bound."""


def measure() -> Outcome:
    """Return the errors for topics of several shares and neurons of several strengths."""
    rows = [_scored(share, shift) for share in SHARES for shift in SHIFTS]
    return outcome(rows)


def _scored(share: float, shift: float) -> Scored:
    rng = np.random.default_rng(0)
    member = rng.random(PROMPTS) < share
    values = rng.standard_normal((PROMPTS, NEURONS), dtype=np.float32)
    values[member] += shift
    values[:, NEURONS // 2 :] = np.maximum(values[:, NEURONS // 2 :], 0)  # as after a ReLU
    bins = bins_of(values, np.ascontiguousarray(edges_of(values[:PILOT])))
    inside, outside = counts_of(bins, np.column_stack([member, ~member]), BINS).astype(np.int64)
    pairs = (auroc(inside, outside), average_precision(inside, outside))
    exact = list(_exact(values, member))
    errors = [
        np.abs(scores - truth) for (scores, _), truth in zip(pairs, np.array(exact).T, strict=True)
    ]
    within = all(
        bool((error <= bound + 1e-12).all())
        for error, (_, bound) in zip(errors, pairs, strict=True)
    )
    return Scored(
        share,
        shift,
        (float(errors[0].max()), float(errors[1].max())),
        (float(pairs[0][1].max()), float(pairs[1][1].max())),
        within,
    )


def _exact(values: NDArray[np.float32], member: NDArray[np.bool_]) -> Iterator[tuple[float, float]]:
    """Yield AUROC and average precision of each neuron as scikit-learn computes them."""
    for column in values.T:
        yield roc_auc_score(member, column), average_precision_score(member, column)


def outcome(rows: list[Scored]) -> Outcome:
    """Return the table, and whether every error is within its bound."""
    header = (
        *("share of the topic", "shift, sd", "largest error of AUROC", "bound"),
        *("largest error of average precision", "bound"),
    )
    cells = [
        [
            *(str(row.share), str(row.shift), figure(row.errors[0]), figure(row.bounds[0])),
            *(figure(row.errors[1]), figure(row.bounds[1])),
        ]
        for row in rows
    ]
    sentence = "every error is within the bound of its own neuron"
    holds = all(row.within for row in rows)
    text = f"{PROMPTS:,} prompts, {NEURONS} neurons per row, half of them with a ReLU."
    return Outcome(
        "\n\n".join([table(header, cells, names=0), met(sentence, holds), text]),
        () if holds else (sentence,),
    )
