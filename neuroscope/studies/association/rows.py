"""Rows of a result: the contrasts of all layers, tested and corrected together."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neuroscope.stats.contrasts import (
    contrast_statistics,
    corrected,
    surviving_share,
)
from neuroscope.stats.moments import Doubles
from neuroscope.studies.association.experiment import AssociationExperiment
from neuroscope.studies.association.headline import headline
from neuroscope.studies.association.measures import VIEWS, SiteContrasts
from neuroscope.studies.association.predictions import Predictions, prediction_rows
from neuroscope.studies.association.result import (
    AssociationResult,
    AssociationRow,
    NeuronRow,
    PairRow,
    WordRow,
)
from neuroscope.studies.association.words import Lexicon

_ROUNDING = 1e-12  # the same groups, drawn again, are as large
MOST_NEURONS = 10
"""Number of neurons that are listed per contrast and layer."""


def association_result(
    experiment: AssociationExperiment,
    model: str,
    lexicon: Lexicon,
    sites: Sequence[SiteContrasts],
    predictions: Predictions,
    notes: Sequence[str] = (),
) -> AssociationResult:
    """Test the contrasts of all sites of a model, and return its result.

    Args:
        experiment: experiment of kind `association`.
        model: name of the model.
        lexicon: words of the experiment in this model.
        sites: contrasts at each site.
        predictions: what the model predicts.
        notes: sentences on what limits the meaning of the values, beside those of the words.
    """
    block = Block.of(experiment, sites)
    predicted, left_out = prediction_rows(experiment, lexicon, predictions)
    rows, pairs = contrast_rows(block, experiment.seed), pair_rows(block, experiment.seed)
    return AssociationResult(
        model=model,
        component=experiment.component,
        rows=tuple(rows),
        pairs=tuple(pairs),
        neurons=tuple(neuron_rows(experiment, sites)),
        established=tuple(row for site in sites for row in site.established),
        predictions=tuple(predicted),
        words=tuple(word_rows(experiment, lexicon)),
        word_pairs=tuple(lexicon.pairs(experiment)),
        templates=len(experiment.templates),
        headline=headline(rows, pairs),
        notes=(*notes, *lexicon.notes, *left_out),
    )


@dataclass(frozen=True, eq=False)
class Block:
    """Contrasts of all layers and views; the columns are ordered by layer, view and contrast."""

    raw: Doubles
    """(templates, columns)."""
    controlled: Doubles
    """(templates, columns)."""
    drawn: Doubles
    """(draws, columns) controlled contrasts of random groups of words."""
    keys: Sequence[tuple[int, str, str, str, str]]
    """Layer, view, role and two groups of each column."""

    @classmethod
    def of(cls, experiment: AssociationExperiment, sites: Sequence[SiteContrasts]) -> "Block":
        """Return the contrasts of sites, without those that no template has a value of."""
        parts = [(site, view) for site in sites for view in VIEWS]
        keys = [(site.layer, view, *key) for site, view in parts for key in experiment.contrasts]
        views = [site.views[view] for site, view in parts]
        raw, controlled = (
            np.concatenate([getattr(view, name) for view in views], axis=1)
            for name in ("raw", "controlled")
        )
        draws = max(len(view.drawn) for view in views)
        drawn = np.concatenate(
            [
                view.drawn if len(view.drawn) else np.full((draws, view.raw.shape[1]), np.nan)
                for view in views
            ],
            axis=1,
        )
        kept = np.flatnonzero(~np.isnan(raw).all(axis=0))
        return cls(
            raw[:, kept], controlled[:, kept], drawn[:, kept], [keys[column] for column in kept]
        )

    def by_pair(self) -> dict[tuple[int, str, str, str], list[int]]:
        """Return the columns of each layer, view and pair of groups."""
        columns: dict[tuple[int, str, str, str], list[int]] = {}
        for column, (layer, view, _, a, b) in enumerate(self.keys):
            columns.setdefault((layer, view, a, b), []).append(column)
        return columns


def contrast_rows(block: Block, seed: int) -> list[AssociationRow]:
    """Return a row per column of a block; q-values are corrected over all of them."""
    raw = contrast_statistics(block.raw, seed=seed, p=False)
    tested = contrast_statistics(block.controlled, seed=seed)
    low, high = np.full((2, len(block.keys)), np.nan)
    if len(block.drawn):
        low, high = np.quantile(block.drawn, [0.025, 0.975], axis=0)
    p_words = as_large(np.abs(block.drawn), np.abs(tested.mean))
    columns: dict[str, Any] = {
        "raw": raw.mean,
        "raw_low": raw.low,
        "raw_high": raw.high,
        "controlled": tested.mean,
        "low": tested.low,
        "high": tested.high,
        "p": tested.p,
        "q": corrected(tested.p),
        "effect": tested.effect,
        "words_low": low,
        "words_high": high,
        "p_words": p_words,
        "q_words": corrected(p_words),
    }
    return [
        AssociationRow(
            *key,
            **{name: values[column].item() for name, values in columns.items()},
            n=int(tested.templates[column]),
        )
        for column, key in enumerate(block.keys)
    ]


def pair_rows(block: Block, seed: int) -> list[PairRow]:
    """Return a row per layer, view and pair of groups, over the roles that have a contrast."""
    rows = []
    for key, columns in block.by_pair().items():
        raw, controlled = block.raw[:, columns], block.controlled[:, columns]
        known = ~np.isnan(raw).any(axis=1)
        sizes = [_size(values[known].mean(axis=0)) for values in (raw, controlled)]
        share = surviving_share(raw, controlled, seed=seed)
        p_words = as_large(_size(block.drawn[:, columns])[:, None], np.array([sizes[1]]))
        layer, view, a, b = key
        rows.append(
            PairRow(
                layer=layer,
                view=view,
                group_a=a,
                group_b=b,
                roles=len(columns),
                raw=float(sizes[0]),
                controlled=float(sizes[1]),
                share=share.share,
                share_low=share.low,
                share_high=share.high,
                p_words=float(p_words[0]),
                q_words=math.nan,
                n=int(known.sum()),
            )
        )
    q_words = corrected(np.array([row.p_words for row in rows]))
    return [replace(row, q_words=float(q)) for row, q in zip(rows, q_words, strict=True)]


def _size(contrasts: Doubles) -> Doubles:
    """Return the root mean square over roles, the last axis."""
    size: Doubles = np.sqrt(np.mean(contrasts**2, axis=-1))
    return size


def as_large(drawn: Doubles, sizes: Doubles) -> Doubles:
    """Return the share of draws that are as large, (columns,); NaN without draws.

    What is measured counts as one draw more, so that the share is a p-value (Phipson & Smyth 2010,
    doi:10.2202/1544-6115.1585).

    Args:
        drawn: (draws, columns) sizes in random draws.
        sizes: (columns,) sizes that are measured.
    """
    if not len(drawn):
        return np.full(len(sizes), np.nan)
    shares: Doubles = (1 + (drawn >= sizes - _ROUNDING).sum(axis=0)) / (1 + len(drawn))
    return shares


def neuron_rows(
    experiment: AssociationExperiment, sites: Sequence[SiteContrasts]
) -> list[NeuronRow]:
    """Return the neurons that contribute most to each contrast of the words at each layer.

    q-values are corrected over all neurons, contrasts and layers.
    """
    q = corrected(np.stack([site.neurons.p for site in sites]))  # (layers, contrasts, neurons)
    rows = []
    for (number, site), (contrast, key) in itertools.product(
        enumerate(sites), enumerate(experiment.contrasts)
    ):
        means, p = site.neurons.mean[contrast], site.neurons.p[contrast]
        for neuron in np.argsort(-np.abs(means), kind="stable")[:MOST_NEURONS].tolist():
            values = float(means[neuron]), float(p[neuron]), float(q[number, contrast, neuron])
            rows.append(NeuronRow(site.layer, neuron, *key, *values))
    return rows


def word_rows(experiment: AssociationExperiment, lexicon: Lexicon) -> list[WordRow]:
    """Return a row per word and use."""
    uses = [("role", word) for word in experiment.roles]
    for name, words in experiment.groups.items():
        uses += [(f"group: {name}", word) for word in words]
    uses += [("control role", word) for word in experiment.control_roles]
    uses += [("control word", word) for word in experiment.control_words]
    rows = []
    for use, word in uses:
        tokens = lexicon.words[word]
        controls: Sequence[str] = ()
        if use == "role":
            controls = lexicon.controls.get(word, ())
        rows.append(
            WordRow(
                word,
                use,
                " ".join(tokens.texts),
                len(tokens.ids),
                tokens.rank,
                ", ".join(controls),
            )
        )
    return rows
