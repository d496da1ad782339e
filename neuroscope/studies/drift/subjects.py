"""The two models of a check, how they are loaded, and what they have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

from neuroscope.errors import ModelError, NonfiniteError
from neuroscope.experiment_faults import about
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.differences import (
    CheckpointDifferences,
    compare_checkpoints,
    compare_with_digests,
)
from neuroscope.extraction.models import Model, load_model
from neuroscope.files import absolute
from neuroscope.home import check_allowed
from neuroscope.labels import counted, distinct_labels
from neuroscope.options import Attention, Dtype
from neuroscope.sites import Site, parse_site, resolve_sites
from neuroscope.studies.drift.agreement import Distance, GeometryDistance, NeuronDistance
from neuroscope.studies.drift.baseline import Baseline, open_baseline
from neuroscope.studies.drift.experiment import DriftExperiment
from neuroscope.studies.models import find_model
from neuroscope.studies.store.spec import ExtractionSpec
from neuroscope.studies.subjects import Subject, label_source

_RESIDUAL = "resid_post"
_NAMED = 3  # tensors that are named in a message


@dataclass(frozen=True)
class Pair:
    """Base and candidate of a check, with the sites that are read in each."""

    base: Subject
    candidate: Subject
    baseline: Baseline | None = None
    """File that stands for the base; None if the base itself is present."""

    @property
    def matches(self) -> dict[Site, Site]:
        """Site of the base -> site of the candidate: at the same depth, relative to all layers."""
        own, other = (subject.checkpoint.layer_count for subject in (self.base, self.candidate))
        return {
            site: Site(site.component, _matching(site.layer, own, other))
            for site in self.base.sites
        }

    @property
    def distance(self) -> Distance:
        """Distance of a layer in both models that decides."""
        return NeuronDistance() if self.same_shape else GeometryDistance()

    @property
    def same_shape(self) -> bool:
        """Whether the neurons of a layer correspond: same family, depth and widths of the layers.

        The number of tokens in the vocabulary may differ.
        """
        return _shape(self.base.checkpoint) == _shape(self.candidate.checkpoint)


def pair_of(experiment: DriftExperiment) -> Pair:
    """Return the models of a check, without loading them.

    Raises:
        ModelError, SiteError: a model or a layer does not exist, or a baseline is damaged.
        ExperimentError: a baseline was made with other settings.
    """
    with about("models", 0):
        baseline = find_baseline(experiment.models[0])
        base = baseline.checkpoint if baseline else find_model(experiment.models[0])
    with about("models", 1):
        _refuse_file(experiment.models[1])
        candidate = find_model(experiment.models[1])
    if baseline:
        baseline.check(experiment)
    dtypes = experiment.dtype, experiment.candidate_dtype or experiment.dtype
    own_label = baseline.label if baseline else label_source(base)
    labels = distinct_labels([own_label, label_source(candidate)])
    if dtypes[0] != dtypes[1]:
        labels = [f"{label} {dtype}" for label, dtype in zip(labels, dtypes, strict=True)]
    pair = Pair(
        Subject(labels[0], base, _sites(experiment, base)), Subject(labels[1], candidate, ())
    )
    matched = tuple(dict.fromkeys(pair.matches.values()))
    return Pair(pair.base, Subject(labels[1], candidate, matched), baseline)


def compare_files(pair: Pair) -> CheckpointDifferences:
    """Compare the files of both models.

    Raises:
        NonfiniteError: weights of one of the models contain NaN or infinity.
    """
    base, candidate = pair.base.checkpoint, pair.candidate.checkpoint
    if pair.baseline:
        return compare_with_digests(base, pair.baseline.digests, candidate)
    differences = compare_checkpoints(base, candidate)
    _check_finite(base.name, differences.damaged("base"))
    _check_finite(candidate.name, differences.damaged("candidate"))
    return differences


def _check_finite(model: str, damaged: Sequence[str]) -> None:
    """Raise NonfiniteError if there are damaged tensors; the first ones are named."""
    if damaged:
        names, rest = ", ".join(damaged[:_NAMED]), len(damaged) - _NAMED
        further = f" and {counted(rest, 'further tensor')}" if rest > 0 else ""
        raise NonfiniteError(
            f"weights of '{model}' contain NaN or infinity: {names}{further}",
            remedy="save the model again, or name another one",
        )


def _refuse_file(name: str) -> None:
    """Raise ModelError if a candidate is a file, such as a baseline."""
    if absolute(name).is_file():
        raise ModelError(
            f"the candidate '{name}' is a file; a baseline can stand for the base only",
            remedy="name the folder or the registered version of the new model",
        )


def find_baseline(name: str) -> Baseline | None:
    """Return the baseline that a name stands for; None if it names no file.

    Raises:
        ModelError: the file is not a baseline, is damaged or cannot be read.
        NeuroscopeError: it is outside the folders in `NEUROSCOPE_ROOTS`.
    """
    path = absolute(name)
    if not path.is_file():
        return None
    check_allowed(path)
    return open_baseline(path)


def extraction_of(experiment: DriftExperiment, subject: Subject, dtype: Dtype) -> ExtractionSpec:
    """Return what is stored of one model."""
    return ExtractionSpec(
        checkpoint=subject.checkpoint,
        prompts=experiment.prompt_set,
        sites=subject.sites,
        pool=experiment.pool,
        truncate=experiment.truncate,
        dtype=dtype,
        attention=experiment.attention,
    )


def load(
    experiment: DriftExperiment,
    subject: Subject,
    dtype: Dtype,
    attention: Attention | None = None,
    *,
    head: bool = False,
) -> Model:
    """Load one of the models."""
    return load_model(
        subject.checkpoint,
        device=experiment.device,
        dtype=dtype,
        attention=attention or experiment.attention,
        memory=experiment.memory,
        head=head,
    )


def _sites(experiment: DriftExperiment, checkpoint: Checkpoint) -> tuple[Site, ...]:
    """Return the sites that decide, and those of the residual stream at the same layers."""
    with about("site" if experiment.layers == "all" else "layers"):
        sites = resolve_sites(experiment.site, experiment.layers, checkpoint.layer_count)
        layers = [site.layer for site in sites]
    component = parse_site(experiment.site)[0]
    residual = () if component == _RESIDUAL else tuple(Site(_RESIDUAL, layer) for layer in layers)
    return *sites, *residual


def _matching(layer: int, own: int, other: int) -> int:
    """Return the layer of a model of `other` layers at the depth of a layer of `own` layers.

    The depth of a layer is that of its output, (layer + 1) / layers.
    """
    return min(range(other), key=lambda match: abs((match + 1) / other - (layer + 1) / own))


def _shape(checkpoint: Checkpoint) -> tuple[str | int, ...]:
    widths = (checkpoint.neurons(component) for component in (_RESIDUAL, "mlp_act"))
    return checkpoint.architecture.family, checkpoint.layer_count, *widths
