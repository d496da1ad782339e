"""Equal weights: the statistic, the verdict, and how long it takes to compare the files."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import table
from benchmarks.validation.changes import FILE, copy_model
from benchmarks.validation.checks import Base
from benchmarks.validation.outcome import Outcome, figure

HEADER = ("model", "weights, GB", "T", "verdict", "first check, s", "second check, s", "GB/s")


@dataclass(frozen=True)
class Compared:
    """Complete checks of a model against a copy of its files."""

    model: str
    size: int
    """Bytes of weights in one of the two models."""
    statistic: float
    verdict: str
    first: float
    """Seconds of the first check."""
    second: float
    """Seconds of the second check, which finds the files in the page cache if they fit."""

    def cells(self) -> list[str]:
        """Return the row of the table."""
        rate = 2 * self.size / 1e9 / self.second
        numbers = f"{self.size / 1e9:.2f}", figure(self.statistic), self.verdict
        return [self.model, *numbers, *(f"{x:.2f}" for x in (self.first, self.second, rate))]


def compare_copy(base: Base, label: str, source: Path, folder: Path) -> Compared:
    """Return the result of two checks of a model against a copy of its files.

    Args:
        base: the model, with the prompts.
        label: name of the model in the table.
        source: folder of its files.
        folder: folder of the copy, which is created.
    """
    candidate, seconds = copy_model(source, folder), []
    for _ in range(2):
        start = time.perf_counter()
        decision = base.check(candidate).decision
        seconds.append(time.perf_counter() - start)
    size = sum(file.stat().st_size for file in source.glob(f"*{Path(FILE).suffix}"))
    return Compared(label, size, decision.statistic, decision.verdict, *seconds)


def outcome(rows: Sequence[Compared]) -> Outcome:
    """Return the table; another verdict than `identical` is a failure."""
    failures = [
        f"{row.model}: the verdict on a copy is {row.verdict}"
        for row in rows
        if row.verdict != "identical" or row.statistic
    ]
    return Outcome(table(HEADER, [row.cells() for row in rows]), tuple(failures))
