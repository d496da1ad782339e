"""Compares prompts with each other in one or more models, at every layer."""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from neuroscope.activations import Activations
from neuroscope.align import VIEWS, align, view_positions
from neuroscope.experiment import Experiment, compare_experiment
from neuroscope.extraction.baseline import baseline_path, ensure_baseline, read_baseline
from neuroscope.extraction.checkpoints import Checkpoint, find_checkpoint
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import Model, load_model
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptSet
from neuroscope.reporting.run import Run
from neuroscope.reporting.tracking import Tracker
from neuroscope.results import Comparison, ComparisonRow, PairTokens, model_label
from neuroscope.sites import Site
from neuroscope.stats.similarity import jaccard, similarity
from neuroscope.storage.activation_store import read_activations, store_folder
from neuroscope.studies.compare_outputs import (
    experiment_params,
    focus_layers,
    model_params,
    overview_points,
    points,
    write_outputs,
    write_overview,
)
from neuroscope.studies.steps import InlineExecutor, Pending, Steps
from neuroscope.studies.store.plan import ExtractionSpec
from neuroscope.studies.store.store import store_activations

Pair = tuple[str, str]

_REFERENCE_RULES = {"aligned": "all", "span": "content", "context": "content"}
"""View -> tokens over which the statistics that standardise it are taken."""

_BUDGET = (
    4096  # tokens a batch, always the same, so that a comparison gives the same to the last bit
)


@dataclass(frozen=True)
class Extracted:
    """Where the extraction of one model left what its comparisons read."""

    activations: Path
    reference: Path


def compare(
    model: Model,
    prompts: PromptSet | Sequence[str],
    site: str = "resid_post",
    layers: str | int | Sequence[int] = "all",
    *,
    truncate: bool = False,
    progress: Progress = silent,
) -> Comparison:
    """Compares every pair of prompts in a loaded model.

    Nothing is recorded in MLflow; only the model's reference statistics are kept.

    Args:
        model: from `load_model`.
        prompts: two or more.
        site: a component such as `resid_post`, with or without a layer.
        layers: `all`, `3`, `0-5`, `2,4`, `-1`, if the site names none.
        truncate: cut prompts at the model's limit.
        progress: told what is being done.

    Raises:
        ExperimentError: there are fewer than two prompts, or the site or layers are unknown.
        PromptError, SiteError, NonfiniteError: as `extract`.
    """
    group = {"texts": PromptSet.of(prompts).texts}
    plan = compare_experiment(model.name, group, site=site, layers=layers)
    activations = extract(
        model,
        plan.prompt_set(),
        plan.component,
        plan.layer_choice.resolve(model.layer_count),
        pool="none",
        token_rule="all",
        truncate=truncate,
        progress=progress,
    )
    reference = ensure_baseline(model, plan.component, progress=progress)
    pairs = plan.pairs()
    rows = [row for at in activations for row in compare_site(activations, at, reference, pairs)]
    tokens = pair_tokens(activations, pairs)
    notes = token_notes(activations, pairs)
    return Comparison(model.name, plan.component, tuple(rows), tokens, notes)


def run_comparison(
    experiment: Experiment,
    tracker: Tracker,
    executor: Executor | None = None,
    *,
    progress: Progress = silent,
) -> list[Comparison]:
    """Runs an experiment and records it: one run per model, and one over several models.

    Args:
        experiment: of kind `compare`.
        tracker: open; it gets the runs.
        executor: runs the steps, in this thread if not given: one extraction a model, one
            comparison a model and layer, one report a model.
        progress: told which step is at work, and how many are done.

    Returns:
        One comparison for each model, in the order named.

    Raises:
        NeuroscopeError: of the kind that says what is wrong. Runs are left FAILED, and none is
            opened where a model or layer does not exist.
    """
    plans = plan_models(experiment)
    checkpoints, layers = [one for one, _ in plans], [chosen for _, chosen in plans]
    total = sum(2 + len(chosen) for chosen in layers)
    steps = Steps(executor or InlineExecutor(), progress, total=total)
    group = f"{experiment.name} {datetime.now(UTC).isoformat(' ', 'milliseconds')}"
    extractions = [
        steps.submit(
            f"extract {model_label(one.name)}",
            extract_model,
            experiment,
            one,
            chosen,
            loads_model=True,
        )
        for one, chosen in zip(checkpoints, layers, strict=True)
    ]
    found = []
    for one, chosen, extraction in zip(checkpoints, layers, extractions, strict=True):
        label = f"{experiment.name} {model_label(one.name)}"
        tags = _tags(experiment, one)
        with tracker.run("compare", label, group=group, tags=tags, note=experiment.note) as run:
            found.append(_compare_model(experiment, one, chosen, extraction, steps, run))
    if len(found) > 1:
        _record_overview(experiment, found, tracker, group)
    return found


def _record_overview(
    experiment: Experiment, comparisons: list[Comparison], tracker: Tracker, group: str
) -> None:
    """Record the tables and means over all models, in one more run of the group."""
    with (
        tracker.run("compare", experiment.name, group=group, note=experiment.note) as run,
        tempfile.TemporaryDirectory() as folder,
    ):
        run.log_params(experiment_params(experiment))
        write_overview(experiment, comparisons, Path(folder))
        run.log_folder(Path(folder))
        run.log_points(overview_points(comparisons))


def plan_models(experiment: Experiment) -> list[tuple[Checkpoint, tuple[int, ...]]]:
    """Each model's files and the layers to compare; nothing is loaded.

    Raises:
        ModelError, SiteError: a model or a layer does not exist.
    """
    plans = []
    for name in experiment.models:
        checkpoint = find_checkpoint(name)
        layers = experiment.layer_choice.resolve(checkpoint.layer_count)
        focus_layers(experiment, layers)
        plans.append((checkpoint, layers))
    return plans


def _compare_model(
    experiment: Experiment,
    checkpoint: Checkpoint,
    layers: tuple[int, ...],
    extraction: Pending[Extracted],
    steps: Steps,
    run: Run,
) -> Comparison:
    """Compares one model's layers and records the result in its run."""
    run.log_params(model_params(experiment, checkpoint.name, layers))
    run.log_prompts(experiment.prompt_set(), experiment.name, "tables/prompts.csv")
    extracted = steps.wait(extraction)
    label = model_label(checkpoint.name)
    sites = [Site(experiment.component, layer) for layer in layers]
    compared = [
        steps.submit(f"compare {label} {site}", compare_stored, experiment, extracted, site)
        for site in sites
    ]
    rows = [row for pending in compared for row in steps.wait(pending)]
    read, pairs = read_activations(extracted.activations, []), experiment.pairs()
    tokens, notes = pair_tokens(read, pairs), token_notes(read, pairs)
    comparison = Comparison(
        checkpoint.name, experiment.component, tuple(rows), tokens, notes, run.id
    )
    with tempfile.TemporaryDirectory() as folder:
        report = steps.submit(
            f"report {label}",
            write_outputs,
            experiment,
            comparison,
            extracted.activations,
            extracted.reference,
            checkpoint.architecture.causal,
            run.links,
            Path(folder),
        )
        steps.wait(report)
        run.log_folder(Path(folder))
    run.log_points(points(comparison))
    return comparison


def extract_model(
    experiment: Experiment, checkpoint: Checkpoint, layers: tuple[int, ...]
) -> Extracted:
    """Every token's activations and the reference statistics of one model, unless kept already."""
    wanted = ExtractionSpec(
        checkpoint,
        experiment.prompt_set(),
        tuple(Site(experiment.component, layer) for layer in layers),
        pool="none",
        token_rule="all",
        truncate=experiment.truncate,
        dtype=experiment.dtype,
        attention=experiment.attention,
    )

    @cache
    def load() -> Model:
        return load_model(
            checkpoint,
            device=experiment.device,
            dtype=experiment.dtype,
            attention=experiment.attention,
        )

    stored = store_activations(wanted, store_folder(wanted.key), load, budget=_BUDGET)
    reference = baseline_path(
        checkpoint, experiment.component, experiment.dtype, experiment.attention
    )
    if not reference.is_file():
        ensure_baseline(load(), experiment.component)
    return Extracted(stored.folder, reference)


def compare_stored(
    experiment: Experiment, extracted: Extracted, site: Site
) -> tuple[ComparisonRow, ...]:
    """The experiment's pairs at one site, from what the extraction left."""
    activations = read_activations(extracted.activations, [site])
    return tuple(compare_site(activations, site, extracted.reference, experiment.pairs()))


def compare_site(
    activations: Activations, site: Site, reference: Path, pairs: Sequence[Pair]
) -> Iterator[ComparisonRow]:
    """One row for each pair and view at one site.

    Args:
        activations: of every token, special ones included.
        site: recorded there.
        reference: file of the model's reference statistics.
        pairs: as texts.
    """
    usual = {
        view: read_baseline(reference, rule, site.layer) for view, rule in _REFERENCE_RULES.items()
    }
    index = {text: position for position, text in enumerate(activations.prompts.texts)}
    arrays = activations[site]
    for a, b in pairs:
        tokens_a, tokens_b = activations.tokens[index[a]], activations.tokens[index[b]]
        views = view_positions(
            align(tokens_a, tokens_b),
            arrays[index[a]],
            arrays[index[b]],
            tokens_a.words,
            tokens_b.words,
        )
        for view in VIEWS:
            measured = similarity(*views[view], usual[view])
            yield ComparisonRow(
                site.layer, a, b, view, **asdict(measured), positions=len(views[view][0])
            )


def pair_tokens(activations: Activations, pairs: Sequence[Pair]) -> tuple[PairTokens, ...]:
    """How much the prompts of each pair share on the surface, special tokens left out."""
    content = {
        text: [id for id, special in zip(tokens.ids, tokens.special, strict=True) if not special]
        for text, tokens in zip(activations.prompts.texts, activations.tokens, strict=True)
    }
    return tuple(
        PairTokens(
            a, b, len(content[a]), len(content[b]), jaccard(set(content[a]), set(content[b]))
        )
        for a, b in pairs
    )


def token_notes(activations: Activations, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Sentences on prompts that the model cannot read as they were meant."""
    tokens = dict(zip(activations.prompts.texts, activations.tokens, strict=True))
    notes = [
        f"{sum(one.unknown)} of {sum(one.content)} words or pieces of '{text}' are unknown to the"
        " tokenizer: the model cannot tell them apart"
        for text, one in tokens.items()
        if any(one.unknown)
    ]
    notes += [
        f"'{a}' and '{b}' are the same tokens to this model: there is nothing to compare"
        for a, b in pairs
        if tokens[a].ids == tokens[b].ids
    ]
    return tuple(notes)


def _tags(experiment: Experiment, checkpoint: Checkpoint) -> dict[str, str]:
    return {
        "neuroscope.model": checkpoint.name,
        "neuroscope.model_sha": checkpoint.fingerprint,
        "neuroscope.prompts_digest": experiment.prompt_set().digest,
        "neuroscope.site": experiment.component,
    }
