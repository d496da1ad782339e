"""Rows of a result: the contrasts of all layers, tested and corrected together."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.contrasts import (
    ContrastStatistics,
    contrast_statistics,
    corrected,
    surviving_share,
)
from neuroscope.stats.moments import Doubles
from neuroscope.studies.association.experiment import AssociationExperiment
from neuroscope.studies.association.headline import headline
from neuroscope.studies.association.measures import VIEWS, SiteContrasts
from neuroscope.studies.association.result import (
    AssociationResult,
    AssociationRow,
    NeuronRow,
    PairRow,
    WordRow,
)
from neuroscope.studies.association.words import Lexicon

MOST_NEURONS = 10
"""Number of neurons that are listed per contrast and layer."""


def association_result(
    experiment: AssociationExperiment,
    model: str,
    lexicon: Lexicon,
    sites: Sequence[SiteContrasts],
    notes: Sequence[str] = (),
) -> AssociationResult:
    """Test the contrasts of all sites of a model, and return its result.

    Args:
        experiment: experiment of kind `association`.
        model: name of the model.
        lexicon: words of the experiment in this model.
        sites: contrasts at each site.
        notes: sentences on what limits the meaning of the values, beside those of the words.
    """
    rows, pairs = contrast_rows(experiment, sites)
    return AssociationResult(
        model=model,
        component=experiment.component,
        rows=tuple(rows),
        pairs=tuple(pairs),
        neurons=tuple(neuron_rows(experiment, sites)),
        established=tuple(row for site in sites for row in site.established),
        predictions=(),
        words=tuple(word_rows(experiment, lexicon)),
        word_pairs=tuple(lexicon.pairs(experiment)),
        templates=len(experiment.templates),
        headline=headline(rows, pairs),
        notes=(*notes, *lexicon.notes),
    )


@dataclass(frozen=True, eq=False)
class Block:
    """Contrasts of all layers and views, by template; every array is (templates, columns).

    The columns are ordered by layer, then view, then contrast.
    """

    raw: Doubles
    controlled: Doubles
    placebo: Doubles
    keys: Sequence[tuple[int, str, str, str, str]]
    """Layer, view, role and two groups of each column."""


def role_block(experiment: AssociationExperiment, sites: Sequence[SiteContrasts]) -> Block:
    """Return the contrasts of each role."""
    parts = [(site, view) for site in sites for view in VIEWS]

    def joined(name: str) -> Doubles:
        arrays = [getattr(site.views[view], name) for site, view in parts]
        return np.concatenate(arrays, axis=1)

    keys = [
        (site.layer, view, *contrast) for site, view in parts for contrast in experiment.contrasts
    ]
    return Block(joined("raw"), joined("controlled"), joined("placebo"), keys)


def pair_block(block: Block) -> Block:
    """Return the contrasts of pairs of groups: means over the roles that have them."""
    members: dict[tuple[int, str, str, str, str], list[int]] = {}
    for column, (layer, view, _, a, b) in enumerate(block.keys):
        members.setdefault((layer, view, "", a, b), []).append(column)

    def means(values: Doubles) -> Doubles:
        return np.stack([values[:, columns].mean(axis=1) for columns in members.values()], axis=1)

    return Block(means(block.raw), means(block.controlled), means(block.placebo), list(members))


def contrast_rows(
    experiment: AssociationExperiment, sites: Sequence[SiteContrasts]
) -> tuple[list[AssociationRow], list[PairRow]]:
    """Return the rows of roles and of pairs of groups; q-values are corrected over both.

    A pair that a single role has is the same test as that role's, and counts once. Columns without
    a value in any template, such as a context without words, have no row.
    """
    roles = role_block(experiment, sites)
    pairs = pair_block(roles)
    seed = experiment.seed
    tested = [contrast_statistics(block.controlled, seed=seed) for block in (roles, pairs)]
    raw = [contrast_statistics(block.raw, seed=seed, p=False) for block in (roles, pairs)]
    counts = _role_counts(roles, pairs)
    q = corrected(np.concatenate([tested[0].p, tested[1].p[counts > 1]]))
    only = {(*key[:2], "", *key[3:]): value for key, value in zip(roles.keys, q, strict=False)}
    pair_q = np.array([only[key] for key in pairs.keys])  # of pairs that a single role has
    pair_q[counts > 1] = q[len(roles.keys) :]
    role_rows = [
        AssociationRow(**values) for values in _rows(roles, raw[0], tested[0], q[: len(roles.keys)])
    ]
    pair_rows = []
    for column, values in enumerate(_rows(pairs, raw[1], tested[1], pair_q)):
        share = surviving_share(pairs.raw[:, column], pairs.controlled[:, column], seed=seed)
        pair_rows.append(
            PairRow(
                **values,
                roles=int(counts[column]),
                share=share.share,
                share_low=share.low,
                share_high=share.high,
            )
        )
    return [row for row in role_rows if row.n], [row for row in pair_rows if row.n]


def _role_counts(roles: Block, pairs: Block) -> NDArray[np.int64]:
    """Return how many roles each column of pairs is the mean of."""
    keys = [(layer, view, "", a, b) for layer, view, _, a, b in roles.keys]
    return np.array([keys.count(key) for key in pairs.keys])


def _rows(
    block: Block, raw: ContrastStatistics, tested: ContrastStatistics, q: Doubles
) -> Iterator[dict[str, Any]]:
    """Yield the values of a row per column."""
    known = ~np.isnan(block.placebo)
    totals = np.where(known, block.placebo, 0).sum(axis=0)
    placebo = np.divide(
        totals, known.sum(axis=0), out=np.full(len(totals), np.nan), where=known.any(axis=0)
    )
    for column, (layer, view, role, a, b) in enumerate(block.keys):
        yield {
            "layer": layer,
            "view": view,
            "role": role,
            "group_a": a,
            "group_b": b,
            "raw": float(raw.mean[column]),
            "raw_low": float(raw.low[column]),
            "raw_high": float(raw.high[column]),
            "controlled": float(tested.mean[column]),
            "low": float(tested.low[column]),
            "high": float(tested.high[column]),
            "p": float(tested.p[column]),
            "q": float(q[column]),
            "effect": float(tested.effect[column]),
            "placebo": float(placebo[column]),
            "n": int(tested.templates[column]),
        }


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
        elif use.startswith("group") and lexicon.placebo:
            controls = (lexicon.placebo[word],)
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
