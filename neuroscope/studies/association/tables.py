"""Tables of a study of associations."""

import math
from collections.abc import Sequence

from neuroscope.labels import counted, model_label
from neuroscope.reporting.tables import Cell, Column, Section, Table
from neuroscope.studies.association.headline import roles_at, strongest
from neuroscope.studies.association.measures import EstablishedRow
from neuroscope.studies.association.result import (
    METRICS,
    SHARE,
    AssociationResult,
    AssociationRow,
    NeuronRow,
    PairRow,
    PredictionRow,
    contrast_label,
    pair_label,
)

_SHOWN = ("raw", "controlled", "low", "high")
_MOST_LAYERS = 8  # rows per pair of groups in the summary
_MOST_PAIRS = 3  # pairs of groups with a row per layer
_MOST_ROLES = 24  # contrasts of roles in the summary
_MEANINGS = (
    "A contrast is the difference of two mean standardised cosines: above 0, the role is more"
    " similar to the first group.",
    "controlled: minus the same of control roles, which cancels the surface of the groups' words;"
    " low, high: its 95 % interval over templates; remains: its share of the raw contrast; q: of a"
    " test over templates; q words: of a comparison with random groups of words.",
)


def summary_table(result: AssociationResult) -> Table:
    """Return the summary table: pairs of groups by layer, and each role at its strongest layer.

    A pair that a single role has is shown as the contrast of that role.
    """
    title = f"{model_label(result.model)}, {result.component}: {_size(result)}"
    metrics = [*(METRICS[name] for name in _SHOWN), SHARE, METRICS["q"], METRICS["q_words"]]
    columns: list[Column] = [Column("contrast"), Column("layer"), *map(Column.of, metrics)]
    spans = [row for row in result.pairs if row.view == "span"]
    alone = all(row.roles == 1 for row in spans)
    sections = [Section(_title(spans), _pair_rows(result, spans))] if spans else []
    if spans and not alone:
        roles = "each role, at the layer of its largest controlled contrast"
        sections.append(Section(roles, _role_rows(result)))
    return Table(title, columns, sections, [*_MEANINGS, *filter(None, [result.headline])])


def contrasts_table(rows: Sequence[AssociationRow]) -> Table:
    """Return a table with all metrics of some contrasts."""
    columns = [Column("contrast"), Column("layer"), Column("view")]
    columns += map(Column.of, METRICS.values())
    cells = [
        [_label(row), row.layer, row.view, *(getattr(row, name) for name in METRICS)]
        for row in rows
    ]
    return Table("", columns, [Section("", cells)])


def neurons_table(rows: Sequence[NeuronRow]) -> Table:
    """Return the neurons that contribute most to contrasts."""
    columns = [
        *(Column("contrast"), Column("layer"), Column("neuron"), Column("contribution")),
        *(Column("p", tiny=True), Column("q", tiny=True)),
    ]
    cells: list[list[Cell]] = [
        [_label(row), row.layer, row.neuron, row.contribution, row.p, row.q] for row in rows
    ]
    return Table("", columns, [Section("", cells)])


def established_table(rows: Sequence[EstablishedRow]) -> Table:
    """Return WEAT and SEAT of some contrasts, a section per measure."""
    columns = [
        *(Column("contrast"), Column("layer"), Column("d", digits=2)),
        *(Column("p", tiny=True), Column("words or sentences")),
    ]
    sections = [
        Section(
            measure.upper(),
            [
                [_label(row), row.layer, row.d, row.p, row.items]
                for row in rows
                if row.measure == measure
            ],
        )
        for measure in dict.fromkeys(row.measure for row in rows)
    ]
    return Table("", columns, sections)


def predictions_table(rows: Sequence[PredictionRow]) -> Table:
    """Return the contrasts of log probabilities, in nats."""
    names = ("raw", "controlled", "low", "high", "p", "q")
    columns = [Column("contrast"), *(Column.of(METRICS[name]) for name in names), Column("n")]
    cells = [[_label(row), *(getattr(row, name) for name in names), row.n] for row in rows]
    return Table("", columns, [Section("", cells)])


def _label(row: AssociationRow | NeuronRow | PredictionRow | EstablishedRow) -> str:
    return contrast_label(row.role, row.group_a, row.group_b)


def _size(result: AssociationResult) -> str:
    roles = len({row.role for row in result.rows})
    return f"{counted(roles, 'role')}, {counted(result.templates, 'template')}"


def _title(pairs: Sequence[PairRow]) -> str:
    """Return the line above the pairs of groups."""
    number = len({(row.group_a, row.group_b) for row in pairs})
    layers = "" if number <= _MOST_PAIRS else ", at the layer of the largest controlled contrast"
    roles = (
        ""
        if all(row.roles == 1 for row in pairs)
        else "; root mean square over roles; remains: slope of controlled on raw"
    )
    return f"the word itself (span){layers}{roles}"


def _pair_rows(result: AssociationResult, pairs: Sequence[PairRow]) -> list[list[Cell]]:
    by_pair: dict[tuple[str, str], list[PairRow]] = {}
    for row in pairs:
        by_pair.setdefault((row.group_a, row.group_b), []).append(row)
    few = len(by_pair) <= _MOST_PAIRS
    return [
        _pair_cells(result, row)
        for own in by_pair.values()
        for row in (_spread(result, own) if few else [strongest(own, result.rows)])
    ]


def _pair_cells(result: AssociationResult, row: PairRow) -> list[Cell]:
    """Return the cells of two groups; of a single role, with sign, interval and q-values."""
    own = roles_at(row, result.rows)
    share = _share(row)
    if row.roles == 1:
        return [_label(own[0]), row.layer, *_values(own[0], share)]
    label = pair_label(row.group_a, row.group_b)
    return [label, row.layer, row.raw, row.controlled, None, None, share, None, row.q_words]


def _share(row: PairRow) -> str | None:
    """Return the share that remains with its interval; None if it has no meaning."""
    if math.isnan(row.share):
        return None
    return f"{row.share:.2f} [{row.share_low:.2f}, {row.share_high:.2f}]"


def _role_rows(result: AssociationResult) -> list[list[Cell]]:
    """Return a row per contrast of a role, those with the largest controlled contrast first."""
    rows: list[list[Cell]] = []
    for key in result.largest(_MOST_ROLES):
        own = [
            row
            for row in result.rows
            if row.view == "span" and (row.role, row.group_a, row.group_b) == key
        ]
        row = max(own, key=lambda row: abs(row.controlled))
        rows.append([_label(row), row.layer, *_values(row, None)])
    return rows


def _spread(result: AssociationResult, rows: Sequence[PairRow]) -> list[PairRow]:
    """Return at most as many layers as the summary has room for, the strongest among them."""
    step = -(-len(rows) // _MOST_LAYERS)
    best = strongest(rows, result.rows)
    return [row for number, row in enumerate(rows) if number % step == 0 or row is best]


def _values(row: AssociationRow, share: str | None) -> list[Cell]:
    return [*(getattr(row, name) for name in _SHOWN), share, row.q, row.q_words]
