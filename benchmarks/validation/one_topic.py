"""A model that was trained further on one topic: the check must name that topic and its words."""

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import table
from benchmarks.validation.checks import Base
from benchmarks.validation.outcome import Outcome, figure, met
from benchmarks.validation.synthetic import Labelled, write_labelled
from neuroscope.stats.divergence import KLSummary
from neuroscope.studies.drift.readers import Reader
from neuroscope.studies.drift.result import DriftResult

LEAST_WORDS = 5
"""Words of the topic that are expected among the tokens which the candidate prefers."""
FAR = 5
"""Ratio of the statistics of both candidates from which one is far below the other."""
_TYPICAL, _LEAST_COUNT = 5, 5
_WORD = re.compile(r"[a-z0-9]+")

HEADER = ("", "trained further on all topics", "trained further on one topic")


@dataclass(frozen=True)
class Findings:
    """What checks say of one candidate."""

    result: DriftResult
    """Check with prompts on all topics."""
    elsewhere: DriftResult
    """Check without prompts on the topic."""
    words: tuple[str, ...]
    """Words of the topic among the tokens that the candidate prefers, in the latter check."""

    @property
    def ranking(self) -> list[str]:
        """Topics, those whose texts have become most probable first."""
        explanation = self.result.explanation
        assert explanation is not None and explanation.topics is not None
        return [row.topic for row in explanation.topics.rows]


def examine(
    base: str,
    candidate: str,
    prompts: Labelled,
    topic: str,
    words: Collection[str],
    folder: Path,
    **settings: Any,
) -> Findings:
    """Check a candidate with and without prompts on a topic.

    Args:
        base: model.
        candidate: model that was trained further.
        prompts: prompts on several topics.
        topic: topic that is left out of the second check.
        words: words of that topic.
        folder: existing folder for files of prompts.
        settings: settings of the checks, other than the default ones.
    """
    others = [(text, label) for text, label in prompts if label != topic]
    every = write_labelled(folder / "all-topics.csv", prompts)
    rest = write_labelled(folder / "other-topics.csv", others)
    result = Base(base, every).check(Path(candidate), **settings)
    elsewhere = Base(base, rest).check(Path(candidate), **settings)
    assert elsewhere.explanation is not None
    preferred = [plain(row.token) for row in elsewhere.explanation.tokens_up]
    return Findings(result, elsewhere, tuple(word for word in preferred if word in words))


def plain(token: str) -> str:
    """Return a token as a word in lower case, without marks of spaces."""
    return token.strip("Ġ▁ ").lower()


def typical_words(texts: Labelled, topic: str) -> set[str]:
    """Return the words that occur in texts on a topic five times as often as in the others."""
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    for text, label in texts:
        (inside if label == topic else outside).update(_WORD.findall(text.lower()))
    share = sum(inside.values()) / max(1, sum(outside.values()))
    return {
        word
        for word, count in inside.items()
        if count >= _LEAST_COUNT and count > _TYPICAL * share * outside[word]
    }


def outcome(same: Findings, other: Findings, topic: str) -> Outcome:
    """Return the table and the properties that must hold.

    Args:
        same: candidate that was trained further on all topics.
        other: candidate that was trained further on one topic.
        topic: that topic.
    """
    rows = [[row[0], row[1](same), row[1](other)] for row in _ROWS]
    statistics = [findings.result.decision.statistic for findings in (same, other)]
    properties = {
        f"T of the former is at least {FAR} times smaller": FAR * statistics[0] <= statistics[1],
        "the latter is `drifted`": other.result.decision.verdict == "drifted",
        f"{topic} comes first for the latter": other.ranking[:1] == [topic],
        f"at least {LEAST_WORDS} words of the topic for the latter": len(other.words)
        >= LEAST_WORDS,
        "none for the former": not same.words,
    }
    lines = [met(sentence, holds) for sentence, holds in properties.items()]
    failures = tuple(sentence for sentence, holds in properties.items() if not holds)
    return Outcome("\n\n".join([table(HEADER, rows), "\n".join(lines)]), failures)


def _statistic(findings: Findings) -> str:
    decision = findings.result.decision
    return f"{figure(decision.statistic)} ({figure(decision.lower)} to {figure(decision.upper)})"


def _topic(findings: Findings) -> str:
    explanation = findings.result.explanation
    assert explanation is not None and explanation.topics is not None
    gains = [f"{row.topic} {row.gain:+.3f}" for row in explanation.topics.rows]
    return ", ".join([*gains[:2], "...", gains[-1]])


def _kl(findings: Findings) -> str:
    behaviour = findings.result.behaviour
    assert isinstance(behaviour, KLSummary)
    return f"{behaviour.mean:.4f}, {behaviour.same_top:.0%}"


def _words(findings: Findings) -> str:
    return f"{len(findings.words)}: {', '.join(findings.words)}" if findings.words else "0"


def _readers(value: Callable[[Reader], float]) -> Callable[[Findings], str]:
    """Return a function that prints a value of each reader."""

    def cell(findings: Findings) -> str:
        return ", ".join(
            f"{reader.activations.removeprefix('candidate, ')} {value(reader):.3f}"
            for reader in findings.result.readers
        )

    return cell


_ROWS: tuple[tuple[str, Callable[[Findings], str]], ...] = (
    ("T (limits)", _statistic),
    ("verdict", lambda findings: findings.result.decision.verdict),
    ("mean KL divergence in nats, same top token", _kl),
    ("gain by topic, nats per token: first, second, last", _topic),
    ("without prompts on the topic: its words among the 20 tokens up", _words),
    ("accuracy of the frozen probe", _readers(lambda reader: reader.accuracy)),
    ("recall in the old index", _readers(lambda reader: reader.recall)),
)
"""Name of a row, and the function that returns its cell for one candidate."""
