"""Result of an atlas: what the database says of each topic, and of each topic and layer."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from neuroscope.labels import counted, short_model, short_repr
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.tables import rows_to_frame
from neuroscope.studies.study import Shown

if TYPE_CHECKING:
    import pandas as pd

METRICS = {
    metric.name: metric
    for metric in (
        Metric("selective", "selective", "number of neurons that respond to the topic"),
        Metric(
            "confounded",
            "confounded",
            "number of neurons that seem to respond to the topic, but that length, punctuation or"
            " source explain",
        ),
        Metric(
            "best_auroc",
            "AUROC",
            "held-out AUROC of the best neuron; 1 - AUROC if it is silent on the topic",
            "high",
            axis="AUROC of the best neuron",
            digits=3,
        ),
        Metric(
            "direction_auroc",
            "direction",
            "held-out AUROC of the difference of means, which reads all neurons of a layer",
            "high",
            axis="AUROC of the direction",
            digits=3,
        ),
        Metric(
            "covariate_auroc",
            "covariate",
            "held-out AUROC of the best covariate: length, punctuation, digits, capitals, source",
            digits=3,
        ),
        Metric("overlap", "overlap", "neurons of both topics / neurons of either", digits=2),
    )
}
"""Name -> metric of the rows, the tables and the figures."""


@dataclass(frozen=True)
class AtlasRow:
    """Neurons and direction of one layer for one topic."""

    layer: int
    topic: str
    selective: int
    """Number of neurons that respond to the topic and are not confounded."""
    confounded: int
    best_neuron: str
    """Neuron that is best in the selection half."""
    best_auroc: float
    """Its AUROC in the held-out half; for a silent neuron, 1 minus the AUROC."""
    direction_auroc: float


@dataclass(frozen=True)
class TopicRow:
    """Covariates and neurons of all layers for one topic."""

    topic: str
    prompts: int
    covariate: str
    """Covariate that separates the topic best."""
    covariate_auroc: float
    reason: str
    """What the topic is not separable from; empty if it is separable."""
    selective: int
    confounded: int
    best_neuron: str
    """Neuron that is best in the selection half."""
    silent: bool
    """Whether the best neuron is silent on the topic, rather than active."""
    best_auroc: float
    """Its AUROC in the held-out half; for a silent neuron, 1 minus the AUROC."""
    best_ap: float
    """Average precision of the best neuron in the held-out half."""
    share: float
    """Share of the topic among the held-out prompts; chance level of average precision."""


@dataclass(frozen=True, eq=False)
class AtlasResult(Shown):
    """Result of an atlas of one model; the database has every neuron.

    >>> (result,) = ns.run_atlas(ns.load_experiment("experiments/atlas.yaml"))
    >>> with ns.Atlas.open(result.atlas) as atlas:
    ...     atlas.neurons("sport")
    """

    kind: ClassVar[str] = "atlas"

    model: str
    component: str
    atlas: str
    """Path of the database."""
    prompts: int
    neurons: int
    topics: tuple[TopicRow, ...]
    rows: tuple[AtlasRow, ...]
    overlap: tuple[tuple[float, ...], ...]
    """(topics, topics) neurons of both topics / neurons of either; NaN where there are none."""
    headline: str
    notes: tuple[str, ...] = ()
    run_id: str | None = None

    def __repr__(self) -> str:
        counts = f"{counted(self.neurons, 'neuron')}, {counted(self.prompts, 'prompt')}"
        source = f"{short_model(self.model)}, {self.component}"
        return short_repr(self, f"{source}, {counts}: {self.headline}")

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the atlas, in order."""
        return tuple(dict.fromkeys(row.layer for row in self.rows))

    def of_topic(self, topic: str, name: str) -> list[float]:
        """Return a field of the rows of a topic, by layer."""
        return [getattr(row, name) for row in self.rows if row.topic == topic]

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per topic and layer."""
        return rows_to_frame(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values: an entry of `runs` in the JSON document."""
        return {
            "run_id": self.run_id,
            "model": self.model,
            "site": self.component,
            "atlas": self.atlas,
            "prompts": self.prompts,
            "neurons": self.neurons,
            "headline": self.headline,
            "notes": list(self.notes),
            "topics": [asdict(row) for row in self.topics],
            "rows": [asdict(row) for row in self.rows],
            "overlap": [list(row) for row in self.overlap],
        }
