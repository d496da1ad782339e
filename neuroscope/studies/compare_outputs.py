"""What a comparison leaves for people: metrics, tables, figures, reports."""

import itertools
import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from neuroscope.activations import Activations
from neuroscope.align import VIEWS
from neuroscope.errors import SiteError
from neuroscope.experiment import Experiment
from neuroscope.reporting import plots
from neuroscope.reporting.report import (
    ComparisonReport,
    PublishedCheck,
    ReportFigure,
    to_html,
    to_text,
)
from neuroscope.reporting.run import Point
from neuroscope.results import METRICS, Comparison, model_label, pair_labels, rows_to_frame
from neuroscope.sites import Layers, Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.storage.manifest import MANIFEST
from neuroscope.studies.compare_figures import layer_figures, left_out, neuron_figures

_PAIR_METRICS = ("cosine", "mse", "cosine_z")
"""Metrics charted pair by pair; all of them are charted as means over pairs."""
_MOST_COPIED = 64 * 2**20
"""Bytes of activations that are copied into the run; of more, only the manifest is."""


def experiment_params(experiment: Experiment) -> dict[str, object]:
    """Settings of an experiment as flat params."""
    left_out = {"prompts", "published", "note", "name", "models"}
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
    """Layers that are drawn neuron by neuron; the middle one is the 6th of 12, the 3rd of 6.

    Raises:
        SiteError: the experiment names none of `layers`, which are those compared.
    """
    if experiment.plot_layers == "middle":
        return (layers[(len(layers) - 1) // 2],)
    wanted = Layers.parse(experiment.plot_layers).resolve(layers[-1] + 1)
    drawn = tuple(layer for layer in wanted if layer in layers)
    if not drawn:
        compared = ", ".join(map(str, layers))
        raise SiteError(
            f"plot layers '{experiment.plot_layers}' are none of those compared ({compared}):"
            " name some of these, or 'middle'"
        )
    return drawn


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
                found.append(Point(f"pairs {view} {metric}/{name}", value, row.layer))
        means = {layer: sum(some) / len(some) for layer, some in values.items()}
        found += [Point(f"mean {view}/{metric}", mean, layer) for layer, mean in means.items()]
        found += _summary(f"summary/{view}_{metric}", means)
    return found


def overview_points(comparisons: Sequence[Comparison]) -> list[Point]:
    """Return each model's means over pairs, for the run over several models.

    The names are those of the models' own runs, followed by the model's name.
    """
    models = _metric_names(model_label(one.model) for one in comparisons)
    return [
        replace(point, metric=f"{point.metric}/{model}")
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
        folder: gets the files under the names they have in the run; what a first try left
            there is written again.
    """
    focus = focus_layers(experiment, comparison.layers)
    read = read_activations(activations, [Site(comparison.site, layer) for layer in focus])
    (folder / "plots").mkdir(exist_ok=True)
    figures = []
    neurons = neuron_figures(comparison, read, reference)
    for drawn in itertools.chain(layer_figures(comparison), neurons):
        path = folder / "plots" / drawn.name
        plots.save_png(drawn.figure, path)
        figures.append(ReportFigure(drawn.name, drawn.caption, path.read_bytes()))
    checks, published_note = _published_checks(experiment, comparison)
    report = ComparisonReport(
        name=experiment.name,
        note=experiment.note,
        comparison=comparison,
        tokens=dict(zip(read.prompts.texts, read.tokens, strict=True)),
        focus=focus,
        causal=causal,
        provenance=read.provenance.to_dict(),
        figures=figures,
        left_out=left_out(comparison, read),
        checks=checks,
        published_note=published_note,
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


def _published_checks(
    experiment: Experiment, comparison: Comparison
) -> tuple[list[PublishedCheck], str]:
    """Published figures beside measured ones, and a sentence on whether they apply."""
    published = experiment.published
    if published is None:
        return [], ""
    site = Site.parse(published.site)
    origin = f"The published figures ({published.source}) hold for {published.model} at {site}"
    if comparison.model != published.model:
        return [], f"{origin}; they do not apply to {model_label(comparison.model)}."
    measured = {
        frozenset((row.a, row.b)): row
        for row in comparison.rows
        if (comparison.site, row.layer, row.view) == (site.component, site.layer, "aligned")
    }
    if not measured:
        return [], f"{origin}, which this run did not measure."
    checks = [
        PublishedCheck(pair.a, pair.b, row.cosine, row.mse, pair.cosine, pair.mse)
        for pair in published.pairs
        if (row := measured.get(frozenset((pair.a, pair.b))))
    ]
    missing = len(published.pairs) - len(checks)
    left_out = f" {missing} of {len(published.pairs)} pairs are not compared here." * bool(missing)
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

    folder.mkdir(exist_ok=True)
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
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return
    folder.mkdir(exist_ok=True)
    shutil.copy(source / MANIFEST, folder / MANIFEST)
    (folder / "address.txt").write_text(f"{source}\n", encoding="utf-8")
