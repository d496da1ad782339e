"""What a comparison leaves for people: metrics, tables, figures, reports."""

import itertools
import json
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuroscope.activations import Activations, Floats
from neuroscope.align import VIEWS
from neuroscope.experiment import Experiment
from neuroscope.extraction.reference import read_reference
from neuroscope.reporting import plots
from neuroscope.reporting.report import (
    ComparisonReport,
    ReferenceCheck,
    ReportFigure,
    to_html,
    to_text,
)
from neuroscope.reporting.tracking import Point
from neuroscope.results import METRICS, Comparison, model_label, pair_labels, rows_to_frame
from neuroscope.sites import Layers, Site
from neuroscope.storage.activation_store import MANIFEST, read_activations

_PAIR_METRICS = ("cosine", "mse", "cosine_z")
"""Metrics charted pair by pair; all of them are charted as means over pairs."""
_MOST_DRAWN = 12
"""Prompts, and pairs, that are drawn neuron by neuron at a layer."""
_MOST_COPIED = 64 * 2**20
"""Bytes of activations that are copied into the run; of more, only the manifest is."""


_ROUNDING = 1e-3  # reference standard deviations; a picture of less would show arithmetic noise
_UNIT = "mean over content tokens, in reference standard deviations"


class Drawn(NamedTuple):
    """A figure with its file's name and what it shows."""

    name: str
    caption: str
    figure: Any


def experiment_params(experiment: Experiment) -> dict[str, object]:
    """Settings of an experiment as flat params."""
    left_out = {"prompts", "reference", "note", "name", "models"}
    return experiment.model_dump(exclude=left_out) | {
        "models": ", ".join(experiment.models),
        "prompts": len(experiment.prompt_set()),
        "pairs": len(experiment.pairs()),
    }


def model_params(experiment: Experiment, model: str, layers: tuple[int, ...]) -> dict[str, object]:
    """Settings of one model's run as flat params."""
    params = experiment_params(experiment)
    del params["models"]
    return params | {"model": model, "layers": ",".join(map(str, layers))}


def focus_layers(experiment: Experiment, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Layers that are drawn neuron by neuron; the middle one is the 6th of 12, the 3rd of 6."""
    if experiment.plot_layers == "middle":
        return (layers[(len(layers) - 1) // 2],)
    wanted = Layers.parse(experiment.plot_layers).of(layers[-1] + 1)
    return tuple(layer for layer in wanted if layer in layers) or (layers[(len(layers) - 1) // 2],)


def points(comparison: Comparison) -> list[Point]:
    """The comparison as MLflow metrics: step = layer, and summary scalars beside them."""
    labels = pair_labels([(pair.a, pair.b) for pair in comparison.pairs])
    names = dict(zip(labels, _metric_names(labels.values()), strict=True))
    found: list[Point] = []
    for view, metric in itertools.product(VIEWS, METRICS):
        rows = [row for row in comparison.rows if row.view == view]
        values: dict[int, list[float]] = {}
        for row in rows:
            value = getattr(row, metric)
            if math.isnan(value):  # the view holds no word
                continue
            values.setdefault(row.layer, []).append(value)
            if metric in _PAIR_METRICS:
                name = names[row.a, row.b]
                found.append(Point(f"{view} {metric}/{name}", value, row.layer))
        means = {layer: sum(some) / len(some) for layer, some in values.items()}
        found += [Point(f"mean {view}/{metric}", mean, layer) for layer, mean in means.items()]
        found += _summary(f"summary/{view}_{metric}", means)
    return found


def overview_points(comparisons: Sequence[Comparison]) -> list[Point]:
    """Means over pairs for the parent run, so that it has charts where its models are folded away.

    One model's have the names they have in its own run; of several they end in the model's name.
    """
    models = _metric_names(model_label(one.model) for one in comparisons)
    return [
        replace(point, metric=f"{point.metric}/{model}") if len(models) > 1 else point
        for one, model in zip(comparisons, models, strict=True)
        for point in points(one)
        if point.metric.startswith("mean ")
    ]


def write_overview(experiment: Experiment, comparisons: list[Comparison], folder: Path) -> None:
    """Writes what belongs to the whole experiment: its settings and one table of all models."""
    import pandas as pd

    _write_experiment(experiment, folder)
    (folder / "tables").mkdir()
    frames = [one.to_frame().assign(model=one.model) for one in comparisons]
    pd.concat(frames).to_csv(folder / "tables" / "comparison.csv", index=False)


def write_outputs(
    experiment: Experiment,
    comparison: Comparison,
    activations: Path,
    reference: Path,
    causal: bool,
    links: Mapping[str, str],
    folder: Path,
) -> None:
    """Writes everything of one model's run: reports, tables, figures, provenance, activations.

    Args:
        experiment: that was run.
        comparison: its result in one model.
        activations: folder of the token-level activations.
        reference: file of the model's reference statistics.
        causal: whether a token sees only those before it.
        links: name -> address, shown in the report.
        folder: empty; gets the files under the names they have in the run.
    """
    focus = focus_layers(experiment, comparison.layers)
    read = read_activations(activations, [Site(comparison.site, layer) for layer in focus])
    (folder / "plots").mkdir()
    figures = []
    neurons = _neuron_figures(comparison, read, reference)
    for drawn in itertools.chain(_layer_figures(comparison), neurons):
        path = folder / "plots" / drawn.name
        plots.save_png(drawn.figure, path)
        figures.append(ReportFigure(drawn.name, drawn.caption, path.read_bytes()))
    checks, reference_note = _reference_checks(experiment, comparison)
    report = ComparisonReport(
        name=experiment.name,
        note=experiment.note,
        comparison=comparison,
        tokens=dict(zip(read.prompts.texts, read.tokens, strict=True)),
        focus=focus,
        causal=causal,
        provenance=read.provenance.to_dict(),
        figures=figures,
        left_out=_left_out(comparison, read),
        checks=checks,
        reference_note=reference_note,
        links=links,
    )
    (folder / "report.html").write_text(to_html(report), encoding="utf-8")
    (folder / "report.txt").write_text(to_text(report), encoding="utf-8")
    provenance = json.dumps(read.provenance.to_dict(), indent=1)
    (folder / "provenance.json").write_text(provenance, encoding="utf-8")
    _write_experiment(experiment, folder)
    _write_tables(comparison, read, folder / "tables")
    _copy_activations(activations, folder / "activations")


def _summary(name: str, means: Mapping[int, float]) -> list[Point]:
    """Over layers: the mean, the least, the greatest, and at which layers they are."""
    if not means:
        return []
    least, greatest = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    return [
        Point(f"{name}_mean", sum(means.values()) / len(means)),
        Point(f"{name}_min", means[least]),
        Point(f"{name}_min_layer", least),
        Point(f"{name}_max", means[greatest]),
        Point(f"{name}_max_layer", greatest),
    ]


def _metric_names(labels: Iterable[str]) -> list[str]:
    """For each label a distinct name that MLflow takes as the end of a metric's."""
    names: list[str] = []
    for label in labels:
        name = re.sub(r"[^\w. :-]", "_", label)
        while name in names:
            name += "_"
        names.append(name)
    return names


def _layer_figures(comparison: Comparison) -> Iterator[Drawn]:
    """What is drawn over layers."""
    labels = pair_labels([(pair.a, pair.b) for pair in comparison.pairs])
    about: Any = {"model": model_label(comparison.model), "component": comparison.site}
    by_view = {view: [row for row in comparison.rows if row.view == view] for view in VIEWS}

    def curves(metric: str, view: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {label: [] for label in labels.values()}
        for row in sorted(by_view[view], key=lambda row: row.layer):
            found[labels[row.a, row.b]].append(getattr(row, metric))
        return found

    series = {
        (metric, view): curves(metric, view) for metric in ("cosine", "mse") for view in VIEWS
    }
    yield Drawn(
        "by_layer.png",
        "Cosine similarity and mean squared error by layer, for every pair in the three views.",
        plots.plot_by_layer(comparison.layers, series, **about),
    )
    # of a single pair the curves say all that a second map could
    for metric in ("cosine", "cosine_z") if len(labels) > 1 else ("cosine",):
        table = curves(metric, "aligned")
        yield Drawn(
            f"pairs_by_layer_{metric}.png",
            f"Pairs by layers: {METRICS[metric]}, aligned view.",
            plots.plot_pairs_by_layer(
                comparison.layers,
                list(table),
                list(table.values()),
                metric=metric,
                view="aligned",
                **about,
            ),
        )


def _neuron_figures(
    comparison: Comparison, activations: Activations, reference: Path
) -> Iterator[Drawn]:
    """What is drawn neuron by neuron; nothing where there is nothing to see."""
    pairs = [(pair.a, pair.b) for pair in comparison.pairs]
    for site in activations:
        about: Any = {"model": model_label(comparison.model), "site": str(site)}
        means = dict(zip(activations.prompts.texts, _content_means(activations, site), strict=True))
        for index, (prompt, values) in enumerate(itertools.islice(means.items(), _MOST_DRAWN)):
            if not values.any():
                continue
            yield Drawn(
                f"neurons_{site}_{index}.png",
                f"Every neuron of {site} for “{prompt}”, mean over its content tokens.",
                plots.plot_activations(values, prompt=prompt, **about),
            )
        usual = read_reference(reference, "content", site.layer)
        z = {prompt: usual.standardise(values) for prompt, values in means.items()}
        for index, ((a, b), label) in enumerate(pair_labels(pairs[:_MOST_DRAWN]).items()):
            if np.abs(z[a] - z[b]).max() < _ROUNDING:
                continue
            yield Drawn(
                f"difference_{site}_{index}.png",
                f"Difference at {site}: {label}, in reference standard deviations.",
                plots.plot_difference(z[a], z[b], prompt_a=a, prompt_b=b, unit=_UNIT, **about),
            )


def _content_means(activations: Activations, site: Site) -> list[Floats]:
    """(neurons,) for each prompt: mean over its content tokens."""
    return [
        values[tokens.content].mean(axis=0)
        for values, tokens in zip(activations[site], activations.tokens, strict=True)
    ]


def _left_out(comparison: Comparison, activations: Activations) -> str:
    prompts, pairs = len(activations.prompts), len(comparison.pairs)
    if max(prompts, pairs) <= _MOST_DRAWN:
        return ""
    return (
        f"Drawn neuron by neuron are the first {_MOST_DRAWN} of {prompts} prompts and of {pairs}"
        " pairs; the activations of all are in the run's folder `activations`."
    )


def _reference_checks(
    experiment: Experiment, comparison: Comparison
) -> tuple[list[ReferenceCheck], str]:
    """Reference figures beside measured ones, and a sentence on whether they apply."""
    reference = experiment.reference
    if reference is None:
        return [], ""
    site = Site.parse(reference.site)
    origin = f"The reference figures ({reference.source}) hold for {reference.model} at {site}"
    if comparison.model != reference.model:
        return [], f"{origin}; they do not apply to {model_label(comparison.model)}."
    measured = {
        frozenset((row.a, row.b)): row
        for row in comparison.rows
        if (comparison.site, row.layer, row.view) == (site.component, site.layer, "aligned")
    }
    if not measured:
        return [], f"{origin}, which this run did not measure."
    checks = [
        ReferenceCheck(pair.a, pair.b, row.cosine, row.mse, pair.cosine, pair.mse)
        for pair in reference.pairs
        if (row := measured.get(frozenset((pair.a, pair.b))))
    ]
    missing = len(reference.pairs) - len(checks)
    left_out = f" {missing} of {len(reference.pairs)} pairs are not compared here." * bool(missing)
    return checks, f"{origin}; aligned view.{left_out}"


def _write_experiment(experiment: Experiment, folder: Path) -> None:
    import yaml

    text = yaml.safe_dump(
        experiment.model_dump(mode="json", exclude_defaults=True),
        sort_keys=False,
        allow_unicode=True,
    )
    (folder / "experiment.yaml").write_text(text, encoding="utf-8")


def _write_tables(comparison: Comparison, activations: Activations, folder: Path) -> None:
    import pandas as pd

    folder.mkdir()
    comparison.to_frame().to_csv(folder / "comparison.csv", index=False)
    rows_to_frame(comparison.pairs).to_csv(folder / "pairs.csv", index=False)
    prompts = activations.prompts
    pd.DataFrame({"id": prompts.ids, "text": prompts.texts}).to_csv(
        folder / "prompts.csv", index=False
    )
    tokens = [
        (prompt.id, position, text, special)
        for prompt, one in zip(prompts, activations.tokens, strict=True)
        for position, (text, special) in enumerate(zip(one.texts, one.special, strict=True))
    ]
    columns = ["prompt", "position", "token", "special"]
    pd.DataFrame(tokens, columns=columns).to_csv(folder / "tokens.csv", index=False)


def _copy_activations(source: Path, folder: Path) -> None:
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    if size <= _MOST_COPIED:
        shutil.copytree(source, folder)
        return
    folder.mkdir()
    shutil.copy(source / MANIFEST, folder / MANIFEST)
    (folder / "address.txt").write_text(f"{source}\n", encoding="utf-8")
