"""Result of ablation: the effect of each neuron on a topic, with its verdict."""

import datetime
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from neuroscope.extraction.silenced_outputs import Measure
from neuroscope.labels import counted
from neuroscope.reporting.tables import Cell, Column, Section, Table
from neuroscope.storage.atlas_verifying import Verification

if TYPE_CHECKING:
    import pandas as pd

Mode = Literal["mean", "zero", "range"]
Verdict = Literal["confirmed", "not confirmed", "general"]

UNITS: dict[Measure, str] = {
    "loss": "nats per token",
    "representation": "units of the spread of the final representations",
}
"""Measure -> the unit of its changes."""


@dataclass(frozen=True)
class AblationRow:
    """Effect of silencing one neuron, or several together, on one topic.

    `effect` is `on_topic` - `off_topic` - `control`, in the unit of `measure`.
    """

    neuron: str
    """Name of the neuron, or the names of several, separated by commas."""
    topic: str
    verdict: Verdict
    effect: float
    """Change on the topic beyond that off it, and beyond that of control neurons."""
    low: float
    """Lower limit of the 95 % interval of the effect."""
    high: float
    """Upper limit of the interval."""
    p: float
    """Share of the sets of neurons, the tested one included, whose effect is at least as large."""
    on_topic: float
    """Mean change over the prompts on the topic."""
    off_topic: float
    """Mean change over the prompts off the topic."""
    control: float
    """Mean over the control sets of their change on the topic less that off it."""
    prompts: int
    """Number of prompts on the topic, and of those off it."""
    controls: int
    """Number of sets of control neurons."""
    measure: Measure
    """What changes: the `loss`, or the final `representation`."""
    mode: Mode
    """What replaces the neuron."""

    @property
    def neurons(self) -> tuple[str, ...]:
        """Names of the neurons that are silenced together."""
        return tuple(self.neuron.split(", "))


@dataclass(frozen=True)
class AblationResult:
    """Effects of silencing neurons on topics."""

    rows: tuple[AblationRow, ...]
    notes: tuple[str, ...] = ()
    """Sentences on topics that are not separable in the prompts."""

    @property
    def tested(self) -> str:
        """Neuron that was tested, or the topic whose neurons were."""
        own = {row.neuron for row in self.rows}
        return own.pop() if len(own) == 1 else self.rows[0].topic

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per topic and neuron or set of neurons; columns as in `AblationRow`."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def verifications(self) -> list[Verification]:
        """Return the verdicts on single neurons, as an atlas stores them."""
        return [
            Verification(row.neuron, row.topic, row.verdict, row.effect, row.low, row.high, row.p)
            for row in self.rows
            if len(row.neurons) == 1
        ]

    @property
    def headline(self) -> str:
        """Sentence on how many single neurons are confirmed."""
        single = [row for row in self.rows if len(row.neurons) == 1]
        confirmed = sum(row.verdict == "confirmed" for row in single)
        topics = ", ".join(f"'{name}'" for name in dict.fromkeys(row.topic for row in single))
        return f"{confirmed} of {counted(len(single), 'neuron')} confirmed by ablation on {topics}."

    def note(self) -> str:
        """Return a sentence on how the neurons were tested, for the notes of an atlas."""
        first, count = self.rows[0], len(self.verifications())
        day = datetime.datetime.now(datetime.UTC).date()
        topics = ", ".join(f"'{name}'" for name in dict.fromkeys(row.topic for row in self.rows))
        return (
            f"neurons tested by ablation on {day}: {count} on {topics} (mode {first.mode},"
            f" {first.controls} controls, {first.prompts} prompts on the topic; effects in"
            f" {UNITS[first.measure]})"
        )


def ablation_table(result: AblationResult) -> Table:
    """Return the effects as a table; a set of neurons silenced together is one row."""
    columns = [
        Column("neuron"),
        Column("topic"),
        Column("verdict"),
        Column("effect", meaning="beyond other topics and control neurons"),
        Column("from", "95 % interval"),
        Column("to", "95 % interval"),
        Column("p", meaning="share of control neurons with at least this effect", digits=3),
        Column("on topic", "change"),
        Column("off topic", "change"),
        Column("controls", "change", "of control neurons, on the topic less off it"),
        Column("prompts", meaning="on the topic, and as many off it"),
        Column("control sets"),
    ]
    rows: list[list[Cell]] = [
        [
            *(_label(row), row.topic, row.verdict, row.effect, row.low, row.high, row.p),
            *(row.on_topic, row.off_topic, row.control, row.prompts, row.controls),
        ]
        for row in result.rows
    ]
    first = result.rows[0]
    title = f"Change of the {first.measure} when neurons are silenced ({first.mode})"
    notes = [
        f"Changes are in {UNITS[first.measure]}. Effects are lower bounds, as later layers"
        " compensate for what is silenced.",
        *result.notes,
    ]
    return Table(title, columns, [Section("", rows)], notes)


def _label(row: AblationRow) -> str:
    count = len(row.neurons)
    return row.neuron if count == 1 else f"all {count} together"
