"""Word embedding association tests of vectors without and with a planted association."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tables import table
from benchmarks.validation.outcome import Outcome, limit, outcome_of
from neuroscope.stats.moments import Doubles
from neuroscope.stats.weat import Weat, weat

SIZES = (6, 8)
"""Words of each set: 924 divisions, which are enumerated, and 12,870, which are sampled."""
STRENGTHS = (0.0, 0.5, 1.0)
"""Components that X and A share, and Y and B, in standard deviations of the noise of a neuron."""
LEAST_POWER = 0.9
_NEURONS, _CARRIERS = 100, 20
_ALPHA = 0.05


@dataclass(frozen=True)
class Drawn:
    """Results of many draws of one kind."""

    words: int
    strength: float
    tests: Sequence[Weat]

    @property
    def effects(self) -> Doubles:
        """(draws,) effect sizes."""
        return np.array([test.d for test in self.tests])

    def rejected(self, alpha: float = _ALPHA) -> float:
        """Return the share of the draws with a p-value below alpha."""
        return float(np.mean([test.p < alpha for test in self.tests]))


def draw(words: int, strength: float, draws: int) -> Drawn:
    """Plant an association of X with A, and of Y with B, and test it."""
    tests = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        x, y, a, b = rng.standard_normal((4, words, _NEURONS))
        for vectors, start in ((x, 0), (a, 0), (y, _CARRIERS), (b, _CARRIERS)):
            vectors[:, start : start + _CARRIERS] += strength
        tests.append(weat(x, y, a, b, seed=seed))
    return Drawn(words, strength, tests)


def measure(draws: int) -> Outcome:
    """Return how often associations are found that are planted, and that are not."""
    return outcome(
        [
            # a rate near .05 needs many draws
            draw(words, strength, max(draws // 5, 1) if strength else draws)
            for strength in STRENGTHS
            for words in SIZES
        ]
    )


def outcome(rows: Sequence[Drawn]) -> Outcome:
    """Return the table, and the properties that do not hold."""
    nothing = [row for row in rows if row.strength == 0]
    planted = [row.rejected() for row in rows if row.strength == STRENGTHS[-1]]
    most = limit(_ALPHA, len(nothing[0].tests))
    properties = {
        "nothing planted: p < .05 in .05 of the draws, within two standard errors": all(
            2 * _ALPHA - most <= row.rejected() <= most for row in nothing
        ),
        "strength 1: p < .05 in at least .9": min(planted) >= LEAST_POWER,
    }
    header = ("planted", "words per set", "draws", "mean d", "sd of d", "p < .05", "p < .5")
    cells = [
        [
            *(f"{row.strength:.1f}", str(row.words), f"{len(row.tests):,}"),
            f"{row.effects.mean():.3f}",
            *(
                f"{row.effects.std(ddof=1):.3f}",
                f"{row.rejected():.3f}",
                f"{row.rejected(0.5):.3f}",
            ),
        ]
        for row in rows
    ]
    text = f"Vectors of {_NEURONS} neurons, as many attributes as words."
    return outcome_of(table(header, cells, names=0), properties, text)
