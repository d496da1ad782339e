"""Ladders of growing changes: the statistic of drift must grow with the change."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.tables import table
from benchmarks.validation.changes import (
    MatrixChange,
    add_low_rank,
    add_noise,
    copy_model,
    prune,
    round_to_bfloat16,
    round_to_integers,
)
from benchmarks.validation.checks import Base
from benchmarks.validation.outcome import Outcome, figure
from benchmarks.validation.training import fine_tune
from neuroscope.studies.drift.agreement import Decision

Ladder = Mapping[str, MatrixChange]
"""Name of a change -> the change, in ascending order of size."""

CHANGES: Mapping[str, Ladder] = {
    "noise, sd": {f"{scale:g}": add_noise(scale) for scale in (0.01, 0.03, 0.1, 0.3)},
    "pruning": {f"{share:.0%}": prune(share) for share in (0.05, 0.1, 0.2, 0.3, 0.5)},
    "rounding": {
        "bfloat16": round_to_bfloat16,
        **{f"{bits} bits": round_to_integers(bits) for bits in (8, 6, 5, 4, 3)},
    },
    "low rank": {f"rank {rank}": add_low_rank(rank) for rank in (1, 2, 4, 8, 16)},
}
"""Family of changes -> its ladder."""
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Numbers of steps of fine-tuning."""
FINE_TUNING = "fine-tuning"
HEADER = ("family", "change", "T", "T / benign", "p", "verdict")


@dataclass(frozen=True)
class Rung:
    """Decision on one change."""

    family: str
    change: str
    decision: Decision

    def cells(self) -> list[str]:
        """Return the row of the table."""
        decision = self.decision
        ratio = decision.statistic / decision.null
        numbers = [figure(decision.statistic), figure(ratio), f"{decision.p_value:.2f}"]
        return [self.family, self.change, *numbers, decision.verdict]


def climb(
    base: Base,
    source: Path,
    folder: Path,
    texts: Sequence[str],
    *,
    causal: bool,
    rate: float,
    changes: Mapping[str, Ladder] = CHANGES,
    steps: Sequence[int] = STEPS,
) -> list[Rung]:
    """Return the decision on every change to a model.

    Args:
        base: the model, with the prompts.
        source: folder of its files.
        folder: folder for copies; each is deleted once it has been checked.
        texts: texts for fine-tuning.
        causal: whether the model has a language-model head, which is trained.
        rate: learning rate of fine-tuning.
        changes: family -> its ladder.
        steps: numbers of steps of fine-tuning; none if empty.
    """
    folder.mkdir(parents=True)
    rungs = []
    for family, name, candidate in _candidates(source, folder, changes):
        rungs.append(Rung(family, name, base.decide(candidate)))
        shutil.rmtree(candidate)
    if steps:
        tuned = fine_tune(source, folder, texts, steps, causal=causal, rate=rate)
        for step, candidate in tuned:
            rungs.append(Rung(FINE_TUNING, _steps(step), base.decide(candidate)))
            shutil.rmtree(candidate)
    return rungs


def outcome(rungs: Sequence[Rung], rewording: float) -> Outcome:
    """Return the table, and for each family: is it monotone, and which change is detected first?"""
    lines, failures = [], []
    for family in dict.fromkeys(rung.family for rung in rungs):
        ladder = [rung for rung in rungs if rung.family == family]
        if not is_monotone(ladder):
            failures.append(f"{family}: T does not grow with the change")
        lines.append(
            f"- {family}: {'strictly monotone' if is_monotone(ladder) else 'NOT monotone'};"
            f" detected (p <= 0.05) from {first(ladder, detected)}, `drifted` from"
            f" {first(ladder, drifted)}"
        )
    null, margin = rungs[0].decision.null, rungs[0].decision.margin
    conditions = (
        f"Largest T of a benign replicate: {figure(null)}. Mean T of harmless rewording:"
        f" {figure(rewording)}. Margin: {margin:g}."
    )
    rows = [rung.cells() for rung in rungs]
    text = "\n\n".join([table(HEADER, rows, names=2), "\n".join(lines), conditions])
    return Outcome(text, tuple(failures))


def is_monotone(ladder: Sequence[Rung]) -> bool:
    """Return whether the statistic of every change is larger than that of the one before."""
    statistics = [rung.decision.statistic for rung in ladder]
    return all(less < more for less, more in pairwise(statistics))


def detected(decision: Decision) -> bool:
    """Return whether a change is larger than what benign replicates do."""
    return decision.p_value <= decision.alpha


def drifted(decision: Decision) -> bool:
    """Return whether the verdict on a change is that the model has drifted."""
    return decision.verdict == "drifted"


def first(ladder: Sequence[Rung], holds: Callable[[Decision], bool]) -> str:
    """Return the smallest change from which on a property holds for all changes of a ladder."""
    smallest = "none"
    for rung in reversed(ladder):
        if not holds(rung.decision):
            break
        smallest = rung.change
    return smallest


def _candidates(
    source: Path, folder: Path, changes: Mapping[str, Ladder]
) -> Iterator[tuple[str, str, Path]]:
    """Yield the family and the name of each change, and the folder of the changed copy."""
    for family, ladder in changes.items():
        for name, change in ladder.items():
            copy = folder / f"{family}-{name}".replace(" ", "-")
            yield family, name, copy_model(source, copy, change)


def _steps(count: int) -> str:
    return f"{count} step{'s' if count > 1 else ''}"
