"""Tables of a study of associations."""

import math
from collections.abc import Sequence

from neuroscope.labels import counted, model_label
from neuroscope.reporting.tables import Cell, Column, Section, Table
from neuroscope.studies.association.headline import strongest
from neuroscope.studies.association.result import (
    METRICS,
    SHARE,
    AssociationResult,
    AssociationRow,
    NeuronRow,
    PairRow,
    PredictionRow,
    contrast_label,
)

_SHOWN = ("raw", "controlled", "low", "high")
_MOST_LAYERS = 8  # rows per pair of groups in the summary
_MOST_PAIRS = 3  # pairs of groups with a row per layer
_MOST_ROLES = 24  # contrasts of roles in the summary
_EXPLAINED = (
    "A contrast is the difference of two mean standardised cosines: above 0, the roles are more"
    " alike with the first group."
)


def summary_table(result: AssociationResult) -> Table:
    """Return the summary table: pairs of groups by layer, and each role at its strongest layer."""
    title = f"{model_label(result.model)}, {result.component}: {_size(result)}"
    columns = [Column("contrast"), Column("layer"), *_columns()]
    sections = [Section(_title(result), _pair_rows(result))]
    if result.pairs and any(row.roles > 1 for row in result.pairs):
        title_of_roles = "each role, at the layer of its smallest p-value"
        sections.append(Section(title_of_roles, _role_rows(result)))
    notes = [_EXPLAINED, _meanings(), *filter(None, [result.headline])]
    return Table(title, columns, sections, notes)


def contrasts_table(rows: Sequence[AssociationRow], title: str = "") -> Table:
    """Return a table with all metrics of some rows."""
    columns = [Column("contrast"), Column("layer"), *map(Column.of, METRICS.values())]
    cells = [
        [contrast_label(row), row.layer, *(getattr(row, name) for name in METRICS)] for row in rows
    ]
    return Table(title, columns, [Section("", cells)])


def neurons_table(rows: Sequence[NeuronRow]) -> Table:
    """Return the neurons that contribute most to a contrast."""
    columns = [
        *(Column("contrast"), Column("layer"), Column("neuron")),
        *(Column("contribution", digits=4), Column("p", tiny=True), Column("q", tiny=True)),
    ]
    cells: list[list[Cell]] = [
        [
            f"{row.role}: {row.group_a} \N{MINUS SIGN} {row.group_b}",
            *(row.layer, row.neuron, row.contribution, row.p, row.q),
        ]
        for row in rows
    ]
    return Table("", columns, [Section("", cells)])


def predictions_table(rows: Sequence[PredictionRow]) -> Table:
    """Return the contrasts of log probabilities, in nats."""
    names = ("raw", "controlled", "low", "high", "p", "q")
    columns = [Column("contrast"), *(Column.of(METRICS[name]) for name in names), Column("n")]
    cells = [[contrast_label(row), *(getattr(row, name) for name in names), row.n] for row in rows]
    return Table("", columns, [Section("", cells)])


def _size(result: AssociationResult) -> str:
    roles = len({row.role for row in result.rows})
    return f"{counted(roles, 'role')}, {counted(result.templates, 'template')}"


def _title(result: AssociationResult) -> str:
    """Return the line above the pairs of groups."""
    roles = sorted({row.roles for row in result.pairs})
    several = "mean over roles" if roles and roles[-1] > 1 else "one role each"
    layers = "" if len(result.group_pairs) <= _MOST_PAIRS else ", at the layer of the smallest q"
    return f"two groups{layers}; {several}; the word itself (span)"


def _columns() -> list[Column]:
    metrics = [METRICS[name] for name in _SHOWN]
    return [*map(Column.of, metrics), Column.of(SHARE), Column.of(METRICS["q"])]


def _meanings() -> str:
    return (
        "Controlled: minus the same of control roles, which cancels the surface of the groups'"
        " words; remains: its share of the raw contrast."
    )


def _pair_rows(result: AssociationResult) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for pair in result.group_pairs:
        own: list[PairRow] = result.by_layer(pair)
        if not own:
            continue
        shown = _spread(own) if len(result.group_pairs) <= _MOST_PAIRS else [strongest(own)]
        for row in shown:
            label = contrast_label(row)
            if row.roles == 1:
                (role,) = result.roles_of(pair)
                label = f"{role}: {label}"
            rows.append([label, row.layer, *_values(row, row.share)])
    return rows


def _role_rows(result: AssociationResult) -> list[list[Cell]]:
    """Return a row per role and pair of groups, those with the smallest p-values first."""
    best: dict[tuple[str, str, str], AssociationRow] = {}
    for row in result.rows:
        if row.view == "span":
            key = row.role, row.group_a, row.group_b
            best[key] = min(best.get(key, row), row, key=_doubt)
    rows = sorted(best.values(), key=_doubt)[:_MOST_ROLES]
    return [[contrast_label(row), row.layer, *_values(row, math.nan)] for row in rows]


def _doubt(row: AssociationRow) -> tuple[float, float]:
    """Return the p-value and then the effect, by which the strongest contrast comes first."""
    return (1.0 if math.isnan(row.p) else row.p), -abs(row.effect)


def _spread(rows: Sequence[PairRow]) -> list[PairRow]:
    """Return at most as many layers as the summary has room for, the strongest among them."""
    step = -(-len(rows) // _MOST_LAYERS)
    return [row for row in rows if row in rows[::step] or row == strongest(rows)]


def _values(row: AssociationRow, share: float) -> list[Cell]:
    return [*(getattr(row, name) for name in _SHOWN), share, row.q]
