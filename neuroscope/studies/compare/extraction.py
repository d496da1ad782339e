"""Extraction of what a comparison reads in one model."""

from dataclasses import dataclass
from pathlib import Path

from neuroscope.extraction.baseline import baseline_path, ensure_baseline, is_complete
from neuroscope.extraction.budget import FIXED_BUDGET
from neuroscope.storage.activation_store import store_folder
from neuroscope.studies.compare.experiment import CompareExperiment
from neuroscope.studies.store.store import store_activations
from neuroscope.studies.subjects import Subject, extraction_spec, model_loader


@dataclass(frozen=True)
class Extracted:
    """Paths at which the extraction of one model stored what its comparisons read."""

    activations: Path
    """Folder of the activations at token level."""
    baseline: Path
    """File of the model's baseline statistics."""


def extract_subject(experiment: CompareExperiment, subject: Subject) -> Extracted:
    """Store every token's activations and the baseline of one model, unless already stored."""
    spec = extraction_spec(experiment, subject, pool="none", token_rule="all")
    load = model_loader(experiment, subject)
    stored = store_activations(spec, store_folder(spec.key), load, budget=FIXED_BUDGET)
    baseline = baseline_path(
        subject.checkpoint, experiment.component, experiment.dtype, experiment.attention
    )
    if not is_complete(baseline):
        ensure_baseline(load(), experiment.component)
    return Extracted(stored.folder, baseline)
