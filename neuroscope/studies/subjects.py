"""Models under study: their labels, sites and settings, without loading them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from neuroscope.errors import HeadlessError, ModelError, ResourceError
from neuroscope.experiment import Fingerprints, ModelsExperiment
from neuroscope.experiment_faults import about
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.models import Model, load_model
from neuroscope.labels import distinct_labels
from neuroscope.options import Pool, TokenRule
from neuroscope.sites import Site, resolve_sites
from neuroscope.studies.models import find_model
from neuroscope.studies.store.spec import ExtractionSpec


@dataclass(frozen=True)
class Subject:
    """Model under study, with the sites that are read in it."""

    label: str
    """Display name of the model, distinct among the models of an experiment."""
    checkpoint: Checkpoint
    sites: tuple[Site, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the sites, in order."""
        return tuple(site.layer for site in self.sites)


def subjects_of(experiment: ModelsExperiment) -> list[Subject]:
    """Return each model of an experiment with its sites, without loading any model.

    Raises:
        ModelError, SiteError: a model or a layer does not exist, or two names stand for one model.
    """
    checkpoints = [_find(index, name) for index, name in enumerate(experiment.models)]
    _refuse_repeated(checkpoints)
    labels = distinct_labels([label_source(checkpoint) for checkpoint in checkpoints])
    return [
        Subject(label, checkpoint, _sites(experiment, checkpoint))
        for label, checkpoint in zip(labels, checkpoints, strict=True)
    ]


def _find(index: int, name: str) -> Checkpoint:
    with about("models", index):
        return find_model(name)


def _refuse_repeated(checkpoints: Sequence[Checkpoint]) -> None:
    """Raise ModelError if two names stand for one model."""
    names: dict[Path, str] = {}
    for index, checkpoint in enumerate(checkpoints):
        first = names.setdefault(checkpoint.folder.resolve(), checkpoint.name)
        if first != checkpoint.name:
            with about("models", index):
                raise ModelError(
                    f"'{first}' and '{checkpoint.name}' are the same model", remedy="remove one"
                )


def _sites(experiment: ModelsExperiment, checkpoint: Checkpoint) -> tuple[Site, ...]:
    with about("site" if experiment.layers == "all" else "layers"):
        return resolve_sites(experiment.site, experiment.layers, checkpoint.layer_count)


def label_source(checkpoint: Checkpoint) -> str:
    """Return the name from which a label is made: a path, a registered version, or as given."""
    is_hub_id = checkpoint.revision and not checkpoint.name.startswith("models:")
    return checkpoint.name if is_hub_id else checkpoint.pinned_name


def extraction_spec(
    experiment: ModelsExperiment,
    subject: Subject,
    *,
    pool: Pool = "mean",
    token_rule: TokenRule = "content",
) -> ExtractionSpec:
    """Return what an experiment extracts from one model."""
    return ExtractionSpec(
        checkpoint=subject.checkpoint,
        prompts=experiment.prompt_set,
        sites=subject.sites,
        pool=pool,
        token_rule=token_rule,
        truncate=experiment.truncate,
        dtype=experiment.dtype,
        attention=experiment.attention,
    )


def model_loader(
    experiment: ModelsExperiment, subject: Subject, *, head: bool = False
) -> Callable[[], Model]:
    """Return a function that loads the model of a subject when it is first called.

    Args:
        experiment: settings of the model.
        subject: model to load.
        head: whether to load the language-model head, if there is one and it fits into memory.
    """
    load_with = partial(
        load_model,
        subject.checkpoint,
        device=experiment.device,
        dtype=experiment.dtype,
        attention=experiment.attention,
        memory=experiment.memory,
    )

    @cache
    def load() -> Model:
        if head and experiment.memory != "stream":  # a model with its head cannot be streamed
            with suppress(HeadlessError, ResourceError):
                return load_with(head=True)
        return load_with()

    return load


def fingerprints_of(experiment: ModelsExperiment, subjects: Sequence[Subject]) -> Fingerprints:
    """Return the digests of the models and the prompts that a run reads."""
    models = {
        subject.checkpoint.pinned_name: subject.checkpoint.fingerprint for subject in subjects
    }
    return Fingerprints(models=models, prompts=experiment.prompt_set.digest)


def changes_since(experiment: ModelsExperiment, subject: Subject) -> tuple[str, ...]:
    """Return sentences on what has changed since the run of which an experiment is a copy."""
    recorded = experiment.fingerprints
    if recorded is None:
        return ()
    checkpoint = subject.checkpoint
    notes = []
    if recorded.models.get(checkpoint.name, checkpoint.fingerprint) != checkpoint.fingerprint:
        notes.append(f"the files of model '{subject.label}' have changed since the recorded run")
    if recorded.prompts and recorded.prompts != experiment.prompt_set.digest:
        notes.append("the prompts have changed since the recorded run")
    return tuple(notes)
