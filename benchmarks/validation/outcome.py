"""Outcome of an experiment of the validation, and how its numbers are printed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Text of a section of docs/validation.md, and what does not hold."""

    text: str
    failures: tuple[str, ...] = ()


def figure(value: float) -> str:
    """Return a number with three significant digits, in scientific notation below 0.001.

    >>> figure(0.0123456), figure(1234.5), figure(0.0), figure(1.234e-7)
    ('0.0123', '1,234', '0', '1.23e-07')
    """
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def met(sentence: str, holds: bool) -> str:
    """Return a line that says whether a property holds."""
    return f"- {sentence}: {'yes' if holds else 'NO'}"


def outcome_of(table: str, properties: Mapping[str, bool], text: str) -> Outcome:
    """Return the outcome of a table, of properties that should hold and of a closing line."""
    lines = "\n".join(met(sentence, bool(holds)) for sentence, holds in properties.items())
    failures = tuple(sentence for sentence, holds in properties.items() if not holds)
    return Outcome(f"{table}\n\n{lines}\n\n{text}", failures)


def limit(rate: float, draws: int) -> float:
    """Return a rate plus two standard errors of a rate over independent draws.

    >>> round(limit(0.05, 1000), 4)
    0.0638
    """
    return rate + 2 * math.sqrt(rate * (1 - rate) / draws)
