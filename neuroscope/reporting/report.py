"""A comparison as a page, as text and as Markdown."""

import base64
import datetime
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuroscope.align import VIEWS
from neuroscope.results import Comparison, ComparisonRow, model_label, pair_labels
from neuroscope.tokens import Tokens

VIEW_MEANINGS = {
    "aligned": "all tokens, special ones included, the replaced words pooled to one position",
    "span": "the replaced words only",
    "context": "the shared words only: the replaced word can enter through attention alone",
}


NO_VALUE = "\N{EN DASH}"


@dataclass(frozen=True)
class PublishedCheck:
    """Published figures beside the measured ones, for one pair."""

    a: str
    b: str
    cosine: float
    mse: float
    published_cosine: float
    published_mse: float


@dataclass(frozen=True)
class ReportFigure:
    """A picture and what it shows."""

    name: str
    caption: str
    png: bytes

    @property
    def source(self) -> str:
        """The picture as a data address, so that the page needs no other file."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class ComparisonReport:
    """Everything that the report of one model's comparison shows."""

    name: str
    note: str
    comparison: Comparison
    tokens: Mapping[str, Tokens]  # prompt -> as the model reads it
    focus: tuple[int, ...]  # layers shown first and drawn neuron by neuron
    causal: bool
    provenance: Mapping[str, Any]
    figures: Sequence[ReportFigure] = ()
    left_out: str = ""  # which figures were not drawn
    checks: Sequence[PublishedCheck] = ()
    published_note: str = ""
    links: Mapping[str, str] | None = None
    date: datetime.datetime | None = None

    @property
    def title(self) -> str:
        return f"{model_label(self.comparison.model)}, {self.comparison.site}"


def to_text(report: ComparisonReport) -> str:
    """Plain text: prompts, their tokens, then each layer's comparisons."""
    date = report.date or datetime.datetime.now().astimezone()
    lines = [
        f"Activation comparison for {report.title}",
        f"Date: {date:%Y-%m-%d %H:%M:%S}",
        *([f"Note: {report.note.strip()}"] if report.note.strip() else []),
        "",
    ]
    for prompt, tokens in report.tokens.items():
        lines += [f"Prompt: {prompt}", f"Tokens: {list(tokens.texts)}", ""]
    for note in report.comparison.notes:
        lines += [f"Note: {note}", ""]
    for layer in report.comparison.layers:
        lines += [f"Layer {report.comparison.site}.{layer}", "Activation Comparisons:"]
        for views in _by_pair(report.comparison, layer):
            lines += _pair_lines(views)
    lines += _published_lines(report)
    return "\n".join(lines) + "\n"


def to_markdown(comparison: Comparison, focus: int, links: Mapping[str, str]) -> str:
    """A table of one layer with the links, for an orchestrator's page."""
    labels = pair_labels([(pair.a, pair.b) for pair in comparison.pairs])
    lines = [
        f"### {model_label(comparison.model)}, {comparison.site}.{focus}",
        "",
        "| pair | cosine | MSE | standardised cosine | span cosine | context cosine |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for views in _by_pair(comparison, focus):
        row = views["aligned"]
        cells = [
            _plain(labels[row.a, row.b]),
            number(row.cosine),
            number(row.mse),
            number(row.cosine_z),
            number(views["span"].cosine),
            number(views["context"].cosine),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- {_plain(note)}" for note in comparison.notes)]
    layers = comparison.layers
    lines += ["", f"Shown is layer {focus} of {layers[0]} to {layers[-1]}; the report has all.", ""]
    lines += [*(f"[{name}]({address})" for name, address in links.items())]
    return "\n".join(lines)


def to_html(report: ComparisonReport) -> str:
    """A page that needs no other file; everything from outside is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("neuroscope.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    comparison = report.comparison
    return environment.get_template("report.html.j2").render(
        report=report,
        date=report.date or datetime.datetime.now().astimezone(),
        labels=pair_labels([(pair.a, pair.b) for pair in comparison.pairs]),
        layers={layer: _by_pair(comparison, layer) for layer in comparison.layers},
        views=VIEWS,
        view_meanings=VIEW_MEANINGS,
    )


def number(value: float) -> str:
    """Four decimals, as in the first tables of this kind; a dash where there is no value."""
    return NO_VALUE if math.isnan(value) else f"{value:.4f}"


def _plain(text: str) -> str:
    """Text in which Markdown finds nothing to mark up."""
    return re.sub(r"([\\`*_\[\]<>!|])", r"\\\1", text)


def _by_pair(comparison: Comparison, layer: int) -> list[dict[str, ComparisonRow]]:
    """For each pair, view -> row, at one layer."""
    found: dict[tuple[str, str], dict[str, ComparisonRow]] = {}
    for row in comparison.rows:
        if row.layer == layer:
            found.setdefault((row.a, row.b), {})[row.view] = row
    return list(found.values())


def _pair_lines(views: Mapping[str, ComparisonRow]) -> list[str]:
    row = views["aligned"]
    return [
        f"'{row.a}' vs. '{row.b}'",
        f"Cosine Similarity: {number(row.cosine)}",
        f"Mean Squared Error: {number(row.mse)}",
        f"Standardised Cosine: {number(row.cosine_z)}"
        f" (replaced words {number(views['span'].cosine_z)},"
        f" shared words {number(views['context'].cosine_z)})",
        "",
    ]


def _published_lines(report: ComparisonReport) -> list[str]:
    lines = [report.published_note] if report.published_note else []
    for check in report.checks:
        lines += [
            f"'{check.a}' vs. '{check.b}'",
            f"Cosine Similarity: {number(check.cosine)}"
            f" (published {number(check.published_cosine)})",
            f"Mean Squared Error: {number(check.mse)} (published {number(check.published_mse)})",
            "",
        ]
    return lines
