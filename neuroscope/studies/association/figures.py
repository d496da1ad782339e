"""Figures of a study of associations."""

from collections.abc import Iterator

import numpy as np

from neuroscope.labels import model_label
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves, plot_intervals, plot_matrix
from neuroscope.studies.association.headline import leading_rows, strongest
from neuroscope.studies.association.measures import VIEWS
from neuroscope.studies.association.result import AssociationResult, PairRow

CONTRAST = Metric("contrast", "contrast", "difference of mean standardised cosines")
_CONTRIBUTION = Metric("contribution", "contribution to the contrast", "term of the contrast")
_CONTROLLED = Metric("controlled", "controlled contrast", "contrast minus that of control roles")
_MOST_PAIRS = 4  # panels in a row
_MOST_ROWS = 40  # roles with a row of their own
VIEW_NAMES = {"span": "the word", "context": "the words around it"}
"""View -> its name in figures."""


def association_figures(result: AssociationResult) -> Iterator[NamedFigure]:
    """Yield the figures, the most informative first."""
    leading = leading_rows(result.pairs)
    if not leading:
        return
    title = f"{model_label(result.model)} · {result.component}"
    yield NamedFigure(
        "contrast_by_layer.png",
        "How much more alike the roles are with the first group than with the second, before and"
        " after control, with 95 % intervals over templates. Above 0: nearer to the first group."
        " Control groups: the controlled contrast of words without the groups' meaning.",
        plot_curves(
            _panels(result),
            title=title,
            notes=[f"{result.templates} templates; mean over the roles of a pair of groups"],
        ),
    )
    row = strongest(leading)
    pair = row.group_a, row.group_b
    roles = result.roles_of(pair)
    if len(roles) > 1:
        yield _roles_figure(result, row, roles, title)
        if len(result.layers) > 1:
            yield _map_figure(result, pair, roles, title)
    yield _neurons_figure(result, row, roles, title)


def _panels(result: AssociationResult) -> list[list[Panel]]:
    """Return a row of panels per view, with a panel for each of the largest pairs of groups."""
    pairs = sorted(
        result.group_pairs, key=lambda pair: -float(np.abs(result.values("raw", pair)).mean())
    )[:_MOST_PAIRS]
    return [[_panel(result, pair, view) for pair in pairs] for view in VIEWS if _has(result, view)]


def _has(result: AssociationResult, view: str) -> bool:
    return any(row.view == view for row in result.pairs)


def _panel(result: AssociationResult, pair: tuple[str, str], view: str) -> Panel:
    """Return the contrast of two groups by layer: raw, controlled, and that of control groups."""

    def curve(name: str, low: str = "", high: str = "") -> Curve:
        band = (result.values(low, pair, view), result.values(high, pair, view)) if low else None
        return Curve(result.layers, result.values(name, pair, view), band)

    curves = {
        "raw": curve("raw", "raw_low", "raw_high"),
        "controlled": curve("controlled", "low", "high"),
    }
    if not np.isnan(result.values("placebo", pair, view)).all():
        curves["control groups"] = curve("placebo")
    title = f"{pair[0]} \N{MINUS SIGN} {pair[1]}, {VIEW_NAMES[view]}"
    return Panel(CONTRAST, curves, title, {"no difference": 0.0})


def _roles_figure(
    result: AssociationResult, row: PairRow, roles: list[str], title: str
) -> NamedFigure:
    """Return the contrasts of each role at one layer, those nearest to the first group on top."""
    pair = row.group_a, row.group_b
    own = [
        other
        for other in result.rows
        if (other.layer, other.view, other.group_a, other.group_b) == (row.layer, "span", *pair)
    ]
    own.sort(key=lambda other: -other.controlled)
    shown = own if len(own) <= _MOST_ROWS else own[: _MOST_ROWS // 2] + own[-_MOST_ROWS // 2 :]
    series = {
        "raw": [(other.raw, other.raw_low, other.raw_high) for other in shown],
        "controlled": [(other.controlled, other.low, other.high) for other in shown],
    }
    return NamedFigure(
        "roles.png",
        f"Each role at layer {row.layer}: right of 0, nearer to {pair[0]} than to {pair[1]}.",
        plot_intervals(
            [other.role for other in shown],
            series,
            metric=CONTRAST,
            title=f"{title}.{row.layer}: {pair[0]} \N{MINUS SIGN} {pair[1]}",
            notes=[f"95 % intervals over {result.templates} templates"],
            reference=("no difference", 0.0),
        ),
    )


def _map_figure(
    result: AssociationResult, pair: tuple[str, str], roles: list[str], title: str
) -> NamedFigure:
    """Return the controlled contrast of each role at each layer."""
    values = np.array([result.values("controlled", pair, role=role) for role in roles])
    size = float(np.nanmax(np.abs(values))) or 1.0
    return NamedFigure(
        "roles_by_layer.png",
        f"Controlled contrast of each role at each layer: {pair[0]} minus {pair[1]}.",
        plot_matrix(
            values,
            roles,
            result.layers,
            metric=_CONTROLLED,
            title=f"{title}: {pair[0]} \N{MINUS SIGN} {pair[1]}",
            notes=["the word itself"],
            limits=(-size, size),
            noun="role",
        ),
    )


def _neurons_figure(
    result: AssociationResult, row: PairRow, roles: list[str], title: str
) -> NamedFigure:
    """Return the neurons that contribute most at one layer to the largest contrast of a role."""
    pair = row.group_a, row.group_b
    own = [
        other
        for other in result.neurons
        if (other.layer, other.group_a, other.group_b) == (row.layer, *pair)
    ]
    role = max(roles, key=lambda name: abs(result.values("controlled", pair, role=name)).max())
    shown = [other for other in own if other.role == role]
    series = {"controlled": [(other.contribution, np.nan, np.nan) for other in shown]}
    names = [
        f"neuron {other.neuron} (q {'< 0.001' if other.q < 0.001 else f'= {other.q:.3f}'})"
        for other in shown
    ]
    return NamedFigure(
        "neurons.png",
        f"Neurons that contribute most to the controlled contrast of '{role}' at layer"
        f" {row.layer}.",
        plot_intervals(
            names,
            series,
            metric=_CONTRIBUTION,
            title=f"{title}.{row.layer}: {role}, {pair[0]} \N{MINUS SIGN} {pair[1]}",
            notes=["the contributions of all neurons add up to the contrast"],
            reference=("no contribution", 0.0),
        ),
    )
