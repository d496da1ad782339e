"""Ablation of neurons on one topic: the passes, and the statistics of their effects."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.models import Model
from neuroscope.extraction.silenced_outputs import Measure, SilencedOutputs, token_moments
from neuroscope.extraction.silencing import Replacement
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles
from neuroscope.stats.paired import bootstrap_counts
from neuroscope.studies.atlas.ablation_result import AblationRow, Mode, Verdict
from neuroscope.studies.atlas.controls import matched_controls
from neuroscope.studies.atlas.topic_prompts import TopicPrompts
from neuroscope.studies.atlas.topics import Flags

if TYPE_CHECKING:
    import pandas as pd

Neurons = tuple[int, ...]
"""Numbers of neurons that are silenced together."""

_MOST_P = 0.05
_LEAST_ELSEWHERE = 0.5  # change off the topic, as a share of that on it, of a general neuron
_GENERAL_SHARE = 0.95
_RESAMPLES = 2000
_RANGE = 2.5  # standard deviations


@dataclass(frozen=True, eq=False)
class TopicAblation:
    """Neurons that are tested on one topic, their controls, and the prompts."""

    topic: str
    drawn: TopicPrompts
    neurons: "pd.DataFrame"
    """Neurons from `neurons_in`, of all layers of those that are tested."""
    controls: Mapping[Neurons, NDArray[np.int64]]
    """Tested neurons -> (sets, neurons) numbers of their controls."""
    seed: int

    @classmethod
    def of(
        cls,
        topic: str,
        drawn: TopicPrompts,
        neurons: "pd.DataFrame",
        tested: Sequence[Sequence[str]],
        controls: int,
        seed: int,
    ) -> "TopicAblation":
        """Match the controls of each set of neurons that is tested.

        Raises:
            ExperimentError: a layer has too few neurons.
        """
        numbers = dict(zip(neurons["name"], neurons.index.tolist(), strict=True))
        sets = [tuple(numbers[name] for name in names) for names in tested]
        matched = {own: matched_controls(neurons, own, controls, seed) for own in sets}
        return cls(topic, drawn, neurons, matched, seed)

    def sets(self) -> list[Neurons]:
        """Return all sets of neurons that are silenced, each once, by their first layer."""
        everything = dict.fromkeys(self.controls)
        for rows in self.controls.values():
            everything |= dict.fromkeys(tuple(row) for row in rows.tolist())
        layers = self.neurons["layer"].to_dict()
        return sorted(everything, key=lambda own: min(layers[number] for number in own))

    def run(
        self,
        model: Model,
        mode: Mode,
        *,
        truncate: bool,
        advance: Callable[[], None],
    ) -> list[AblationRow]:
        """Silence every set of neurons, and return the effects of those that are tested.

        Args:
            model: model, a causal one with its head.
            mode: what replaces a neuron.
            truncate: whether to cut prompts at the model's limit.
            advance: function that is called after each set.
        """
        replaced = self._replaced(model, mode, truncate)
        outputs = SilencedOutputs(model, self.drawn.prompts, truncate=truncate)
        changes: dict[Neurons, Doubles] = {}
        for own in self.sets():
            changes[own] = outputs.change(_replacements(replaced.loc[list(own)]))
            advance()
        return [
            self._row(own, changes[own], self._stacked(changes, own), outputs.measure, mode)
            for own in self.controls
        ]

    def _stacked(self, changes: Mapping[Neurons, Doubles], own: Neurons) -> Doubles:
        """Return the changes of the controls of a set, (controls, prompts)."""
        return np.array([changes[tuple(row)] for row in self.controls[own].tolist()])

    def _replaced(self, model: Model, mode: Mode, truncate: bool) -> "pd.DataFrame":
        """Return the neurons with what replaces them, and where: `value`, `low` and `high`."""
        value = 0.0 if mode == "zero" else self.neurons["mean"]
        neurons = self.neurons.assign(value=value, low=-np.inf, high=np.inf)
        if mode != "range":
            return neurons
        used = neurons.loc[sorted({number for own in self.sets() for number in own})]
        units = {_site(part): part["unit"].to_numpy(np.int64) for _, part in used.groupby("layer")}
        moments = token_moments(model, self.drawn.selecting, units, truncate=truncate)
        for site, part in moments.items():
            rows = used.index[used["layer"] == site.layer]
            neurons.loc[rows, "low"] = part.mean - _RANGE * part.sd
            neurons.loc[rows, "high"] = part.mean + _RANGE * part.sd
        return neurons

    def _row(
        self, own: Neurons, change: Doubles, others: Doubles, measure: Measure, mode: Mode
    ) -> AblationRow:
        """Return the effect of a set of neurons.

        Args:
            own: the neurons.
            change: (prompts,) change when they are silenced.
            others: (controls, prompts) changes when the controls are silenced.
            measure, mode: for the row.
        """
        on = self.drawn.on
        controls = others[:, on].mean(axis=1) - others[:, ~on].mean(axis=1)
        raw = change[on].mean() - change[~on].mean()
        p = (1 + int((controls >= raw).sum())) / (1 + len(controls))
        low, high = _interval(change - others.mean(axis=0), on, self.seed)
        verdict: Verdict = "confirmed" if p < _MOST_P and low > 0 else "not confirmed"
        if _is_general(change, others, self.drawn.members, on):
            verdict = "general"
        return AblationRow(
            ", ".join(self.neurons.loc[list(own), "name"]),
            self.topic,
            verdict,
            float(raw - controls.mean()),
            low,
            high,
            p,
            float(change[on].mean()),
            float(change[~on].mean()),
            float(controls.mean()),
            int(on.sum()),
            len(controls),
            measure,
            mode,
        )


def _replacements(neurons: "pd.DataFrame") -> dict[Site, Replacement]:
    """Return what replaces some neurons, by site."""
    return {
        _site(part): Replacement.of(part["unit"], part["value"], low=part["low"], high=part["high"])
        for _, part in neurons.groupby("layer")
    }


def _site(neurons: "pd.DataFrame") -> Site:
    """Return the site of neurons that are all of one layer."""
    return Site.parse(str(neurons["name"].iloc[0]).rpartition(".")[0])


def _interval(excess: Doubles, on: Flags, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of mean(on topic) - mean(off topic).

    Prompts on and off the topic are drawn separately (Efron & Tibshirani 1993, chapter 13). The
    controls are not drawn: the interval says how far the effect depends on the prompts.
    """
    means = []
    for number, values in enumerate((excess[on], excess[~on])):
        counts = bootstrap_counts(len(values), _RESAMPLES, 2 * seed + number)
        means.append(counts @ values / len(values))
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975]).tolist()
    return low, high


def _is_general(change: Doubles, others: Doubles, members: Flags, on: Flags) -> bool:
    """Return whether silencing hurts the prompts of every topic more than 95 % of the controls do.

    Where the controls change almost nothing, a tiny change would suffice. The change off the topic
    must therefore also be at least half of that on the topic.

    Args:
        change: (prompts,) change.
        others: (controls, prompts) changes of the controls.
        members: (prompts, topics) whether a prompt is on a topic.
        on: (prompts,) whether a prompt is on the topic.
    """
    if change[~on].mean() < change[on].mean() * _LEAST_ELSEWHERE:
        return False
    if not members.any(axis=0).all():
        return False
    weights = members / members.sum(axis=0)
    own, controls = change @ weights, others @ weights  # (topics,), (controls, topics)
    return bool(((own > 0) & ((controls < own).mean(axis=0) > _GENERAL_SHARE)).all())
