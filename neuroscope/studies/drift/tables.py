"""Tables of a study of drift."""

import math
from collections.abc import Mapping
from dataclasses import replace

from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.tables import Cell, Column, Section, Table, enough_digits
from neuroscope.stats.divergence import KLSummary
from neuroscope.studies.drift.result import DriftResult
from neuroscope.studies.drift.rewording import rewording_unit

METRICS = {
    metric.name: metric
    for metric in (
        Metric("one_minus_r", "1 - r", "median over neurons of 1 - r, each model on its own input"),
        Metric("local", "local", "the same if the layer reads what the base's layer reads"),
        Metric(
            "rms_z",
            "rms z",
            "median over neurons of the root mean squared difference, in"
            " standard deviations of the base",
        ),
        Metric("cka", "CKA", "debiased CKA of standardised neurons, 1 at most", "high"),
        Metric("neighbours", "k-NN", "share of common nearest neighbours of a prompt", "high"),
        Metric(
            "null_high", "benign", "largest distance of a benign replicate of the base", digits=6
        ),
    )
}
"""Metrics of the table of layers."""
QUANTILES = {
    name: Metric(name, name, f"{name[1:]} % quantile over neurons of 1 - r")
    for name in ("q25", "q75", "q95")
}
"""Further metrics of that table in the report."""
STATISTICS = {
    "files": "none is needed, as the files are equal",
    "neurons": "largest over layers of the median over neurons of 1 - r",
    "representations": "largest over layers of 1 - CKA",
}
"""Statistic of the decision, by its basis."""


def summary_table(result: DriftResult) -> Table:
    """Return the table of layers, between the names of the models and the verdict in words."""
    table = layer_table(result, METRICS)
    files = f"Files: {'; '.join(result.differences)}." if result.differences else ""
    left_out = [f"Left out: {sentence}." for sentence in result.left_out]
    notes = [*filter(None, [files, result.headline, result.summary]), *left_out]
    return replace(table, title=result.title, notes=notes)


def layer_table(result: DriftResult, metrics: Mapping[str, Metric] = METRICS | QUANTILES) -> Table:
    """Return the table of the metrics that have a value at any site, by site and layer."""
    shown = {name: metric for name, metric in metrics.items() if _is_measured(result, name)}
    matched = any(row.match != row.layer for row in result.sites)
    rows: list[list[Cell]] = []
    for row in result.sites:
        match: list[Cell] = [row.match] if matched else []
        rows.append([row.component, row.layer, *match, *(getattr(row, name) for name in shown)])
    columns = [Column("site"), Column("layer")]
    columns += [Column("candidate's layer")] if matched else []
    columns += [_column(result, name, metric) for name, metric in shown.items()]
    return Table("", columns if rows else [], [Section("", rows)] if rows else [])


def _column(result: DriftResult, name: str, metric: Metric) -> Column:
    """Return the column of a metric, with more decimals if all values are small."""
    column = Column.of(metric)
    values = [getattr(row, name) for row in result.sites]
    return replace(column, digits=enough_digits(values, column.digits))


def _is_measured(result: DriftResult, name: str) -> bool:
    """Return whether a metric has a value at any site."""
    return any(not math.isnan(getattr(row, name)) for row in result.sites)


def decision_table(result: DriftResult) -> Table:
    """Return the table of the decision: statistic, limits, margin and p-value."""
    decision = result.decision
    rows: list[list[Cell]] = [
        ["verdict", decision.verdict],
        [f"statistic: {STATISTICS[result.basis]}", f"{decision.statistic:.4g}"],
        ["95 % limits (resampled prompts)", f"{decision.lower:.4g} to {decision.upper:.4g}"],
        ["margin", f"{decision.margin:g}"],
        ["largest statistic of a benign replicate", f"{decision.null:.3g}"],
        [
            f"p-value (alpha {decision.alpha:g}, {decision.replicates} replicates)",
            f"{decision.p_value:.3g}",
        ],
    ]
    for rewording in result.rewordings:
        effect = f"{rewording.distance:.3g} ({rewording.changed:.0%} of the prompts)"
        shown = effect if rewording.changed else "0 (no token differs)"
        rows.append([f"for comparison: rewording the prompts ({rewording.change})", shown])
    if (unit := rewording_unit(result.rewordings)) > 0:
        rows.append(["statistic / mean of these rewordings", f"{decision.statistic / unit:.3g}"])
    return Table("", [Column(""), Column("")], [Section("", rows)])


def behaviour_table(result: DriftResult) -> Table | None:
    """Return the table of the change of the outputs."""
    behaviour = result.behaviour
    if behaviour is None:
        return None
    bound = " (a lower bound)" if result.bounded else ""
    if isinstance(behaviour, KLSummary):
        rows: list[list[Cell]] = [
            [
                f"KL divergence, mean{bound}",
                f"{behaviour.mean:.4g} ± {behaviour.mean_error:.2g} nats",
            ],
            ["median", f"{behaviour.median:.4g}"],
            [
                "percentiles 90, 95, 99, 99.9",
                ", ".join(
                    f"{value:.3g}"
                    for value in (behaviour.q90, behaviour.q95, behaviour.q99, behaviour.q999)
                ),
            ],
            ["maximum", f"{behaviour.maximum:.4g}"],
            [
                "same most probable token",
                f"{behaviour.same_top:.2%} ± {behaviour.same_top_error:.2%}",
            ],
            [
                "probability of the actual token, mean change",
                f"{behaviour.mean_change:+.4f}",
            ],
            ["root mean square of that change", f"{behaviour.rms_change:.4f}"],
        ]
    else:
        rows = [
            ["1 - cosine of the final representations, mean", f"{behaviour.mean:.4g}"],
            ["median", f"{behaviour.median:.4g}"],
            ["percentile 99", f"{behaviour.q99:.4g}"],
            ["maximum", f"{behaviour.maximum:.4g}"],
        ]
    return Table("", [Column(""), Column("")], [Section("", rows)])


def readers_table(result: DriftResult) -> Table:
    """Return the table of the readers of the base's activations."""
    probed = any(not math.isnan(reader.accuracy) for reader in result.readers)
    columns = [Column("activations"), Column("recall", digits=3)]
    if probed:
        columns += [Column("accuracy", digits=3), Column("± se", digits=3), Column("prompts")]
    rows: list[list[Cell]] = []
    for reader in result.readers:
        accuracy: list[Cell] = [reader.accuracy, reader.accuracy_error, reader.tested]
        rows.append([reader.activations, reader.recall, *(accuracy if probed else [])])
    return Table("", columns, [Section("", rows)])
