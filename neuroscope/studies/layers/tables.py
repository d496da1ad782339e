"""Tables of a study of layers."""

from collections.abc import Mapping, Sequence

from neuroscope.labels import model_label
from neuroscope.reporting.tables import Column, Section, Table
from neuroscope.studies.layers.result import METRICS, LayersResult, measured

_VIEWS = (
    ("label_accuracy", "label_low", "label_high", "label_control"),
    ("token_accuracy",),
    ("cka_next",),
    ("anisotropy", "effective_rank", "curvature"),
)
"""Metrics of the summary; those of a line are explained together."""
_LONGEST_HEADING = 7  # characters of a label, so that the table fits into 80 columns


def summary_table(result: LayersResult) -> Table:
    """Return the summary table: what probes read at each layer, and its geometry."""
    title = f"{model_label(result.model)}, {result.component}: {result.prompts:,} prompts"
    columns = summary_columns(
        [name for view in _VIEWS for name in view if measured(name, result.rows)],
        result.baselines.label,
    )
    return _table(result, columns, title, [result.headline], explanation(columns))


def summary_columns(names: Sequence[str], label: str) -> dict[str, Column]:
    """Return the columns of metrics; that of the label's probe has the label's name, if short."""
    headings = {"label_accuracy": label if len(label) <= _LONGEST_HEADING else ""}
    return {name: Column.of(METRICS[name], heading=headings.get(name, "")) for name in names}


def explanation(columns: Mapping[str, Column]) -> str:
    """Return the meaning of the columns, a line per view."""
    lines = [
        "; ".join(f"{columns[name].heading}: {columns[name].meaning}" for name in view)
        for names in _VIEWS
        if (view := [name for name in names if name in columns])
    ]
    return "\n".join(f"{line}." for line in lines)


def metrics_table(result: LayersResult) -> Table:
    """Return the table of all metrics; those of each probe share a heading."""
    probed = {"label": result.baselines.label, "token": "token identity"}
    columns = {}
    for name, metric in METRICS.items():
        group = probed.get(name.partition("_")[0], "")
        heading = "accuracy" if name.endswith("_accuracy") else ""
        columns[name] = Column.of(metric, heading=heading, group=group)
    return _table(result, columns)


def _table(
    result: LayersResult,
    columns: Mapping[str, Column],
    title: str = "",
    notes: Sequence[str] = (),
    explained: str = "",
) -> Table:
    """Return a table of metrics by layer, without those that have no value at any layer."""
    shown = [name for name in columns if measured(name, result.rows)]
    rows = [[row.layer, *(getattr(row, name) for name in shown)] for row in result.rows]
    headings = [Column("layer"), *(columns[name] for name in shown)]
    return Table(title, headings, [Section(explained, rows)], notes)
