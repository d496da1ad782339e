"""Associations that changed between the base and the candidate of a check of drift."""

from dataclasses import replace

from neuroscope.errors import ExperimentError
from neuroscope.experiment_faults import about
from neuroscope.experiment_files import located
from neuroscope.options import Dtype
from neuroscope.sites import resolve_sites
from neuroscope.stats.contrasts import contrast_statistics, corrected
from neuroscope.studies.association.experiment import (
    AssociationExperiment,
    association_experiment,
)
from neuroscope.studies.association.extraction import (
    Extracted,
    extract_subject,
    measure_stored,
)
from neuroscope.studies.association.rows import Block
from neuroscope.studies.association.study import check
from neuroscope.studies.drift.check import candidate_dtype
from neuroscope.studies.drift.experiment import DriftExperiment
from neuroscope.studies.drift.result import AssociationDrift
from neuroscope.studies.drift.subjects import Pair
from neuroscope.studies.steps import Steps
from neuroscope.studies.subjects import Subject


def check_associations(experiment: DriftExperiment, pair: Pair) -> None:
    """Check that the associations of an experiment can be measured in both models, if any.

    Raises:
        ExperimentError: the file is no experiment of kind `association`, a tokenizer does not know
            a word, the base is a baseline without weights, or the models differ in depth.
    """
    if not experiment.associations:
        return
    with about("associations"):
        if pair.baseline:
            raise ExperimentError(
                "associations cannot be measured in a baseline, which has no weights",
                remedy="name the base itself, or leave the associations out",
            )
        if len({subject.checkpoint.layer_count for subject in (pair.base, pair.candidate)}) > 1:
            raise ExperimentError(
                "associations are compared layer by layer, and the models differ in depth",
                remedy="leave the associations out",
            )
        replaced = ("models", "device", "dtype", "attention", "memory")
        with located(experiment.associations, replaced):
            for subject in (pair.base, pair.candidate):
                check(studied_associations(experiment, subject, experiment.dtype))


def studied_associations(
    experiment: DriftExperiment, subject: Subject, dtype: Dtype
) -> AssociationExperiment:
    """Return the experiment of an experiment's associations in one model."""
    return association_experiment(
        experiment.associations,
        models=[subject.checkpoint.pinned_name],
        device=experiment.device,
        dtype=dtype,
        attention=experiment.attention,
        memory=experiment.memory,
    )


def association_drift(
    experiment: DriftExperiment, pair: Pair, steps: Steps
) -> list[AssociationDrift]:
    """Return the associations in both models, those that changed most first.

    Args:
        experiment: experiment whose associations are measured; none without any.
        pair: base and candidate.
        steps: steps to which the work is submitted: two per model.
    """
    if not experiment.associations:
        return []
    dtypes = experiment.dtype, candidate_dtype(experiment)
    base, candidate = (
        _measured(experiment, subject, dtype, steps)
        for subject, dtype in zip((pair.base, pair.candidate), dtypes, strict=True)
    )
    return drift_rows(base, candidate, experiment.seed)


def _measured(experiment: DriftExperiment, subject: Subject, dtype: Dtype, steps: Steps) -> Block:
    """Return the contrasts of one model."""
    studied = studied_associations(experiment, subject, dtype)
    layers = subject.checkpoint.layer_count
    read = replace(subject, sites=resolve_sites(studied.site, studied.layers, layers))
    name = f"associations {subject.label}"
    extracted = steps.wait(
        steps.submit(f"read {name}", extract_subject, studied, read, loads_model=True)
    )
    return steps.wait(steps.submit(name, _block, studied, read, extracted))


def _block(studied: AssociationExperiment, subject: Subject, extracted: Extracted) -> Block:
    sites = [measure_stored(studied, subject, extracted, site) for site in subject.sites]
    return Block.of(studied, sites)


def drift_rows(base: Block, candidate: Block, seed: int) -> list[AssociationDrift]:
    """Return the change of each contrast of words: those that changed, the largest first.

    Both blocks have the same templates, contrasts and layers.
    """
    keys = [key for key in base.keys if key[1] == "span"]
    own, other = (
        block.controlled[:, [block.keys.index(key) for key in keys]] for block in (base, candidate)
    )
    tested = contrast_statistics(other - own, seed=seed)
    q = corrected(tested.p)
    rows = [
        AssociationDrift(
            layer=layer,
            role=role,
            group_a=group_a,
            group_b=group_b,
            base=float(own[:, number].mean()),
            candidate=float(other[:, number].mean()),
            change=float(tested.mean[number]),
            low=float(tested.low[number]),
            high=float(tested.high[number]),
            p=float(tested.p[number]),
            q=float(q[number]),
            n=int(tested.templates[number]),
        )
        for number, (layer, _, role, group_a, group_b) in enumerate(keys)
    ]
    return sorted(rows, key=lambda row: (not row.changed, -abs(row.change)))
