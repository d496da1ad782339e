"""Changes between two atlases: which neurons gained, lost or changed a topic."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from neuroscope.errors import ExperimentError
from neuroscope.storage.atlas_file import Atlas

if TYPE_CHECKING:
    import pandas as pd

_ENTRIES = """
SELECT n.name AS neuron, t.name AS topic, s.auroc_heldout AS auroc, s.auroc_error AS error,
    s.selective AND NOT s.confounded AS selective
FROM selectivity s JOIN neuron n USING (neuron) JOIN topic t USING (topic)
WHERE t.name = coalesce(?, t.name)
"""

_THRESHOLDS = ("min_auroc", "min_lift", "min_one_vs_one", "max_q")


@dataclass(frozen=True)
class AtlasChanges:
    """What differs between the atlases of two versions of a model."""

    topics: "pd.DataFrame"
    """One row per topic: `old` and `new` number of selective neurons, how many are `kept`, `lost`
    and `gained`, and the mean absolute change of the AUROC of those selective in either."""
    neurons: "pd.DataFrame"
    """One row per neuron and topic selective in either, the largest change first: `auroc_old`,
    `auroc_new`, `change`, and `state` (kept, lost or gained). Entries that are equal in both are
    left out."""
    notes: tuple[str, ...] = ()
    """Sentences on what the atlases do not share: prompts, topics and settings."""


def atlas_changes(old: Atlas, new: Atlas, topic: str | None = None) -> AtlasChanges:
    """Compare two atlases of the same component, neuron by neuron.

    Neurons are matched by name and topics by name. Confounded entries are not counted.

    Args:
        old, new: open atlases.
        topic: name of a topic; by default all topics that both have.

    Raises:
        ExperimentError: the atlases describe other layers, components or numbers of neurons, or
            share no topic.
    """
    _check_alike(old, new)
    if topic is not None:
        old.check_topic(topic)
        new.check_topic(topic)
    first, second = (atlas.sql(_ENTRIES, [topic]) for atlas in (old, new))
    both = first.merge(second, on=["neuron", "topic"], suffixes=("_old", "_new"))
    if both.empty:
        raise ExperimentError("the two atlases share no topic", remedy="use the same topics")
    both = both[both["selective_old"] | both["selective_new"]]
    both = both.assign(change=both["auroc_new"] - both["auroc_old"], state=_states(both))
    changed = both[(both["change"] != 0) | (both["state"] != "kept")]
    order = changed["change"].abs().sort_values(ascending=False, kind="stable").index
    columns = ["neuron", "topic", "auroc_old", "auroc_new", "change", "state"]
    neurons = changed.loc[order, columns].reset_index(drop=True)
    return AtlasChanges(_by_topic(both), neurons, tuple(_unshared(old, new)))


def _unshared(old: Atlas, new: Atlas) -> Iterator[str]:
    """Yield a sentence on each thing, other than the model, in which two atlases differ."""
    first, second = (atlas.model() for atlas in (old, new))
    if first["prompts_digest"] != second["prompts_digest"]:
        yield "the prompts differ, so changes need not be changes of the model"
    names = [atlas.topics()["name"].tolist() for atlas in (old, new)]
    for whose, own, others in (("old", *names), ("new", *names[::-1])):
        if missing := [repr(name) for name in own if name not in others]:
            plural = "s" * (len(missing) > 1)
            yield f"only the {whose} atlas has the topic{plural} {', '.join(missing)}"
    for setting in ("pool", "dtype", "attention", *_THRESHOLDS):
        if first[setting] != second[setting]:
            yield f"{setting} differs: {first[setting]} and {second[setting]}"


def _check_alike(old: Atlas, new: Atlas) -> None:
    """Raise ExperimentError unless two atlases describe neurons of the same names."""
    layers = [atlas.layers for atlas in (old, new)]
    if layers[0] != layers[1]:
        described = " and ".join(_layers_text(each) for each in layers)
        raise ExperimentError(
            f"the atlases describe different layers: {described}",
            remedy="compare atlases of two versions of one model, built with the same layers",
        )
    count = "SELECT component, count(*) AS neurons FROM neuron GROUP BY component"
    shapes = [atlas.sql(count).iloc[0].to_dict() for atlas in (old, new)]
    if shapes[0] != shapes[1]:
        described = " and ".join(
            f"{shape['neurons']:,} neurons of {shape['component']}" for shape in shapes
        )
        raise ExperimentError(
            f"the atlases describe {described}",
            remedy="compare atlases of two versions of one model, at the same site and layers",
        )


def _layers_text(layers: Sequence[int]) -> str:
    """Return layers in ascending order as text.

    >>> _layers_text([0]), _layers_text([0, 1, 2]), _layers_text([0, 2])
    ('layer 0', 'layers 0-2', 'layers 0, 2')
    """
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if layers[-1] - layers[0] == len(layers) - 1:
        return f"layers {layers[0]}-{layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"


def _states(both: "pd.DataFrame") -> "pd.Series[str]":
    """Return whether an entry was kept, lost or gained."""
    kept = both["selective_old"] & both["selective_new"]
    lost = both["selective_old"] & ~both["selective_new"]
    return kept.map({True: "kept"}).where(kept, lost.map({True: "lost", False: "gained"}))


def _by_topic(both: "pd.DataFrame") -> "pd.DataFrame":
    """Return one row per topic."""
    groups = both.groupby("topic")
    return groups.agg(
        old=("selective_old", "sum"),
        new=("selective_new", "sum"),
        kept=("state", lambda states: (states == "kept").sum()),
        lost=("state", lambda states: (states == "lost").sum()),
        gained=("state", lambda states: (states == "gained").sum()),
        mean_change=("change", lambda changes: changes.abs().mean()),
    ).reset_index()
