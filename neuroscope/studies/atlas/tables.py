"""Tables for the queries of an atlas: topics, neurons, searches, and changes between two."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.storage.atlas_schema import COVARIATES

if TYPE_CHECKING:
    import pandas as pd

    from neuroscope.studies.atlas.changes import AtlasChanges

TOPIC = Column("topic")
NEURON = Column("neuron")
AREA = Column("AUROC", meaning="held-out", digits=3)
PARTIAL = Column("partial", meaning="AUROC after removing the covariates", digits=3)
PRECISION = Column("AP", meaning="held-out average precision", digits=3)
ONE_VS_ONE = Column("one vs one", meaning="AUROC against the rival", digits=3)
RIVAL = Column("rival", meaning="the topic that is hardest to tell apart")
D = Column("d", meaning="difference of the means in standard deviations", digits=2)
Q = Column("q", meaning="Benjamini-Hochberg adjusted p-value", digits=3, tiny=True)
VERDICT = Column("verdict")


def topics_table(frame: "pd.DataFrame") -> Table:
    """Return the topics of an atlas, with the AUROC of each covariate and the number of neurons.

    Args:
        frame: `Atlas.topics()`.
    """
    covariates = [name for name in COVARIATES if frame[name].notna().any()]
    inseparable = [Column("not separable from")] if frame["reason"].any() else []
    columns = [
        TOPIC,
        Column("prompts"),
        Column("held out", meaning="prompts in the held-out half"),
        Column("share", meaning="of the held-out prompts", digits=3),
        *(Column(covariate_name(name), digits=3) for name in covariates),
        *inseparable,
        Column("selective", meaning="neurons"),
        Column("confounded", meaning="neurons that length, punctuation or source explain"),
    ]
    rows = [
        [
            *(row["name"], row["prompts"], row["prompts_heldout"], row["share"]),
            *(row[name] for name in covariates),
            *([row["reason"]] if inseparable else []),
            *(row["selective"], row["confounded"]),
        ]
        for row in plain_records(frame)
    ]
    title = "Topics, with the AUROC of each covariate"
    return Table(title, columns, [Section("", rows)])


def covariate_name(covariate: str) -> str:
    """Return the name of a covariate, in words.

    >>> covariate_name("tokens"), covariate_name("question_mark")
    ('length', 'question mark')
    """
    return covariate.replace("tokens", "length").replace("_", " ")


def inseparable(topic: str, reason: str) -> str:
    """Return a clause that says from what a topic is not separable.

    >>> inseparable("Banking", "length and source")
    "the topic 'Banking' is not separable from length and source in these data"
    """
    return f"the topic '{topic}' is not separable from {reason} in these data"


def neurons_table(frame: "pd.DataFrame") -> Table:
    """Return neurons with a topic each.

    Args:
        frame: `Atlas.neurons()`.
    """
    columns = [
        *(NEURON, TOPIC, AREA, Column("±", meaning="largest error of the AUROC", digits=3)),
        Column("selection", meaning="AUROC in the selection half", digits=3),
        *(PARTIAL, PRECISION, ONE_VS_ONE, RIVAL, D, Q, VERDICT),
    ]
    rows: list[list[Any]] = [
        [
            *(row["neuron"], row["topic"], row["auroc_heldout"], row["auroc_error"]),
            *(row["auroc"], row["partial_auroc"], row["ap_heldout"], row["one_vs_one"]),
            *(row["rival"], row["d"], row["q"], verdict(row)),
        ]
        for row in plain_records(frame)
    ]
    notes = [] if rows else ["No neuron meets these conditions."]
    return Table("Neurons", columns, [Section("", rows)], notes)


def verdict(entry: Mapping[str, Any]) -> str:
    """Return what an entry says about a neuron and a topic, in words."""
    if not entry["selective"]:
        return ""
    responds = "active" if entry["polarity"] > 0 else "silent"
    verdict = "confounded" if entry["confounded"] else responds
    verified = entry["verified"]
    return f"{verdict}, {verified}" if isinstance(verified, str) else verdict


def search_table(frame: "pd.DataFrame", text: str) -> Table:
    """Return the neurons that respond unusually to a text.

    Args:
        frame: what `search_text` returned.
        text: text that was searched.
    """
    columns = [
        NEURON,
        Column("value", digits=3),
        Column("z", meaning="distance from the mean of the prompts, in sd", digits=1),
        Column("peak at"),
        Column("selective for"),
    ]
    names = ("neuron", "value", "z", "token", "topics")
    rows = [[row[name] for name in names] for row in plain_records(frame)]
    title = f"Neurons that respond unusually to {text!r}"
    return Table(title, columns, [Section("", rows)])


def changes_tables(changes: "AtlasChanges", top: int) -> tuple[Table, Table]:
    """Return what differs between two atlases, by topic and by neuron.

    Args:
        changes: the changes.
        top: maximum number of neurons.
    """
    counts = ("old", "new", "kept", "lost", "gained")
    entries = ("auroc_old", "auroc_new", "change")
    by_topic = Table(
        "Selective neurons by topic",
        [TOPIC, *map(Column, counts), Column("mean change", meaning="of the AUROC", digits=3)],
        [Section("", _rows(changes.topics, ("topic", *counts, "mean_change")))],
        [f"Note: {note}." for note in changes.notes],
    )
    areas = [Column(name, "AUROC", digits=3) for name in ("old", "new", "change")]
    by_neuron = Table(
        "Neurons that changed most",
        [NEURON, TOPIC, *areas, Column("state")],
        [Section("", _rows(changes.neurons.head(top), ("neuron", "topic", *entries, "state")))],
        [] if len(changes.neurons) else ["No neuron changed."],
    )
    return by_topic, by_neuron


def _rows(frame: "pd.DataFrame", names: Sequence[str]) -> list[list[Any]]:
    """Return some columns of a data frame as rows of cells."""
    return [[row[name] for name in names] for row in plain_records(frame)]


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a data frame as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def plain_records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a data frame as values of Python; None where a value is missing."""
    return [{name: plain_value(value) for name, value in row.items()} for row in records(frame)]


def plain_value(value: Any) -> Any:
    """Return a value of pandas or NumPy as one of Python."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain_value(item) for item in value]
    if isinstance(value, dict):
        return {name: plain_value(item) for name, item in value.items()}
    import pandas as pd

    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
