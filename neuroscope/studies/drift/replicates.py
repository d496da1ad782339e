"""Benign replicates: the base against itself, computed in other ways that must not matter."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar, get_args

import numpy as np

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import FIXED_BUDGET, TokenBudget
from neuroscope.extraction.extract import record
from neuroscope.extraction.finite import FiniteCheck
from neuroscope.extraction.models import Model
from neuroscope.extraction.pair_changes import expected_tokens
from neuroscope.options import Attention, Dtype, PaddingSide, Pool
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptSet
from neuroscope.stats.moments import Doubles
from neuroscope.studies.drift.agreement import Distance, Values
from neuroscope.studies.drift.experiment import DriftExperiment
from neuroscope.studies.drift.explanation import token_ratios
from neuroscope.tokens import TokenBlock

T = TypeVar("T")


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


def draw_conditions(experiment: DriftExperiment) -> list[Condition]:
    """Return the conditions of the replicates.

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
        for _ in range(experiment.replicates)
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
    ratios: Doubles | None
    """(replicates, vocabulary) `token_ratios`; None without a language-model head."""


def run_replicates(
    load: Callable[[Dtype, Attention], Model],
    conditions: Sequence[Condition],
    prompts: PromptSet,
    base: Values,
    expected: Doubles | None,
    distance: Distance,
    *,
    pool: Pool,
    truncate: bool,
    progress: Progress = silent,
) -> Replicates:
    """Compute the base again under each condition, and compare.

    Conditions that need the model loaded in the same way are run one after another, so that one
    model is in memory at a time.

    Args:
        load: function that loads the base in a number format, with an implementation of attention.
        conditions: conditions of the replicates.
        prompts: prompts, in the order of the rows of `base`.
        base: activations of the base, computed in the usual way.
        distance: distance of a site from that of the base.
        expected: result of `expected_tokens` of the base; None if it has no head.
        pool: way in which activations are pooled.
        truncate: whether prompts are cut at the model's limit.
        progress: callback that receives how many replicates are done.
    """
    distances = np.empty((len(conditions), len(base)))
    ratios = None if expected is None else np.empty((len(conditions), len(expected)))
    order = sorted(range(len(conditions)), key=lambda index: conditions[index].loading)
    done = 0
    for loading, indices in groupby(order, key=lambda index: conditions[index].loading):
        model = load(*loading)
        block = tokenise(model, prompts.prompts, truncate=truncate)
        for index in indices:
            progress("replicate", done, len(order))
            padded = copy(model)
            padded.padding_side = conditions[index].padding_side
            distances[index] = _distances(
                padded, conditions[index], prompts, block, base, distance, pool
            )
            if ratios is not None and expected is not None:
                again = expected_tokens(padded, block, shuffle=conditions[index].shuffle)
                ratios[index] = token_ratios(expected, again)
            done += 1
        del model, padded  # the next one must fit into memory
    return Replicates(distances, ratios)


def _distances(
    model: Model,
    condition: Condition,
    prompts: PromptSet,
    block: TokenBlock,
    base: Values,
    distance: Distance,
    pool: Pool,
) -> list[float]:
    """Return the distance of one replicate from the base at each site."""
    recorded = record(
        model,
        block,
        list(base),
        pool=pool,
        token_rule="content",
        budget=TokenBudget(FIXED_BUDGET),
        check=FiniteCheck(model.name, prompts.ids),
        shuffle=condition.shuffle,
    )
    distances = {site: distance.between(base[site], values) for site, values in recorded}
    return [distances[site] for site in base]
