"""Summary of a database: the result of an atlas, and the tables that readers see first."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.storage.atlas_file import Atlas
from neuroscope.studies.atlas.result import METRICS, AtlasResult, AtlasRow, TopicRow
from neuroscope.studies.atlas.tables import covariate_name, inseparable, records

_TOPIC = """
SELECT t.name AS topic, t.prompts, t.share, t.reason, t.selective, t.confounded,
    n.name AS best_neuron, s.polarity, s.auroc_heldout, s.ap_heldout AS best_ap
FROM topic t JOIN (
    SELECT e.*, row_number() OVER (
        PARTITION BY e.topic ORDER BY
            CASE WHEN e.polarity > 0 THEN e.auroc ELSE 1 - e.auroc END DESC NULLS LAST, e.neuron
    ) AS place
    FROM selectivity e JOIN direction d ON d.topic = e.topic AND d.best_neuron = e.neuron
) s ON s.topic = t.topic AND s.place = 1
JOIN neuron n ON n.neuron = s.neuron ORDER BY t.topic
"""
_BEST_COVARIATE = """
SELECT name, auroc, abs(auroc - 0.5) + 0.5 AS reached FROM covariate WHERE topic = ?
ORDER BY reached DESC NULLS LAST, name LIMIT 1
"""
_LAYER = """
SELECT d.layer, t.name AS topic, c.selective, c.confounded, b.name AS best_neuron,
    d.best_auroc, d.auroc_heldout AS direction_auroc
FROM direction d JOIN topic t USING (topic) JOIN neuron b ON b.neuron = d.best_neuron
JOIN (
    SELECT n.layer, s.topic, count(*) FILTER (s.selective AND NOT s.confounded) AS selective,
        count(*) FILTER (s.confounded) AS confounded
    FROM selectivity s JOIN neuron n USING (neuron) GROUP BY ALL
) c ON c.layer = d.layer AND c.topic = d.topic
ORDER BY d.layer, d.topic
"""
_PAIRS = """
SELECT a.topic AS first, b.topic AS second, count(*) AS shared
FROM selectivity a JOIN selectivity b USING (neuron)
WHERE a.selective AND b.selective GROUP BY ALL
"""


def atlas_result(path: Path, model: str) -> AtlasResult:
    """Return the result that a database holds.

    Args:
        path: database.
        model: name of the model, as given.
    """
    with Atlas.open(path) as atlas:
        row = atlas.model()
        topics = _topics(atlas)
        layers = records(atlas.sql(_LAYER))
        return AtlasResult(
            model=model,
            component=row["component"],
            atlas=str(path),
            prompts=row["prompts"],
            neurons=int(atlas.sql("SELECT count(*) AS n FROM neuron")["n"][0]),
            topics=topics,
            rows=tuple(AtlasRow(**row) for row in layers),
            overlap=_overlap(atlas, len(topics)),
            headline=_headline(topics),
            notes=tuple(row["notes"]),
        )


def _topics(atlas: Atlas) -> tuple[TopicRow, ...]:
    """Return a row per topic, with its best neuron in the selection half."""
    rows = []
    for number, row in enumerate(records(atlas.sql(_TOPIC))):
        covariate = atlas.sql(_BEST_COVARIATE, [number]).iloc[0]
        area = row.pop("auroc_heldout")
        silent = row.pop("polarity") < 0
        rows.append(
            TopicRow(
                **row,
                silent=silent,
                best_auroc=1 - area if silent else area,
                covariate=covariate["name"],
                covariate_auroc=float(covariate["reached"]),
            )
        )
    return tuple(rows)


def _overlap(atlas: Atlas, topics: int) -> tuple[tuple[float, ...], ...]:
    """Return the Jaccard index of the selective neurons of every two topics."""
    shared = np.zeros((topics, topics))
    for row in records(atlas.sql(_PAIRS)):
        shared[row["first"], row["second"]] = row["shared"]
    own = shared.diagonal()
    either = own[:, None] + own[None] - shared
    return tuple(
        tuple(both / any_ if any_ else math.nan for both, any_ in zip(*rows, strict=True))
        for rows in zip(shared.tolist(), either.tolist(), strict=True)
    )


def _headline(topics: Sequence[TopicRow]) -> str:
    """Return sentences on the number of neurons per topic, and on what is not separable."""
    ranked = sorted(topics, key=lambda row: -row.selective)
    counts = ", ".join(f"{row.topic} {row.selective:,}" for row in ranked if row.selective)
    confounded = sum(row.confounded for row in topics)
    parts = [f"neurons that respond to a topic: {counts or 'none'}"]
    if confounded:
        pairs = f"{confounded:,} other pair{'s' * (confounded != 1)} of neuron and topic"
        parts.append(f"length, punctuation or source explain {pairs}")
    for row in topics:
        if row.reason:
            parts.append(inseparable(row.topic, row.reason))
    return f"{'; '.join(parts)}."


def summary_table(result: AtlasResult) -> Table:
    """Return one row per topic: its best covariate and its neurons."""
    columns = [
        Column("topic"),
        Column("prompts"),
        Column("covariate", "without the model", "the one that separates the topic best", digits=3),
        Column("AUROC", "without the model", METRICS["covariate_auroc"].meaning, digits=3),
        Column("selective", "neurons", METRICS["selective"].meaning),
        Column("confounded", "neurons", METRICS["confounded"].meaning),
        Column("name", "best neuron", "strongest in the selection half"),
        Column("AUROC", "best neuron", METRICS["best_auroc"].meaning, digits=3),
        Column(
            "AP",
            "best neuron",
            "its average precision; chance level is the topic's share",
            digits=3,
        ),
    ]
    rows: list[list[Any]] = [
        [
            *(row.topic, row.prompts, covariate_name(row.covariate), row.covariate_auroc),
            *(row.selective, row.confounded, f"{row.best_neuron}{' (silent)' * row.silent}"),
            *(row.best_auroc, row.best_ap),
        ]
        for row in result.topics
    ]
    measured = "The best neuron is the best on one half of the prompts, measured on the other"
    inverted = "; where it is silent on the topic, AUROC is 1 - AUROC"
    notes = [
        result.headline[:1].upper() + result.headline[1:],
        f"{measured}{inverted * any(row.silent for row in result.topics)}.",
    ]
    return Table(
        f"{result.model}, {result.component}: {result.neurons:,} neurons,"
        f" {result.prompts:,} prompts",
        columns,
        [Section("", rows)],
        notes,
    )


def layer_table(result: AtlasResult) -> Table:
    """Return one row per layer and topic."""
    columns = [
        Column("layer"),
        Column("topic"),
        Column.of(METRICS["selective"]),
        Column.of(METRICS["confounded"]),
        Column("best neuron"),
        Column.of(METRICS["best_auroc"]),
        Column.of(METRICS["direction_auroc"]),
    ]
    rows: list[list[Any]] = [
        [
            *(row.layer, row.topic, row.selective, row.confounded, row.best_neuron),
            *(row.best_auroc, row.direction_auroc),
        ]
        for row in result.rows
    ]
    return Table("Topics by layer", columns, [Section("", rows)])
