"""Neurons that respond to a topic by construction, among many that do not, through the atlas."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables import table
from benchmarks.validation.outcome import Outcome, figure, met
from neuroscope.reporting.tables import NO_VALUE
from neuroscope.stats.confounds import Design, q_values
from neuroscope.studies.atlas.counts import Context, SiteCounts
from neuroscope.studies.atlas.experiment import AtlasExperiment, atlas_experiment
from neuroscope.studies.atlas.measures import selectivity_of, verdicts_of
from neuroscope.studies.atlas.pilot import site_pilot
from neuroscope.studies.atlas.topics import TopicIndex

NEURONS, PLANTED, TOPICS, PROMPTS = 4096, 60, 5, 1000
SHIFT = 1.5
"""Standard deviations by which planted neurons are more active on the first topic."""
_MOST_Q = 0.05
_SETTINGS = {"texts": ["one", "two"]}  # of an experiment; its prompts are not read


@dataclass(frozen=True)
class Draw:
    """What the atlas says of one draw."""

    found: int
    """Planted neurons that are selective for their topic."""
    false: int
    """Entries of other neurons that are selective."""
    rejected: int
    """Entries with q < .05."""
    wrong: int
    """Those of them that are of other neurons."""

    @property
    def false_discoveries(self) -> float:
        """Share of the entries with q < .05 that are of neurons that are not planted."""
        return self.wrong / max(self.rejected, 1)


def draw(seed: int, *, shuffled: bool = False) -> Draw:
    """Plant neurons, count and judge them as a build does.

    Args:
        seed: seed of values, topics and halves.
        shuffled: whether the labels are shuffled after the values are drawn.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, TOPICS, PROMPTS)
    values = rng.standard_normal((PROMPTS, NEURONS), dtype=np.float32)
    values[labels == 0, :PLANTED] += SHIFT
    topics = _index(rng.permutation(labels) if shuffled else labels, rng)
    selective, q = _judge(values, topics, rng)
    planted = np.zeros_like(selective)
    planted[:PLANTED, 0] = not shuffled
    # entries of a planted neuron and another topic are true, too: it is less active there
    others = np.ones_like(planted)
    others[:PLANTED] = shuffled
    rejected = q < _MOST_Q
    return Draw(
        int((selective & planted).sum()),
        int((selective & others).sum()),
        int(rejected.sum()),
        int((rejected & others).sum()),
    )


def _index(labels: NDArray[np.int64], rng: np.random.Generator) -> TopicIndex:
    """Return what an atlas knows of prompts with these topics, whose surface means nothing."""
    return TopicIndex(
        tuple(f"topic {number}" for number in range(TOPICS)),
        labels[:, None] == np.arange(TOPICS),
        rng.random(PROMPTS) < 0.5,
        rng.integers(0, 2**63, PROMPTS).astype(np.uint64),
        {"digits": rng.random(PROMPTS)},
        np.full(PROMPTS, ""),
        "prompt",
        (),
    )


def _judge(
    values: NDArray[np.float32], topics: TopicIndex, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which entries are selective, and their q-values, both (neurons, topics)."""
    experiment: AtlasExperiment = atlas_experiment("planted", ["minilm"], _SETTINGS)
    numbers = {"tokens": rng.integers(5, 50, PROMPTS).astype(np.float64), **topics.numbers}
    chosen = topics.pilot(experiment.pilot)
    design = Design.of({name: column[chosen] for name, column in numbers.items()}, {})
    matrix = design.matrix(numbers, {})
    counts = SiteCounts.of(
        values,
        np.zeros(values.shape, dtype=np.int32),
        np.arange(PROMPTS),
        matrix,
        Context(topics, 1, np.array([0])),
        site_pilot(values[chosen], matrix[chosen], 1),
    )
    measured = selectivity_of(counts, topics)
    q = q_values(measured.p)
    shares = topics.members[topics.heldout].mean(axis=0)
    separable = np.ones(TOPICS, dtype=bool)
    return verdicts_of(measured, q, shares, separable, experiment).selective, q


def measure(draws: int) -> Outcome:
    """Return what the atlas finds in draws with planted neurons, and with shuffled labels."""
    planted = [draw(seed) for seed in range(draws)]
    shuffled = [draw(seed, shuffled=True) for seed in range(draws)]
    return outcome(planted, shuffled)


def outcome(planted: Sequence[Draw], shuffled: Sequence[Draw]) -> Outcome:
    """Return the table, and the properties that do not hold."""
    rates = np.array([one.false_discoveries for one in planted])
    error = rates.std(ddof=1) / np.sqrt(len(rates))
    rows = [
        ["planted", *_cells(planted), f"{rates.mean():.3f} ± {error:.3f}"],
        ["shuffled labels", *_cells(shuffled), NO_VALUE],
    ]
    properties = {
        f"all {PLANTED} planted neurons are found in every draw": all(
            one.found == PLANTED for one in planted
        ),
        "no other entry is selective in any draw": not any(
            one.false for one in (*planted, *shuffled)
        ),
        "false discoveries are at most .05, within two standard errors": rates.mean() - 2 * error
        <= _MOST_Q,
    }
    header = ("labels", "planted neurons found", "others selected", "false discoveries, q < .05")
    lines = [met(sentence, bool(holds)) for sentence, holds in properties.items()]
    text = f"{len(planted)} draws of {PROMPTS:,} prompts and {NEURONS:,} neurons."
    return Outcome(
        "\n\n".join([table(header, rows), "\n".join(lines), text]),
        tuple(sentence for sentence, holds in properties.items() if not holds),
    )


def _cells(draws: Sequence[Draw]) -> list[str]:
    """Return the mean number of planted and of other selective entries per draw."""
    return [
        figure(float(np.mean([getattr(one, name) for one in draws]))) for name in ("found", "false")
    ]
