"""Tables of the explanation of drift, and the prompts whose tokens are coloured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from neuroscope.reporting.tables import NO_VALUE, Cell, Column, Section, Table, enough_digits
from neuroscope.stats.divergence import KLSummary
from neuroscope.studies.drift.changed_prompts import PromptDrift
from neuroscope.studies.drift.explanation import MOST_TOPICS, TokenDrift
from neuroscope.studies.drift.neurons import NeuronDrift
from neuroscope.studies.drift.result import DriftResult

SHADES = 9
"""Number of shades of the colour behind a token."""
_SELECTIVE = 0.25  # distance of an AUROC from 0.5 from which a neuron is called selective
MOST_ASSOCIATIONS = 30
"""Number of associations that are listed in the report."""
COLOURED = 10
"""Number of prompts that are shown in the report."""


class ShadedToken(NamedTuple):
    """Token of a prompt in the report."""

    space: str
    """White space before the token."""
    text: str
    value: str
    """Divergence, as shown beside the pointer; empty without one."""
    shade: int
    """Shade of the colour behind it, from 0, none, to `SHADES`."""


@dataclass(frozen=True)
class ShadedPrompt:
    """Prompt in the report, whose tokens are coloured by the change of the outputs."""

    prompt: PromptDrift
    tokens: Sequence[ShadedToken]
    cut: bool
    """Whether tokens are left out at the end."""


def explanation_parts(result: DriftResult) -> dict[str, Any]:
    """Return what the page shows of the explanation: tables, each None if there is nothing in it,
    and prompts."""
    explanation = result.explanation
    up, down = (explanation.tokens_up, explanation.tokens_down) if explanation else ((), ())
    return {
        "topics": topic_table(result),
        "up": token_table(up, "more often"),
        "down": token_table(down, "less often"),
        "topic_tokens": topic_token_table(result),
        "positions": position_table(result),
        "neurons": neuron_table(result),
        "weights": weight_table(result),
        "associations": association_table(result),
        "prompts": shaded_prompts(result),
        "darkest": darkest(explanation.prompts[:COLOURED] if explanation else ()),
        "shades": SHADES,
        "has_head": isinstance(result.behaviour, KLSummary),
    }


def topic_table(result: DriftResult) -> Table | None:
    """Return the table of topics, of which the first and the last are shown if there are many."""
    topics = result.explanation.topics if result.explanation else None
    if topics is None:
        return None
    predicts = isinstance(result.behaviour, KLSummary)
    rows = topics.rows
    if len(rows) > 2 * MOST_TOPICS:
        rows = (*rows[:MOST_TOPICS], *rows[-MOST_TOPICS:])
    cells: list[list[Cell]] = []
    for row in rows:
        gain: list[Cell] = [row.gain, row.gain_error] if predicts else []
        cells.append([row.topic, row.prompts, row.divergence, row.divergence_error, *gain])
    digits = enough_digits((row.divergence for row in rows), 3)
    columns = [
        Column("topic"),
        Column("prompts"),
        Column("divergence", digits=digits, meaning="mean change of the outputs per token"),
        Column("± se", digits=digits),
    ]
    if predicts:
        meaning = "mean change of the log probability of the actual tokens, nats per token"
        digits = enough_digits((row.gain for row in rows), 3)
        columns += [Column("gain (nats)", "", meaning, digits), Column("± se", digits=digits)]
    left_out = len(topics.rows) - len(rows)
    notes = [f"{left_out} topics in between are left out; they are in drift.json."]
    return Table("", columns, [Section("", cells)], notes if left_out else [])


def token_table(tokens: Sequence[TokenDrift], title: str) -> Table | None:
    """Return a table of tokens that the candidate expects more, or less, often."""
    if not tokens:
        return None
    columns = [
        Column(title),
        Column("base", digits=3, meaning="mean probability in the base, in per cent"),
        Column("candidate", digits=3, meaning="mean probability in the candidate, in per cent"),
        Column("log ratio", digits=2, meaning="log of the ratio, smoothed for rare tokens"),
        Column("benign", digits=5, meaning="largest log ratio of a benign replicate"),
    ]
    rows: list[list[Cell]] = [
        [row.text, 100 * row.base, 100 * row.candidate, row.ratio, row.null] for row in tokens
    ]
    return Table("", columns, [Section("", rows)])


def topic_token_table(result: DriftResult) -> Table | None:
    """Return the table of the tokens by topic: a row per topic."""
    by_topic = result.explanation.topic_tokens if result.explanation else ()
    if not by_topic:
        return None
    rows: list[list[Cell]] = [
        [topic.topic, _listed(topic.up), _listed(topic.down)] for topic in by_topic
    ]
    meaning = "with the ratio of the mean probabilities, smoothed for rare tokens; words first"
    columns = [
        Column("on texts about"),
        Column("more often", meaning=meaning),
        Column("less often", meaning=meaning),
    ]
    return Table("", columns, [Section("", rows)])


def position_table(result: DriftResult) -> Table | None:
    """Return the table of the mean change of the outputs by topic and position."""
    positions = result.explanation.positions if result.explanation else None
    if positions is None or len(positions.buckets) < 2:
        return None
    names = [*positions.topics, "all prompts"]
    rows: list[list[Cell]] = [
        [name, *values] for name, values in zip(names, positions.divergence.tolist(), strict=True)
    ]
    group = "position of the token in its prompt"
    digits = enough_digits(positions.divergence.ravel().tolist(), 3)
    columns = [Column("topic"), *(Column(name, group, "", digits) for name in positions.buckets)]
    return Table("", columns, [Section("", rows)])


def neuron_table(result: DriftResult) -> Table | None:
    """Return the table of the neurons that moved most."""
    neurons = result.explanation.neurons if result.explanation else ()
    if not neurons:
        return None
    columns = [
        Column("neuron"),
        Column("1 - r", digits=enough_digits((row.one_minus_r for row in neurons), 3)),
        Column("change of mean", digits=2, meaning="in standard deviations of the base"),
        Column("ratio of sd", digits=2, meaning="standard deviation, candidate / base"),
    ]
    selective = any(row.base_topic for row in neurons)
    if selective:
        columns += [
            Column("in the base", "selective for"),
            Column("in the candidate", "selective for"),
        ]
    rows = [_neuron(row, selective=selective) for row in neurons]
    return Table("", columns, [Section("", rows)])


def _neuron(row: NeuronDrift, *, selective: bool) -> list[Cell]:
    cells: list[Cell] = [row.neuron, row.one_minus_r, row.shift, row.scale]
    if selective:
        cells += [
            _selective(row.base_topic, row.base_auroc),
            _selective(row.candidate_topic, row.candidate_auroc),
        ]
    return cells


def _selective(topic: str, area: float) -> str:
    """Return the topic with its AUROC; nothing if the neuron hardly tells it from the others."""
    return f"{topic} {area:.2f}" if abs(area - 0.5) >= _SELECTIVE else NO_VALUE


def association_table(result: DriftResult) -> Table | None:
    """Return the associations that changed most, or None if none were measured."""
    if not result.associations:
        return None
    columns = [
        *(Column("association"), Column("layer")),
        *(Column(name, digits=3) for name in ("base", "candidate", "change", "low", "high")),
        Column("q", meaning="p-value corrected over all associations and layers"),
    ]
    rows: list[list[Cell]] = [
        [
            f"{row.role}: {row.group_a} \N{MINUS SIGN} {row.group_b}",
            *(row.layer, row.base, row.candidate, row.change, row.low, row.high, row.q),
        ]
        for row in result.associations[:MOST_ASSOCIATIONS]
    ]
    return Table("", columns, [Section("", rows)])


def weight_table(result: DriftResult) -> Table | None:
    """Return the table of the differences of the weights."""
    if not result.parts:
        return None
    columns = [
        Column("part"),
        Column("equal tensors"),
        Column("changed tensors"),
        Column("relative norm of the change"),
        Column("rank", digits=0, meaning="median rank of the changes of matrices"),
    ]
    rows: list[list[Cell]] = [
        [_part(row.part), row.equal, row.changed, row.relative_norm, row.rank]
        for row in result.parts
    ]
    return Table("", columns, [Section("", rows)])


def _part(part: str) -> str:
    """Return the name of a part as a heading: `layer 3` for `3`."""
    return f"layer {part}" if part.isdigit() else part


def shaded_prompts(result: DriftResult) -> list[ShadedPrompt]:
    """Return the prompts that changed most, whose tokens are coloured on a common scale."""
    prompts = result.explanation.prompts[:COLOURED] if result.explanation else ()
    top = darkest(prompts)
    return [
        ShadedPrompt(
            prompt,
            [
                _shaded(text, value, top)
                for text, value in zip(prompt.texts, prompt.values, strict=True)
            ],
            cut=prompt.first + len(prompt.tokens) < prompt.length,
        )
        for prompt in prompts
    ]


def darkest(prompts: Sequence[PromptDrift]) -> float:
    """Return the divergence from which the colour is the darkest: the 98th percentile."""
    values = np.array([value for prompt in prompts for value in prompt.values])
    known = values[~np.isnan(values)]
    return float(np.quantile(known, 0.98)) if len(known) else 0.0


def _shaded(text: str, value: float, top: float) -> ShadedToken:
    shown = text.lstrip()
    space = text[: len(text) - len(shown)]
    if np.isnan(value):
        return ShadedToken(space, shown, "", 0)
    shade = round(SHADES * min(value / top, 1.0)) if top > 0 else 0
    return ShadedToken(space, shown, f"{value:.3g}", shade)


def _listed(tokens: Sequence[TokenDrift]) -> str:
    """Return tokens with how many times as often they are expected, words first."""
    words_first = sorted(tokens, key=lambda token: not token.is_word)
    named = [f"{token.text} ({math.exp(token.ratio):.2g}x)" for token in words_first]
    return ", ".join(named) or NO_VALUE
