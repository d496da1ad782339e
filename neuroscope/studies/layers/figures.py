"""Figures of a study of layers."""

from collections.abc import Iterator

from neuroscope.labels import model_label
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import Curve, Panel, plot_curves, plot_matrix
from neuroscope.studies.layers.result import METRICS, LayersResult, measured

_ACCURACY = Metric("accuracy", "accuracy", "accuracy on held-out prompts or tokens", "high")
_CKA = Metric("cka", "debiased CKA", "similarity of two layers", "high")
_STANDARDISED = Metric("cosine_z", "standardised cosine", "cosine of standardised prompts")
_GEOMETRY = (
    ("norm", "anisotropy", "outlier_energy"),
    ("effective_rank", "curvature", "cosine_z"),
)
"""Metrics of the panels, row by row."""


def layers_figures(result: LayersResult) -> Iterator[NamedFigure]:
    """Yield the figures, the most informative first."""
    title = f"{model_label(result.model)} · {result.component}"
    panels = list(_reading_panels(result))
    if panels:
        yield NamedFigure(
            "reading_by_layer.png",
            "How well a linear probe reads held-out prompts and tokens at each layer, with 95 %"
            " intervals.",
            plot_curves([panels], title=title, notes=[f"{result.prompts:,} prompts"]),
        )
    if len(result.layers) > 1:
        yield NamedFigure(
            "cka.png",
            "Similarity of layers: debiased CKA of standardised neurons.",
            plot_matrix(
                result.cka,
                result.layers,
                result.layers,
                metric=_CKA,
                title=title,
                notes=[f"debiased CKA; {result.prompts:,} prompts"],
                y_label="layer",
                limits=(0, 1),
                square=True,
            ),
        )
    yield NamedFigure(
        "geometry_by_layer.png",
        "Geometry of tokens and prompts by layer.",
        plot_curves(
            [[_geometry_panel(result, name) for name in row] for row in _GEOMETRY],
            title=title,
        ),
    )
    if measured("cosine_same", result.rows):
        yield NamedFigure(
            "prompts_by_layer.png",
            f"Mean cosine of prompts with the same and with another {result.baselines.label}.",
            plot_curves([_prompt_panels(result)], title=title),
        )


def _reading_panels(result: LayersResult) -> Iterator[Panel]:
    """Yield a panel for the label and one for token identity, each if it was probed for."""
    baselines = result.baselines
    if measured("label_accuracy", result.rows):
        references = {"chance": baselines.label_chance, "bag of tokens": baselines.label_tokens}
        yield _reading_panel(result, "label", baselines.label, references)
    if measured("token_accuracy", result.rows):
        references = {"chance": baselines.token_chance}
        yield _reading_panel(result, "token", "token identity", references)


def _reading_panel(
    result: LayersResult, kind: str, title: str, references: dict[str, float]
) -> Panel:
    band = (result.column(f"{kind}_low"), result.column(f"{kind}_high"))
    accuracy, control = result.column(f"{kind}_accuracy"), result.column(f"{kind}_control")
    curves = {
        "probe": Curve(result.layers, accuracy, band),
        "control task": Curve(result.layers, control),
    }
    return Panel(_ACCURACY, curves, title, references)


def _geometry_panel(result: LayersResult, name: str) -> Panel:
    curve = Curve(result.layers, result.column(name))
    return Panel(METRICS[name], {"": curve}, log=name == "norm")


def _prompt_panels(result: LayersResult) -> list[Panel]:
    """Return a panel of raw cosines, and one of cosines of standardised prompts."""
    panels = []
    for metric, prefix in ((METRICS["cosine"], "cosine"), (_STANDARDISED, "cosine_z")):
        curves = {
            f"{pairs} {result.baselines.label}": Curve(
                result.layers, result.column(f"{prefix}_{pairs}")
            )
            for pairs in ("same", "other")
        }
        panels.append(Panel(metric, curves))
    return panels
