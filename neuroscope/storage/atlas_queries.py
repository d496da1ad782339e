"""Queries on an atlas: their SQL, and the values that are bound to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

TOPICS = "SELECT * FROM topic ORDER BY topic"

TOPIC_NUMBERS = "SELECT topic, name FROM topic ORDER BY topic"

COVARIATE_AUROCS = "SELECT topic, name, auroc FROM covariate ORDER BY topic, name"

NEURON = "SELECT * FROM neuron WHERE layer = ? AND unit = ? AND component = ?"

LAYER = "SELECT name, mean, sd FROM neuron WHERE layer = ? ORDER BY neuron"

UNITS = (
    "SELECT component, min(layer), max(layer), max(unit) FROM neuron GROUP BY component"
    " ORDER BY component"
)

_ENTRY = (
    *("auroc", "auroc_heldout", "auroc_error", "ap_heldout", "ap_error", "one_vs_one"),
    *("d", "r", "p", "q", "polarity", "partial_auroc", "confounded", "selective"),
    *("verified", "effect", "effect_low", "effect_high", "effect_p"),
)
"""Columns of an entry that need no name from another table."""

_STRONGEST = "abs(s.auroc_heldout - 0.5::REAL) DESC NULLS LAST, s.neuron, s.topic"

_ENTRY_COLUMNS = ", ".join(f"s.{name}" for name in _ENTRY)

CARD_TOPICS = f"""
SELECT $topics[s.topic + 1] AS topic, {_ENTRY_COLUMNS}, $topics[s.rival + 1] AS rival, s.counts
FROM selectivity s WHERE s.neuron = $neuron ORDER BY {_STRONGEST}
"""
"""Entries of one neuron, strongest first; joins with the names of the topics would take longer."""

CARD_EXAMPLES = """
SELECT kind, rank, value, p.prompt, p.id, p.text, p.source, p.heldout, e.position, e.token, p.ids
FROM example e JOIN prompt p USING (prompt)
WHERE e.neuron = $neuron ORDER BY kind, rank
"""
"""Example prompts of one neuron."""

TOKEN_TEXTS = """
SELECT token, CASE WHEN special THEN '' ELSE text END AS text
FROM token JOIN (SELECT unnest(?) AS token) USING (token)
"""
"""Texts of distinct tokens; special ones are not part of a prompt's text."""

CARD_NEIGHBOURS = """
SELECT n.name AS neuron, n.layer, n.unit, v.near.cosine AS cosine
FROM (SELECT unnest(neighbours) AS near FROM neuron WHERE neuron = $neuron) v
JOIN neuron n ON n.neuron = v.near.neuron ORDER BY cosine DESC, n.neuron
"""
"""Nearest neighbours of one neuron."""


_BEFORE, _AFTER = 14, 12  # tokens of an excerpt around the one that is marked


def marked_excerpt(tokens: Sequence[str], position: int) -> str:
    """Return the text around a token of a prompt, with the token in brackets.

    >>> marked_excerpt(["", " the", " striker", " scored", ""], 2)
    'the [striker] scored'

    Args:
        tokens: texts of all tokens; special ones are empty.
        position: index of the token.
    """
    start, end = max(0, position - _BEFORE), position + 1 + _AFTER
    before, after = "".join(tokens[start:position]), "".join(tokens[position + 1 : end])
    marked = tokens[position]
    gap = " " if marked[:1].isspace() else ""
    text = f"{before}{gap}[{marked.strip() or marked}]{after}"
    return f"{'…' * (start > 0)}{text.strip()}{'…' * (end < len(tokens))}"


@dataclass(frozen=True)
class NeuronCard:
    """What an atlas holds on one neuron.

    >>> card = atlas.neuron("mlp_act.3.57")
    >>> card.neuron["mean"], card.topics["auroc_heldout"], card.examples["text"]
    """

    neuron: dict[str, Any]
    """Column of the table `neuron` -> its value."""
    topics: "pd.DataFrame"
    """One row per topic, strongest first: names of topic and rival, and the entry."""
    examples: "pd.DataFrame"
    """One row per example: kind, rank, activation, prompt with id and text, peak token, and an
    excerpt with the peak token in brackets."""
    neighbours: "pd.DataFrame"
    """One row per neighbour, nearest first: neuron (name), layer, unit and cosine."""


@dataclass(frozen=True)
class NeuronFilter:
    """Which entries of neuron and topic are returned, and how many; None means any."""

    topic: int | None = None
    layers: Sequence[int] | None = None
    top: int | None = 50
    selective: bool | None = True
    confounded: bool | None = None
    polarity: int | None = None
    verified: bool | None = None
    """True: confirmed by silencing; False: tested, but not confirmed."""

    def statement(self) -> tuple[str, list[Any]]:
        """Return the query and the values to bind.

        The innermost query chooses the entries from the columns of numbers alone; only the chosen
        ones are joined with their names.
        """
        where, values = self._conditions()
        query = f"""
            WITH s AS (
                SELECT * EXCLUDE (counts) FROM selectivity s WHERE {where}
                ORDER BY {_STRONGEST} LIMIT ?
            )
            SELECT n.name AS neuron, n.layer, n.unit, t.name AS topic, {_ENTRY_COLUMNS},
                o.name AS rival
            FROM s JOIN neuron n ON n.neuron = s.neuron JOIN topic t ON t.topic = s.topic
            LEFT JOIN topic o ON o.topic = s.rival
            ORDER BY {_STRONGEST}
        """
        return query, [*values, self.top]

    def _conditions(self) -> tuple[str, list[Any]]:
        """Return the conditions, and the values to bind."""
        exact = {name: getattr(self, name) for name in ("topic", "confounded", "polarity")}
        if self.selective:
            exact["selective"] = True
        conditions = {f"{name} = ?": [value] for name, value in exact.items() if value is not None}
        if self.verified is not None:
            sign = "=" if self.verified else "<>"
            conditions[f"verified {sign} ?"] = ["confirmed"]
        if self.layers is not None:
            marks = ", ".join("?" * len(self.layers))
            inner = f"SELECT neuron FROM neuron WHERE layer IN ({marks})"
            conditions[f"neuron IN ({inner})"] = list(self.layers)
        values = [value for bound in conditions.values() for value in bound]
        return " AND ".join(conditions) or "true", values
