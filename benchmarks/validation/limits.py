"""Limits of the statistic: how often they hold its value over a whole population of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.tables import table
from benchmarks.validation.outcome import Outcome, figure
from neuroscope.activations import Floats
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.studies.drift.agreement import NeuronDistance, estimate_drift

SIZES = (100, 300)
"""Numbers of prompts in a sample."""
LEAST = 0.6
"""Share of the samples in which each limit must hold."""
_RESAMPLES = 200
HEADER = (
    "candidate",
    "prompts",
    "T of the population",
    "mean T of the samples",
    "sd of T",
    "lower limit holds",
    "upper limit holds",
)


@dataclass(frozen=True)
class Covered:
    """How often the limits of samples hold the statistic of the population."""

    candidate: str
    prompts: int
    """Size of a sample."""
    population: float
    """Statistic of all texts."""
    statistics: Sequence[float]
    """Statistic of each sample."""
    lower: float
    """Share of the samples whose lower limit is not above that of the population."""
    upper: float

    def cells(self) -> list[str]:
        """Return the row of the table."""
        numbers = self.population, float(np.mean(self.statistics)), float(np.std(self.statistics))
        shares = f"{self.lower:.3f}", f"{self.upper:.3f}"
        return [self.candidate, str(self.prompts), *map(figure, numbers), *shares]


def cover(
    base: Path, candidates: Mapping[str, Path], texts: Sequence[str], samples: int
) -> list[Covered]:
    """Return how often the limits hold, for each candidate and size of a sample.

    Args:
        base: folder of the base.
        candidates: name in the table -> folder of the candidate.
        texts: population of prompts.
        samples: number of samples of each size, each without replacement.
    """
    own = _read(base, texts)
    rows = []
    for name, candidate in candidates.items():
        other = _read(candidate, texts)
        rows += [_covered(name, own, other, size, samples) for size in SIZES]
    return rows


def _read(folder: Path, texts: Sequence[str]) -> list[Floats]:
    """Return the activations of a model at each layer, (texts, neurons)."""
    acts = extract(load_model(str(folder), device="cpu"), texts, "mlp_act", truncate=True)
    return [acts[site] for site in acts.sites]


def _covered(
    name: str, own: Sequence[Floats], other: Sequence[Floats], size: int, samples: int
) -> Covered:
    """Return how often the limits of samples of one size hold."""
    distance, rng = NeuronDistance(), np.random.default_rng(0)
    population = max(map(distance.between, own, other))
    estimates = []
    for seed in range(samples):
        drawn = rng.choice(len(own[0]), size, replace=False)
        pair = [values[drawn] for values in own], [values[drawn] for values in other]
        estimates.append(estimate_drift(*pair, distance, resamples=_RESAMPLES, seed=seed))
    return Covered(
        name,
        size,
        population,
        [estimate.statistic for estimate in estimates],
        lower=float(np.mean([estimate.limits.lower <= population for estimate in estimates])),
        upper=float(np.mean([estimate.limits.upper >= population for estimate in estimates])),
    )


def outcome(rows: Sequence[Covered], texts: int, samples: int) -> Outcome:
    """Return the table; a limit that holds in few samples is a failure."""
    failures = [
        f"the limits for {row.candidate} and {row.prompts} prompts hold in {row.lower:.2f} and"
        f" {row.upper:.2f} of the samples"
        for row in rows
        if min(row.lower, row.upper) < LEAST
    ]
    text = f"{samples} samples of each size from {texts:,} texts."
    return Outcome(f"{table(HEADER, [row.cells() for row in rows])}\n\n{text}", tuple(failures))
