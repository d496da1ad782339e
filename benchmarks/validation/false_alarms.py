"""Rate of false alarms: p-values of a candidate that is the base, computed in one more benign way.

Every draw has its own random prompts and conditions, so that the draws are independent.
"""

import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.random_checkpoint import Shape, ensure_checkpoint
from benchmarks.tables import table
from benchmarks.validation.outcome import Outcome
from neuroscope.activations import Floats
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import FIXED_BUDGET, TokenBudget
from neuroscope.extraction.extract import record
from neuroscope.options import Attention, Dtype
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.stats.decision import Verdict
from neuroscope.studies.drift.agreement import (
    NeuronDistance,
    Values,
    decide_drift,
    estimate_drift,
)
from neuroscope.studies.drift.experiment import (
    USUAL_REPLICATES,
    DriftExperiment,
    drift_experiment,
)
from neuroscope.studies.drift.replicates import (
    Condition,
    UsualBase,
    draw_conditions,
    run_replicates,
)

if TYPE_CHECKING:
    from neuroscope.extraction.models import Model

SHAPE = Shape(layers=2, hidden=32, mlp=48, heads=4, kv_heads=2, vocabulary=200)
"""Shape of the model, whose weights are random."""
PROMPTS = 300
"""Prompts per draw: three batches, so that their grouping into batches matters."""
ALPHA, TOLERANCE = 0.05, 0.014
"""Nominal rate, and two standard errors of the rate of 1,000 draws."""
BENIGN: Mapping[str, tuple[str, ...]] = {
    "batches, padding, dtype": ("batches", "padding", "dtype"),
    "batches, padding, dtype, attention": ("batches", "padding", "dtype", "attention"),
}
"""What varies between replicates; the second is the default of a check."""
HEADER = (
    "what varies",
    "draws",
    "p <= 0.05",
    "ties broken at random",
    "largest T tied",
    "`drifted`",
)


@dataclass(frozen=True)
class Draw:
    """Decision on a candidate that computes what the base computes."""

    p: float
    verdict: Verdict
    largest: bool
    """Whether no replicate has a larger statistic."""
    ties: int
    """How many of the replicates and the candidate have the largest statistic."""


def measure(draws: int, prompts: int = PROMPTS, workers: int | None = None) -> Outcome:
    """Return the rate of false alarms for each set of benign changes.

    Args:
        draws: number of draws for each.
        prompts: number of prompts of a draw.
        workers: number of processes; by default one per core. 0 draws in this process.
    """
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        ensure_checkpoint(folder, SHAPE)
        for label, benign in BENIGN.items():
            one = partial(draw, str(folder), prompts, benign)
            results[label] = _run(one, draws, os.cpu_count() if workers is None else workers)
    return outcome(results)


def _run(one: "partial[Draw]", draws: int, workers: int | None) -> list[Draw]:
    if not workers:
        return list(map(one, range(draws)))
    with ProcessPoolExecutor(workers, get_context("spawn"), _use_one_thread) as pool:
        return list(pool.map(one, range(draws), chunksize=10))


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def draw(folder: str, prompts: int, benign: Sequence[str], seed: int) -> Draw:
    """Return the decision of one draw: 19 replicates, and a candidate drawn as they are."""
    rng = random.Random(seed)
    texts = [
        " ".join(f"w{rng.randrange(3, SHAPE.vocabulary)}" for _ in range(rng.randint(20, 48)))
        for _ in range(prompts)
    ]
    experiment = drift_experiment(folder, folder, {"texts": texts}, benign=list(benign), seed=seed)
    *conditions, last = draw_conditions(experiment, USUAL_REPLICATES + 1)
    return _decide(experiment, conditions, last)


def _decide(experiment: DriftExperiment, conditions: list[Condition], last: Condition) -> Draw:
    """Return the decision on the base in the last condition."""
    load = partial(_load, experiment.models[0])
    prompts, distance = experiment.prompt_set, NeuronDistance()
    base = _values(load(experiment.dtype, experiment.attention), prompts, None)
    model = copy(load(*last.loading))
    model.padding_side = last.padding_side
    candidate = _values(model, prompts, last.shuffle)
    usual = UsualBase(base, np.zeros(len(prompts), dtype=np.int64), expected=None)
    null = run_replicates(
        load, conditions, prompts, usual, distance, pool="mean", truncate=False
    ).distances
    layers = list(base.values()), list(candidate.values())
    estimate = estimate_drift(*layers, distance, resamples=100, seed=experiment.seed)
    decision = decide_drift(estimate, null, margin=experiment.margin, alpha=ALPHA)
    statistics = [*null.max(axis=1), decision.statistic]
    largest = max(statistics)
    ties = statistics.count(largest)
    return Draw(decision.p_value, decision.verdict, decision.statistic == largest, ties)


def _values(model: "Model", prompts: PromptSet, shuffle: int | None) -> Values:
    """Return the activations that decide, as replicates and the base compute them."""
    sites = [Site("mlp_act", layer) for layer in range(model.layer_count)]
    values: dict[Site, Floats] = dict(
        record(
            model,
            tokenise(model, prompts.prompts),
            sites,
            pool="mean",
            token_rule="content",
            budget=TokenBudget(FIXED_BUDGET),
            shuffle=shuffle,
        )
    )
    return values


@lru_cache
def _load(folder: str, dtype: Dtype, attention: Attention) -> "Model":
    from neuroscope.extraction.models import load_model

    return load_model(folder, device="cpu", dtype=dtype, attention=attention)


def outcome(results: Mapping[str, Sequence[Draw]]) -> Outcome:
    """Return the table of rates; a rate outside its tolerance without ties is a failure."""
    rows, failures = [], []
    for label, draws in results.items():
        rate = fmean(draw.p <= ALPHA for draw in draws)
        broken = fmean(draw.largest / draw.ties for draw in draws)
        tied = fmean(draw.ties > 1 for draw in draws)
        drifted = fmean(draw.verdict == "drifted" for draw in draws)
        rows.append([label, f"{len(draws):,}", *map(_rate, (rate, broken, tied, drifted))])
        if abs(broken - ALPHA) > TOLERANCE or rate > ALPHA + TOLERANCE:
            failures.append(f"{label}: the rate of false alarms is {rate:.3f}, {broken:.3f}")
    return Outcome(table(HEADER, rows), tuple(failures))


def _rate(value: float) -> str:
    return f"{value:.3f}"
