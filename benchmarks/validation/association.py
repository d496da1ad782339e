"""Planted associations, and effects of the surface of words alone, through contrasts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tables import table
from benchmarks.validation.outcome import Outcome, figure, limit, outcome_of
from neuroscope.reporting.tables import NO_VALUE
from neuroscope.stats.contrasts import (
    ContrastStatistics,
    contrast_statistics,
    contributions,
    corrected,
    surviving_share,
    t_test_p,
    unit_vectors,
)
from neuroscope.stats.moments import Doubles

TEMPLATES, NEURONS, CONTROLS, WORDS = 13, 200, 8, 4
"""Templates, neurons, control roles, and words of each group."""
CARRIERS = 10
"""Neurons that carry a component of the words; each component has its own."""
LEAST_POWER, LEAST_FOUND = 0.9, 5
LEAST_COVERAGE = 0.85
"""Share of the draws in which an interval of a surviving share must hold the planted one."""
SHARES = (0.0, 0.5, 1.0)
_ALPHA = 0.05
_WEAKEST, _STRONGEST = 0.5, 2.5  # strength of a component in a template, in sd of the noise
_CLOSE = 0.05  # of a mean surviving share to the planted one
_INTERACTION, _SURFACE, _OWN = (slice(CARRIERS * i, CARRIERS * (i + 1)) for i in range(3))


@dataclass(frozen=True)
class Planted:
    """Components that words have beside noise; strengths vary between templates."""

    surface: float = 0.0
    """Of what the role, the control roles and the first group share, as by overlap or frequency."""
    interaction: float = 0.0
    """Of what the role and the first group share. Each control role has a component of its own of
    the same strength, so that all roles have the same norm."""
    role_surface: float = 1.0
    """Strength of the role's surface, relative to that of the control roles."""


PLANTED = {
    "nothing": Planted(),
    "surface": Planted(surface=1.0),
    "surface and interaction": Planted(surface=1.0, interaction=1.0),
    "surface and strong interaction": Planted(surface=1.0, interaction=2.0),
    "surface, twice as strong in the role": Planted(surface=1.0, role_surface=2.0),
}
"""Row of the table -> what is planted."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Contrasts of many draws, each with a role, control roles and groups of its own."""

    raw: Doubles
    """(templates, draws) raw contrasts."""
    controlled: Doubles
    found: Doubles
    """(draws,) neurons of the interaction with q < .05."""
    false_discoveries: Doubles
    """(draws,) share of the neurons with q < .05 that do not carry the interaction."""


def draw(planted: Planted, draws: int, *, seed: int = 0) -> Drawn:
    """Plant components in words, and return their contrasts as a study computes them."""
    rng = np.random.default_rng(seed)
    terms = [_terms(planted, rng) for _ in range(draws)]
    discoveries = [corrected(t_test_p(controlled)) < _ALPHA for _, controlled in terms]
    found = np.array([each[_INTERACTION].sum() for each in discoveries], dtype=np.float64)
    count = np.array([each.sum() for each in discoveries])
    wrong = count - found if planted.interaction else count
    raw, controlled = (np.column_stack([pair[i].sum(axis=1) for pair in terms]) for i in range(2))
    return Drawn(raw, controlled, found, wrong / np.maximum(count, 1))


def _terms(planted: Planted, rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Return what each neuron contributes to both contrasts, (templates, neurons) each."""
    templates = [_template(planted, rng) for _ in range(TEMPLATES)]
    raw, controlled = zip(*templates, strict=True)
    return np.array(raw), np.array(controlled)


def _template(planted: Planted, rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Return the contributions in one template."""
    words = rng.standard_normal((1 + CONTROLS + 2 * WORDS, NEURONS))
    role, controls = words[0], words[1 : 1 + CONTROLS]
    first, second = np.split(words[1 + CONTROLS :], 2)
    surface, interaction = rng.uniform(_WEAKEST, _STRONGEST, 2)
    for vectors, strength in ((role, planted.role_surface), (controls, 1), (first, 1)):
        vectors[..., _SURFACE] += strength * planted.surface * surface
    for vectors in (role, first):
        vectors[..., _INTERACTION] += planted.interaction * interaction
    for number, control in enumerate(controls):
        start = _OWN.start + CARRIERS * number
        control[start : start + CARRIERS] += planted.interaction * interaction
    return contributions(*map(unit_vectors, (role, controls, first, second)))


@dataclass(frozen=True, eq=False)
class Tested:
    """Statistics of many draws."""

    drawn: Drawn
    raw: ContrastStatistics
    controlled: ContrastStatistics

    @classmethod
    def of(cls, drawn: Drawn) -> "Tested":
        """Test the contrasts of every draw."""
        return cls(drawn, contrast_statistics(drawn.raw), contrast_statistics(drawn.controlled))

    @property
    def rejected(self) -> tuple[float, float]:
        """Shares of the draws with p < .05, of the raw and of the controlled contrast."""
        raw, controlled = (float((each.p < _ALPHA).mean()) for each in (self.raw, self.controlled))
        return raw, controlled

    @property
    def truth(self) -> float:
        """Mean of the controlled contrast over all templates of all draws."""
        return float(self.drawn.controlled.mean())

    def covered(self, truth: float) -> float:
        """Return the share of the draws whose interval holds a mean of the controlled contrast."""
        return float(((self.controlled.low <= truth) & (truth <= self.controlled.high)).mean())


def measure(draws: int) -> Outcome:
    """Return how often contrasts are rejected, for everything that is planted."""
    tested = {name: Tested.of(draw(each, draws)) for name, each in PLANTED.items()}
    return outcome(tested, draws)


def outcome(tested: Mapping[str, Tested], draws: int) -> Outcome:
    """Return the tables, and the properties that do not hold."""
    nothing, surface, interaction, strong = list(tested.values())[:4]
    most = limit(_ALPHA, draws)
    properties = {
        "nothing planted: both contrasts are rejected in at most .05": max(nothing.rejected)
        <= most,
        "surface alone: the raw contrast is rejected in more than .9": surface.rejected[0]
        > LEAST_POWER,
        "surface alone: the controlled contrast is rejected in at most .05": surface.rejected[1]
        <= most,
        "interaction: the controlled contrast is rejected in at least .9": interaction.rejected[1]
        >= LEAST_POWER,
        "neurons: the mean share of false discoveries is at most .05": all(
            _least(each.drawn.false_discoveries) <= _ALPHA
            for each in (nothing, surface, interaction, strong)
        ),
        f"neurons: {LEAST_FOUND} of {CARRIERS} or more are found, for the strong interaction": (
            strong.drawn.found.mean() >= LEAST_FOUND
        ),
    }
    header = (
        *("planted", "raw, p < .05", "controlled, p < .05", "mean of D", "interval holds it"),
        *("neurons found", "false discoveries"),
    )
    rows = [_row(name, PLANTED[name], each) for name, each in tested.items()]
    text = (
        f"{draws:,} draws of {TEMPLATES} templates, {NEURONS} neurons, {CONTROLS} control roles and"
        f" two groups of {WORDS} words. Limits of .05 are within two standard errors."
    )
    return outcome_of(table(header, rows), properties, text)


def _row(name: str, planted: Planted, tested: Tested) -> list[str]:
    """Return the row of what is planted."""
    # roles and control roles that differ in nothing have a mean of exactly 0
    differ = bool(planted.interaction) or planted.role_surface != 1
    truth = tested.truth if differ else 0.0
    found = f"{tested.drawn.found.mean():.1f} of {CARRIERS}" if planted.interaction else NO_VALUE
    rates = tested.drawn.false_discoveries
    neurons = planted.role_surface == 1  # otherwise those of the surface are no false ones
    return [
        *(name, *(f"{rate:.3f}" for rate in tested.rejected)),
        *(figure(truth), f"{tested.covered(truth):.3f}", found),
        f"{rates.mean():.3f} ± {_error(rates):.3f}" if neurons else NO_VALUE,
    ]


@dataclass(frozen=True, eq=False)
class Shared:
    """Surviving shares of many draws with one planted share."""

    planted: float
    shares: Doubles
    """(draws,) NaN where the raw contrast may be 0."""
    held: float
    """Share of the intervals that hold the planted share."""


def share(planted: float, draws: int, *, seed: int = 0) -> Shared:
    """Plant an interaction that causes a share of the raw contrast, and estimate the share.

    A similarity grows with the product of two strengths, so they are square roots of shares.
    """
    drawn = draw(Planted(np.sqrt(1 - planted), np.sqrt(planted)), draws, seed=seed)
    estimates = [
        surviving_share(raw, controlled)
        for raw, controlled in zip(drawn.raw.T, drawn.controlled.T, strict=True)
    ]
    known = [each for each in estimates if not np.isnan(each.share)]
    held = np.mean([each.low <= planted <= each.high for each in known])
    return Shared(planted, np.array([each.share for each in estimates]), float(held))


def measure_shares(draws: int) -> Outcome:
    """Return how close surviving shares are to planted ones."""
    return outcome_of_shares([share(planted, draws) for planted in SHARES])


def outcome_of_shares(rows: Sequence[Shared]) -> Outcome:
    """Return the table, and the properties that do not hold."""
    properties = {
        f"the mean estimate is within {_CLOSE} of the planted share": all(
            abs(np.nanmean(row.shares) - row.planted) <= _CLOSE for row in rows
        ),
        f"intervals hold the planted share in at least {LEAST_COVERAGE}": all(
            row.held >= LEAST_COVERAGE for row in rows
        ),
    }
    header = ("planted share", "mean estimate", "sd", "interval holds it", "no estimate")
    cells = [
        [
            *(f"{row.planted:.1f}", f"{np.nanmean(row.shares):.3f}"),
            *(f"{np.nanstd(row.shares):.3f}", f"{row.held:.3f}"),
            f"{np.isnan(row.shares).mean():.3f}",
        ]
        for row in rows
    ]
    text = f"{len(rows[0].shares):,} draws of {TEMPLATES} templates."
    return outcome_of(table(header, cells, names=0), properties, text)


def _error(rates: Doubles) -> float:
    """Return the standard error of a mean over draws."""
    return float(rates.std(ddof=1) / np.sqrt(len(rates)))


def _least(rates: Doubles) -> float:
    """Return a mean over draws less two standard errors."""
    return float(rates.mean()) - 2 * _error(rates)
