"""Extraction of what a study of associations reads in one model, and its contrasts by site."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from neuroscope.extraction.baseline import (
    baseline_path,
    ensure_baseline,
    is_complete,
    read_baseline,
)
from neuroscope.extraction.budget import FIXED_BUDGET
from neuroscope.extraction.models import Model
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations, store_folder
from neuroscope.studies.association.experiment import AssociationExperiment
from neuroscope.studies.association.measures import SiteContrasts, measure_site
from neuroscope.studies.association.predictions import (
    Predictions,
    cannot_predict,
    no_predictions,
    predict,
)
from neuroscope.studies.association.words import read_lexicon
from neuroscope.studies.store.store import store_activations
from neuroscope.studies.subjects import Subject, extraction_spec, model_loader


@dataclass(frozen=True)
class Extracted:
    """Paths at which the extraction of one model stored what its contrasts read."""

    activations: Path
    """Folder of the activations at token level."""
    baseline: Path
    """File of the model's baseline statistics."""
    predictions: Predictions
    """What a masked language model predicts in the statements."""


def extract_subject(experiment: AssociationExperiment, subject: Subject) -> Extracted:
    """Store every token's activations and the baseline of one model, unless already stored."""
    spec = extraction_spec(experiment, subject, pool="none", token_rule="all")
    reason = cannot_predict(experiment, subject.checkpoint)
    load = model_loader(experiment, subject, head=not reason)
    stored = store_activations(spec, store_folder(spec.key), load, budget=FIXED_BUDGET)
    baseline = baseline_path(
        subject.checkpoint, experiment.component, experiment.dtype, experiment.attention
    )
    if not is_complete(baseline):
        ensure_baseline(load(), experiment.component)
    return Extracted(stored.folder, baseline, _predictions(experiment, load, reason))


def _predictions(
    experiment: AssociationExperiment, load: Callable[[], Model], reason: str
) -> Predictions:
    """Return what a model predicts; nothing if there is a reason."""
    if not reason and not load().has_head:
        reason = "the model does not fit into memory with its head"
    return no_predictions(reason) if reason else predict(experiment, load())


def measure_stored(
    experiment: AssociationExperiment, subject: Subject, extracted: Extracted, site: Site
) -> SiteContrasts:
    """Return the contrasts at one site, from what the extraction left."""
    activations = read_activations(extracted.activations, [site])
    return measure_site(
        experiment,
        activations,
        site,
        read_lexicon(experiment, activations.tokens, subject.label),
        read_baseline(extracted.baseline, "content", site.layer),
        causal=subject.checkpoint.architecture.causal,
    )
