"""Figures of a study of associations."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from neuroscope.labels import model_label
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import (
    Band,
    Curve,
    Panel,
    plot_curves,
    plot_intervals,
    plot_matrix,
)
from neuroscope.studies.association.headline import leading_rows, roles_at, strongest
from neuroscope.studies.association.measures import VIEWS
from neuroscope.studies.association.result import (
    METRICS,
    AssociationResult,
    PairRow,
    contrast_label,
    pair_label,
)

CONTRAST = Metric("contrast", "contrast", "difference of mean standardised cosines")
_CONTRIBUTION = Metric("contribution", "contribution to the contrast", "term of the contrast")
_MOST_PANELS = 3  # contrasts in a row
_MOST_ROLES = 40  # roles with a row of their own
_AXES = {
    view: replace(CONTRAST, axis=f"contrast of {name}")
    for view, name in {"span": "the word", "context": "words around it"}.items()
}


def association_figures(result: AssociationResult) -> Iterator[NamedFigure]:
    """Yield the figures, the most informative first."""
    leading = leading_rows(result.pairs)
    if not leading:
        return
    row = strongest(leading, result.rows)
    yield _contrasts_figure(result)
    if row.roles > 1:
        yield _roles_figure(result, row)
        if len(result.layers) > 1:
            yield _map_figure(result, row)
    yield _neurons_figure(result, row)


def _title(result: AssociationResult) -> str:
    return f"{model_label(result.model)} · {result.component}"


def _contrasts_figure(result: AssociationResult) -> NamedFigure:
    """Return the largest contrasts by layer, a row of panels per view."""
    contrasts = result.largest(_MOST_PANELS)
    views = [view for view in VIEWS if any(row.view == view for row in result.rows)]
    shown = (
        "" if len(contrasts) == len(result.contrasts) else "; the largest contrasts after control"
    )
    return NamedFigure(
        "contrast_by_layer.png",
        "How much more similar the role is to the first group than to the second, before (raw) and"
        " after control, with 95 % intervals over templates. Above 0: nearer to the first group."
        " The grey band holds 95 % of the controlled contrasts of random groups of words.",
        plot_curves(
            [[_panel(result, contrast, view) for contrast in contrasts] for view in views],
            title=_title(result),
            notes=[f"{result.templates} templates{shown}"],
        ),
    )


def _panel(result: AssociationResult, contrast: tuple[str, str, str], view: str) -> Panel:
    def values(name: str) -> np.ndarray:
        return result.values(name, contrast, view)

    curves = {
        name: Curve(result.layers, values(name), (values(low), values(high)))
        for name, low, high in (("raw", "raw_low", "raw_high"), ("controlled", "low", "high"))
    }
    band = None
    if not np.isnan(values("words_low")).all():
        band = Band(
            "95 % of random groups", result.layers, values("words_low"), values("words_high")
        )
    title = contrast_label(*contrast)
    return Panel(_AXES[view], curves, title, {"no difference": 0.0}, band=band)


def _roles_figure(result: AssociationResult, row: PairRow) -> NamedFigure:
    """Return the contrasts of each role at one layer, those nearest to the first group on top."""
    own = sorted(roles_at(row, result.rows), key=lambda other: -other.controlled)
    notes = [f"95 % intervals over {result.templates} templates"]
    if len(own) > _MOST_ROLES:
        notes.append(f"the {_MOST_ROLES} roles of {len(own)} that are nearest to either group")
        own = own[: _MOST_ROLES // 2] + own[-_MOST_ROLES // 2 :]
    pair = pair_label(row.group_a, row.group_b)
    series = {
        "raw": [(other.raw, other.raw_low, other.raw_high) for other in own],
        "controlled": [(other.controlled, other.low, other.high) for other in own],
    }
    if not math.isnan(own[0].words_low):
        series["95 % of random groups"] = [
            (math.nan, other.words_low, other.words_high) for other in own
        ]
    return NamedFigure(
        "roles.png",
        f"Each role at layer {row.layer}: right of 0, nearer to {row.group_a} than to"
        f" {row.group_b}.",
        plot_intervals(
            [other.role for other in own],
            series,
            metric=CONTRAST,
            title=f"{_title(result)}.{row.layer}: {pair}",
            notes=notes,
            reference=("no difference", 0.0),
        ),
    )


def _map_figure(result: AssociationResult, row: PairRow) -> NamedFigure:
    """Return the controlled contrast of each role at each layer."""
    pair = row.group_a, row.group_b
    roles = [other.role for other in roles_at(row, result.rows)]
    values = np.array([result.values("controlled", (role, *pair)) for role in roles])
    size = float(np.nanmax(np.abs(values))) or 1.0
    return NamedFigure(
        "roles_by_layer.png",
        f"Controlled contrast of each role at each layer: above 0, nearer to {pair[0]} than to"
        f" {pair[1]}.",
        plot_matrix(
            values,
            roles,
            result.layers,
            metric=METRICS["controlled"],
            title=f"{_title(result)}: {pair_label(*pair)}",
            notes=["controlled contrast of the word itself"],
            limits=(-size, size),
            diverging=True,
            noun="role",
        ),
    )


def _neurons_figure(result: AssociationResult, row: PairRow) -> NamedFigure:
    """Return the neurons that contribute most to the largest contrast of a role at one layer."""
    largest = max(roles_at(row, result.rows), key=lambda other: abs(other.controlled))
    key = largest.layer, largest.role, largest.group_a, largest.group_b
    own = [
        other
        for other in result.neurons
        if (other.layer, other.role, other.group_a, other.group_b) == key
    ]
    names = [
        f"neuron {other.neuron}{'' if math.isnan(other.q) else f' ({_q(other.q)})'}"
        for other in own
    ]
    contrast = contrast_label(*key[1:])
    return NamedFigure(
        "neurons.png",
        f"Neurons that contribute most to the controlled contrast {contrast} at layer {row.layer}.",
        plot_intervals(
            names,
            {"controlled": [(other.contribution, math.nan, math.nan) for other in own]},
            metric=_CONTRIBUTION,
            title=f"{_title(result)}.{row.layer}: {contrast}",
            notes=[
                f"contributions of all neurons add up to the contrast, {largest.controlled:.3f}"
            ],
            reference=("no contribution", 0.0),
        ),
    )


def _q(q: float) -> str:
    return "q < 0.001" if q < 0.001 else f"q = {q:.3f}"
