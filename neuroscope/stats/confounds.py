"""Surface properties of prompts, such as length or source: what they explain of topics and neurons.

A neuron may detect long prompts rather than a topic of long prompts. Covariates of the prompts are
turned into a regression design, and a neuron is judged by what remains of it after the regression.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats import selectivity
from neuroscope.stats.checks import check_activations
from neuroscope.stats.moments import Doubles
from neuroscope.stats.similarity import Array

Numbers = Mapping[str, NDArray[np.number] | NDArray[np.bool_]]
"""Name of a covariate -> (prompts,) finite number of each prompt, such as its number of tokens."""

Groups = Mapping[str, NDArray[np.str_]]
"""Name of a covariate -> (prompts,) group of each prompt, such as its source."""

BINS = 10
"""Largest number of bins of a covariate that is a number."""

FREQUENT = 20
"""Smallest number of pilot prompts of a value that has an indicator of its own.

The mean of fewer prompts is mostly noise. With an indicator for each of many values, such as a URL
per prompt, the regression would reproduce the pilot sample instead of estimating effects.
"""

_NUMBER = "number."  # prefixes of the names of arrays
_GROUP, _WITH_OTHERS = "group.", "others."


@dataclass(frozen=True)
class Binned:
    """A covariate that is a number: its scale and the edges of its bins in the pilot sample."""

    mean: float
    """Mean over the pilot sample."""
    sd: float
    """Standard deviation over the pilot sample; not 0."""
    edges: Doubles
    """(bins - 1,) interior edges in ascending order; a bin includes its upper edge."""

    @classmethod
    def of(cls, values: Doubles) -> "Binned | None":
        """Return the scale and the deciles of (prompts,) values; None if they do not vary."""
        if len(values) == 0 or values.min() == values.max() or not values.std():
            return None
        deciles = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
        edges = np.unique(deciles)
        return cls(float(values.mean()), float(values.std()), edges[edges < values.max()])

    def columns(self, values: Doubles) -> Doubles:
        """Return (prompts, 1 + bins): the standardised number and an indicator per bin."""
        bins = np.searchsorted(self.edges, values)
        indicators = bins[:, None] == np.arange(len(self.edges) + 1)
        return np.column_stack([(values - self.mean) / self.sd, indicators])


@dataclass(frozen=True)
class Grouped:
    """A covariate that is a group: which of its values have indicators."""

    values: NDArray[np.str_]
    """(values,) frequent values in ascending order."""
    others: bool
    """Whether all other values together have an indicator, too."""

    @classmethod
    def of(cls, values: NDArray[np.str_]) -> "Grouped | None":
        """Return the frequent values among (prompts,) values; None if they are one group."""
        known, counts = np.unique(values, return_counts=True)
        frequent = counts >= FREQUENT
        others = int(counts[~frequent].sum()) >= FREQUENT
        return cls(known[frequent], others) if frequent.sum() + others > 1 else None

    def columns(self, values: NDArray[np.str_]) -> Doubles:
        """Return the indicators, (prompts, values), with those of the others last."""
        indicators = values[:, None] == self.values
        known = indicators.any(axis=1, keepdims=True)
        if self.others:
            return np.concatenate([indicators, ~known], axis=1).astype(np.float64)
        return np.where(known, indicators, 1 / len(self.values))


@dataclass(frozen=True)
class Design:
    """Columns of a regression that describe surface properties of prompts.

        >>> lengths = {"tokens": np.arange(40)}
        >>> sources = {"source": np.repeat(["news", "mail"], 20)}
        >>> Design.of(lengths, sources).matrix(lengths, sources).shape
        (40, 14)

    A number becomes itself, standardised, and an indicator of each of up to 10 quantile bins, so
    that effects of any shape are removed. A group becomes an indicator of each of its values that
    at least 20 prompts of the pilot sample have. If 20 prompts or more have rarer values, all
    other values are one further group. Otherwise a value that is rare, or that the pilot sample
    lacks, counts as equal parts of all frequent ones, so that a neuron with a large mean keeps it.
    Covariates that do not vary are left out.
    """

    numbers: Mapping[str, Binned]
    """Covariates that are numbers, by name in alphabetical order."""
    groups: Mapping[str, Grouped]
    """Covariates that are groups, by name in alphabetical order."""

    @classmethod
    def of(cls, numbers: Numbers, groups: Groups) -> "Design":
        """Return the design for covariates as they are distributed in a pilot sample.

        Raises:
            ValueError: a number is NaN or infinite.
        """
        binned = {name: Binned.of(_finite(name, numbers[name])) for name in sorted(numbers)}
        grouped = {name: Grouped.of(_texts(groups[name])) for name in sorted(groups)}
        return cls(
            {name: number for name, number in binned.items() if number is not None},
            {name: group for name, group in grouped.items() if group is not None},
        )

    @property
    def is_empty(self) -> bool:
        """Whether no covariate varies, so that only the intercept remains."""
        return not self.numbers and not self.groups

    def matrix(self, numbers: Numbers, groups: Groups) -> Doubles:
        """Return the columns for prompts, (prompts, columns); the first one is the intercept.

        Args:
            numbers: covariates of these prompts, among others all of the design.
            groups: covariates of these prompts, among others all of the design.

        Raises:
            KeyError: a covariate of the design is absent.
            ValueError: there is no covariate, so the number of prompts is unknown; covariates have
                different numbers of prompts; a number is NaN or infinite.
        """
        prompts = next((len(values) for values in [*numbers.values(), *groups.values()]), None)
        if prompts is None:
            raise ValueError("a design needs at least one covariate, even if it does not vary")
        columns: list[Doubles] = [np.ones((prompts, 1))]
        for name, number in self.numbers.items():
            columns.append(number.columns(_finite(name, numbers[name])))
        for name, group in self.groups.items():
            columns.append(group.columns(_texts(groups[name])))
        return np.concatenate(columns, axis=1)

    def to_arrays(self) -> dict[str, NDArray[np.float64] | NDArray[np.str_]]:
        """Return arrays of numbers and strings, which `np.savez` stores without pickling."""
        return {
            **{
                _NUMBER + name: np.array([number.mean, number.sd, *number.edges])
                for name, number in self.numbers.items()
            },
            **{
                (_WITH_OTHERS if group.others else _GROUP) + name: group.values
                for name, group in self.groups.items()
            },
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float64] | NDArray[np.str_]]) -> "Design":
        """Return the design of `to_arrays`; the order of the arrays does not matter."""
        numbers = _named(arrays, _NUMBER)
        groups = {
            name: Grouped(_texts(values), others)
            for prefix, others in ((_GROUP, False), (_WITH_OTHERS, True))
            for name, values in _named(arrays, prefix).items()
        }
        return cls(
            {
                name: Binned(float(mean), float(sd), np.array(edges, dtype=np.float64))
                for name, (mean, sd, *edges) in numbers.items()
            },
            dict(sorted(groups.items())),
        )


def fit(design: Doubles, values: Array) -> Doubles:
    """Return the least-squares coefficients of each neuron on the columns of a design.

    They are the solution with the smallest norm, so columns may depend on each other linearly.

    Args:
        design: (prompts, columns), as `Design.matrix` returns it.
        values: (prompts, neurons) activations of the same prompts.

    Returns:
        (columns, neurons).

    Raises:
        ValueError: a value is NaN or infinite, or there is no prompt or no neuron.
        numpy.linalg.LinAlgError: the numbers of prompts differ.
    """
    check_activations(values, "values")
    doubles: Doubles = values.astype(np.float64)
    return np.asarray(np.linalg.lstsq(design, doubles, rcond=None)[0], dtype=np.float64)


def residuals(design: Doubles, values: Array, coefficients: Doubles) -> Doubles:
    """Return what remains of activations after the regression, (prompts, neurons).

    Args:
        design: (prompts, columns) of any prompts, also others than those of the fit.
        values: (prompts, neurons) activations of these prompts.
        coefficients: (columns, neurons), from `fit`.
    """
    return np.asarray(values - design @ coefficients, dtype=np.float64)


def covariate_auroc(values: NDArray[np.number], members: NDArray[np.bool_]) -> Doubles:
    """Return the area under the ROC curve of one covariate as a detector of each topic.

    Args:
        values: (prompts,) the covariate, such as the number of tokens.
        members: (prompts, topics) whether each prompt belongs to each topic.

    Returns:
        (topics,), see `selectivity.auroc`; NaN if there is no prompt in the topic, or none outside.
    """
    column = np.asarray(values, dtype=np.float64)[:, None]
    return np.array([selectivity.auroc(column, topic)[0] for topic in members.T], dtype=np.float64)


def group_auroc(
    fit_groups: NDArray[np.str_],
    fit_members: NDArray[np.bool_],
    groups: NDArray[np.str_],
    members: NDArray[np.bool_],
) -> Doubles:
    """Return the area under the ROC curve of a group, such as the source, as a detector of topics.

    The score of a prompt is the share of the topic in the prompt's group, learned on other prompts.
    A group that those lack has the topic's share of all of them.

    Args:
        fit_groups: (fit prompts,) groups of the prompts from which the shares are learned.
        fit_members: (fit prompts, topics) whether each of them belongs to each topic.
        groups: (prompts,) groups of the prompts that are scored.
        members: (prompts, topics) whether each of them belongs to each topic.

    Returns:
        (topics,); NaN if there is no prompt in the topic, or none outside it.
    """
    known, fit_indices, counts = np.unique(fit_groups, return_inverse=True, return_counts=True)
    values, own = np.unique(groups, return_inverse=True)
    nearest = np.minimum(np.searchsorted(known, values), len(known) - 1)
    indices = np.where(known[nearest] == values, nearest, len(known))[own]
    areas = []
    for fit_topic, topic in zip(fit_members.T, members.T, strict=True):
        inside = np.bincount(fit_indices, weights=fit_topic, minlength=len(known))
        shares = np.append(inside / counts, fit_topic.mean())  # the last is that of other groups
        areas.append(selectivity.auroc(shares[indices][:, None], topic)[0])
    return np.array(areas, dtype=np.float64)


def q_values(p: Doubles) -> Doubles:
    """Return p-values adjusted for the false discovery rate over all of them together.

    Selecting those with q <= .05 keeps the expected share of false discoveries at .05 or below, if
    the tests are independent or positively dependent (Benjamini & Hochberg 1995, JRSS B 57).

    Args:
        p: p-values of any shape; NaN stands for a test that could not be computed.

    Returns:
        q-values of the same shape; NaN stays NaN.

    Raises:
        ValueError: a p-value is not between 0 and 1.
    """
    from scipy.stats import false_discovery_control

    computed = ~np.isnan(p)
    q = np.full(p.shape, np.nan)
    if computed.any():
        q[computed] = false_discovery_control(p[computed], method="bh")
    return q


def _finite(name: str, values: NDArray[np.number] | NDArray[np.bool_]) -> Doubles:
    """Return a covariate as float64; raise ValueError unless all values are finite."""
    finite = np.asarray(values, dtype=np.float64)
    if not np.isfinite(finite).all():
        raise ValueError(f"covariate '{name}' has NaN or infinite values")
    return finite


def _texts(values: NDArray[Any]) -> NDArray[np.str_]:
    return np.asarray(values, dtype=np.str_)


def _named(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names start with a prefix, by the rest of the name, in order."""
    names = sorted(name for name in arrays if name.startswith(prefix))
    return {name.removeprefix(prefix): arrays[name] for name in names}
