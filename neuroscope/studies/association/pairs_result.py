"""Result of scoring pairs of prompts: which prompt of each pair is likelier, beside controls."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from neuroscope.extraction.likelihood import LikelihoodMeasure
from neuroscope.labels import counted, model_label, short_model, short_repr
from neuroscope.prompts import PromptPair
from neuroscope.reporting.tables import Cell, Column, Section, Table
from neuroscope.stats.shares import paired_p_value, share

if TYPE_CHECKING:
    import pandas as pd

FEW = 20
"""Number of pairs below which a note says that the intervals are wide."""
MOST_VALUES = 50
"""Largest number of values of a label that has rows."""
CAVEAT = (
    "such scores do not predict what a model does in use (arXiv:2012.15859), and details of their"
    " implementation move them (arXiv:2211.08461)"
)
MEASURES: dict[LikelihoodMeasure, str] = {
    "log-likelihood": "log-likelihood of the whole prompt, each token given those before it",
    "pll-word-l2r": "pseudo-log-likelihood (PLL-word-l2r) of the tokens that both prompts share",
}
"""Measure -> what is added up per prompt."""
_ROUNDING = 1e-6  # relative difference of two sums of float32 numbers that are equal


@dataclass(frozen=True)
class ScoredPair:
    """Log-likelihoods of the prompts of a pair and of its control pair, in nats."""

    pair: PromptPair
    log_likelihood_a: float
    log_likelihood_b: float
    control_a: str
    """Text of the first prompt of the control pair, from its tokens."""
    control_b: str
    control_log_likelihood_a: float
    control_log_likelihood_b: float

    @property
    def difference(self) -> float:
        """Log-likelihood of the first prompt minus that of the second; 0 if they are tied."""
        return _difference(self.log_likelihood_a, self.log_likelihood_b)

    @property
    def control_difference(self) -> float:
        """Difference of the control pair; 0 if its prompts are tied."""
        return _difference(self.control_log_likelihood_a, self.control_log_likelihood_b)


def _difference(a: float, b: float) -> float:
    """Return the difference of two sums; 0 if it is no larger than their rounding."""
    return 0.0 if math.isclose(a, b, rel_tol=_ROUNDING, abs_tol=_ROUNDING) else a - b


@dataclass(frozen=True)
class PairsRow:
    """Share of pairs in which the first prompt is likelier, for one value of a label or all pairs.

    Shares and the ends of their 95 % intervals are in per cent.
    """

    label: str
    """Name of the label; empty for all pairs."""
    value: str
    n: int
    """Number of pairs."""
    score: float
    low: float
    high: float
    control_score: float
    """Share of the control pairs in which the first prompt is likelier."""
    control_low: float
    control_high: float
    p: float
    """P-value of an exact McNemar test that both shares are equal."""
    ties: int
    """Number of pairs whose prompts are equally likely."""
    control_ties: int

    @classmethod
    def of(cls, pairs: Sequence[ScoredPair], label: str = "", value: str = "") -> "PairsRow":
        """Return the row of some pairs, of which there must be at least one."""
        own, control = (
            [getattr(pair, name) for pair in pairs] for name in ("difference", "control_difference")
        )
        outcomes, controls = ([value > 0 for value in values] for values in (own, control))
        score, control_score = share(outcomes), share(controls)
        return cls(
            *(label, value, len(pairs), score.percent, score.low, score.high),
            *(control_score.percent, control_score.low, control_score.high),
            paired_p_value(outcomes, controls),
            *(own.count(0), control.count(0)),
        )


@dataclass(frozen=True, eq=False)
class PairsResult:
    """Result of scoring pairs of prompts in one model.

    >>> result = ns.score_pairs("bert-base-uncased", "pairs.csv")
    >>> result.overall.score, result.overall.control_score   # per cent
    >>> result.to_frame()   # a row per pair
    """

    kind: ClassVar[str] = "association"

    model: str
    measure: LikelihoodMeasure
    first: str
    """Name of the first prompts, the column of the file that they are in."""
    pairs: tuple[ScoredPair, ...]
    overall: PairsRow
    rows: tuple[PairsRow, ...]
    """A row per value of each label."""
    notes: tuple[str, ...] = ()
    """Sentences on what limits the meaning of the values."""
    run_id: str | None = None
    """Id of the MLflow run; None if the result was not recorded."""
    seed: int = field(default=0, kw_only=True)
    """Seed of the control pairs."""

    @classmethod
    def of(
        cls,
        model: str,
        measure: LikelihoodMeasure,
        pairs: Sequence[ScoredPair],
        *,
        first: str = "prompt_a",
        notes: Iterable[str] = (),
        seed: int = 0,
    ) -> "PairsResult":
        """Return the result of scored pairs, with a row per value of each label."""
        overall = PairsRow.of(pairs)
        rows, left_out = _rows(pairs)
        return cls(
            *(model, measure, first, tuple(pairs), overall, tuple(rows)),
            notes=(*notes, *left_out, *_limits(overall), CAVEAT),
            seed=seed,
        )

    def __repr__(self) -> str:
        return short_repr(self, f"{short_model(self.model)}: {self.headline}")

    @property
    def headline(self) -> str:
        """Sentence with both shares and their intervals."""
        row = self.overall
        certain = "differ by more than chance"
        if not row.p < 0.05:
            certain = "cannot be told apart"
        return (
            f"{self.first} is likelier in {row.score:.1f} % [{row.low:.1f}, {row.high:.1f}] of"
            f" {counted(row.n, 'pair')}; in control pairs with words of similar frequency and the"
            f" same number of tokens in {row.control_score:.1f} % [{row.control_low:.1f},"
            f" {row.control_high:.1f}]; the two {certain} (p {p_text(row.p)})."
        )

    @property
    def sentences(self) -> tuple[str, str]:
        """What is compared, and the headline: the notes of a table."""
        return f"Compared: {MEASURES[self.measure]}.", self.headline

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per pair: prompts, labels, log-likelihoods, control."""
        import pandas as pd

        return pd.DataFrame([_record(scored) for scored in self.pairs])

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values: an entry of `runs` in the JSON document."""
        overall = asdict(self.overall)
        names = ("score", "control_score", "n", "ties", "low", "high", "control_low")
        return {
            "run_id": self.run_id,
            "model": self.model,
            **{name: overall[name] for name in (*names, "control_high", "p")},
            "measure": self.measure,
            "headline": self.headline,
            "notes": list(self.notes),
            "rows": [asdict(row) for row in self.rows],
        }

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the table with the headline and the notes."""
        from neuroscope.reporting.page import table_html

        return table_html(pairs_table(self, [*self.sentences, *self.notes]))


def p_text(p: float) -> str:
    """Return a p-value after its name: `= 0.012`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def pairs_table(result: PairsResult, notes: Sequence[str]) -> Table:
    """Return the shares of all pairs and of each value of a label as a table."""
    columns = [
        Column("label"),
        Column("value"),
        Column("number"),
        Column("likelier", "pairs, %", "share in which the first prompt is likelier", 1),
        Column("from", "pairs, %", "lower end of the 95 % interval", 1),
        Column("to", "pairs, %", "upper end of the interval", 1),
        Column("likelier", "controls, %", "the same share of the control pairs", 1),
        Column("from", "controls, %", "lower end of the 95 % interval", 1),
        Column("to", "controls, %", "upper end of the interval", 1),
        Column("p", meaning="of a McNemar test that both shares are equal", digits=3, tiny=True),
    ]
    rows: list[list[Cell]] = [
        [
            *(row.label or "all", row.value, row.n, row.score, row.low, row.high),
            *(row.control_score, row.control_low, row.control_high, row.p),
        ]
        for row in (result.overall, *result.rows)
    ]
    title = f"{model_label(result.model)}: pairs in which {result.first} is likelier"
    return Table(title, columns, [Section("", rows)], notes)


def _rows(pairs: Sequence[ScoredPair]) -> tuple[list[PairsRow], list[str]]:
    """Return a row per value of each label, and notes on labels with too many values."""
    labels = dict.fromkeys(name for scored in pairs for name in scored.pair.labels)
    rows: list[PairsRow] = []
    notes = []
    for label in labels:
        by_value: dict[str, list[ScoredPair]] = {}
        for scored in pairs:
            if label in scored.pair.labels:
                by_value.setdefault(scored.pair.labels[label], []).append(scored)
        if len(by_value) > MOST_VALUES:
            notes.append(f"the label '{label}' has {len(by_value):,} values, and therefore no rows")
            continue
        order = sorted(by_value, key=lambda value: -len(by_value[value]))
        rows += [PairsRow.of(by_value[value], label, value) for value in order]
    return rows, notes


def _limits(row: PairsRow) -> Iterator[str]:
    """Yield sentences on what limits the meaning of the shares."""
    if row.n < FEW:
        yield f"the intervals are wide: there {'is' if row.n == 1 else 'are'} only {_pairs(row.n)}"
    for ties, kind in ((row.ties, "pair"), (row.control_ties, "control pair")):
        if ties:
            number = counted(ties, kind)
            yield f"both prompts are equally likely in {number}, which count as not likelier"


def _pairs(number: int) -> str:
    return counted(number, "pair")


def _record(scored: ScoredPair) -> dict[str, Any]:
    """Return the row of a pair; a label named as another column has `label ` before its name."""
    values = asdict(scored)
    pair = values.pop("pair")
    head = {"id": pair["id"], "prompt_a": pair["a"], "prompt_b": pair["b"]}
    labels: Mapping[str, str] = pair["labels"]
    taken = {*head, *values}
    named = {f"label {name}" if name in taken else name: labels[name] for name in labels}
    return head | named | values
