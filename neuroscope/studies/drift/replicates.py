"""Benign replicates: the base against itself, computed in other ways that must not matter."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import FIXED_BUDGET, TokenBudget
from neuroscope.extraction.expected_tokens import expected_tokens
from neuroscope.extraction.extract import record
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.models import Model
from neuroscope.options import Attention, Dtype, PaddingSide, Pool
from neuroscope.prompts import PromptSet
from neuroscope.stats.moments import Doubles
from neuroscope.studies.drift.agreement import Distance, Values
from neuroscope.studies.drift.experiment import USUAL_REPLICATES, DriftExperiment
from neuroscope.studies.drift.explanation import group_means, token_ratios
from neuroscope.studies.drift.rewording import Rewording
from neuroscope.tokens import TokenBlock

T = TypeVar("T")

BOUNDING = USUAL_REPLICATES
"""Number of replicates of which the largest change of each token is kept."""


@dataclass(frozen=True)
class Condition:
    """Way of computing a model's activations that must not change what they mean."""

    dtype: Dtype
    attention: Attention
    padding_side: PaddingSide
    shuffle: int
    """Seed for grouping the prompts into batches; the same seed gives the same batches."""

    @property
    def loading(self) -> tuple[Dtype, Attention]:
        """What the model has to be loaded with."""
        return self.dtype, self.attention


def draw_conditions(experiment: DriftExperiment, count: int) -> list[Condition]:
    """Return the conditions of the first replicates; a larger count only adds to them.

    They are exchangeable, as the p-value requires: each is drawn from the same distribution,
    independently of the others.
    """
    rng = np.random.default_rng(experiment.seed)
    dtypes: list[Dtype] = [experiment.dtype, "float32", "bfloat16"]
    attentions: list[Attention] = [experiment.attention, *get_args(Attention)]
    sides: tuple[PaddingSide, ...] = get_args(PaddingSide)
    benign = experiment.benign
    return [
        Condition(
            dtype=_draw(rng, dtypes, varies="dtype" in benign),
            attention=_draw(rng, attentions, varies="attention" in benign),
            padding_side=_draw(rng, sides, varies="padding" in benign),
            shuffle=int(rng.integers(2**31)) if "batches" in benign else 0,
        )
        for _ in range(count)
    ]


def _draw(rng: np.random.Generator, values: Sequence[T], *, varies: bool) -> T:
    """Return one of the distinct values, each as likely; the first if it does not vary."""
    distinct = list(dict.fromkeys(values))
    return distinct[rng.integers(len(distinct))] if varies else distinct[0]


@dataclass(frozen=True, eq=False)
class Replicates:
    """Benign replicates of a base, compared with the base computed in the usual way."""

    distances: Doubles
    """(replicates, sites) distances."""
    bounds: Doubles | None = None
    """(groups, vocabulary) largest absolute `token_ratios` of the first `BOUNDING` replicates; None
    if none of them was computed with a language-model head."""
    rewordings: tuple[Rewording, ...] = ()
    """Distances that harmless rewording causes in the base."""

    def __len__(self) -> int:
        return len(self.distances)

    def first(self, count: int) -> "Replicates":
        """Return the first replicates."""
        return replace(self, distances=self.distances[:count])

    def followed_by(self, distances: Doubles) -> "Replicates":
        """Return these replicates and further ones."""
        return replace(self, distances=np.concatenate([self.distances, distances]))


@dataclass(frozen=True, eq=False)
class UsualBase:
    """Base computed in the usual way, with which replicates are compared."""

    activations: Values
    """Activations at the deciding sites."""
    groups: NDArray[np.int64]
    """(prompts,) number of the group of each prompt."""
    expected: Doubles | None
    """(groups, vocabulary) result of `expected_tokens`; None without a head, or if no bounds on the
    change of tokens are needed."""


def run_replicates(
    load: Callable[[Dtype, Attention], Model],
    conditions: Sequence[Condition],
    prompts: PromptSet,
    base: UsualBase,
    distance: Distance,
    *,
    pool: Pool,
    truncate: bool,
) -> Replicates:
    """Compute the base again under each condition, and compare.

    Conditions that need the model loaded in the same way are run one after another, so that one
    model is in memory at a time.

    Args:
        load: function that loads the base in a number format, with an implementation of attention.
        conditions: conditions of the replicates.
        prompts: prompts, in the order of the rows of the base's activations.
        base: the base computed in the usual way.
        distance: distance of a site from that of the base.
        pool: way in which activations are pooled.
        truncate: whether prompts are cut at the model's limit.
    """
    distances = np.empty((len(conditions), len(base.activations)))
    bounds = None
    order = sorted(range(len(conditions)), key=lambda index: conditions[index].loading)
    for loading, indices in groupby(order, key=lambda index: conditions[index].loading):
        model = load(*loading)
        block = tokenise(model, prompts.prompts, truncate=truncate)
        for index in indices:
            padded = copy(model)
            padded.padding_side = conditions[index].padding_side
            shuffle = conditions[index].shuffle
            distances[index] = _distances(padded, shuffle, prompts, block, base, distance, pool)
            if base.expected is not None and padded.has_head:
                ratios = np.abs(_ratios(padded, shuffle, block, base))
                bounds = ratios if bounds is None else np.maximum(bounds, ratios)
        del model, padded  # the next one must fit into memory
    return Replicates(distances, bounds)


def _ratios(model: Model, shuffle: int, block: TokenBlock, base: UsualBase) -> Doubles:
    """Return the token ratios of one replicate, (groups + 1, vocabulary)."""
    assert base.expected is not None
    again = expected_tokens(model, block, base.groups, count=len(base.expected), shuffle=shuffle)
    return token_ratios(group_means(base.expected), group_means(again))


def _distances(
    model: Model,
    shuffle: int,
    prompts: PromptSet,
    block: TokenBlock,
    base: UsualBase,
    distance: Distance,
    pool: Pool,
) -> list[float]:
    """Return the distance of one replicate from the base at each site."""
    recorded = record(
        model,
        block,
        list(base.activations),
        pool=pool,
        token_rule="content",
        budget=TokenBudget(FIXED_BUDGET),
        check=FiniteCheck(model, prompts.ids),
        shuffle=shuffle,
    )
    usual = base.activations
    distances = {site: distance.between(usual[site], values) for site, values in recorded}
    return [distances[site] for site in usual]
