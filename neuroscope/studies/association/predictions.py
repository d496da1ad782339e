"""Contrasts of what a masked language model predicts in the gap of a group."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroscope.errors import HeadlessError, ModelError
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.likelihood import check_likelihood, prediction_associations
from neuroscope.extraction.models import Model
from neuroscope.stats.contrasts import contrast_statistics, corrected
from neuroscope.stats.moments import Doubles
from neuroscope.studies.association.experiment import AssociationExperiment
from neuroscope.studies.association.result import PredictionRow
from neuroscope.studies.association.words import Lexicon


@dataclass(frozen=True, eq=False)
class Predictions:
    """Associations of roles and words in a model's predictions, or why there are none."""

    values: Doubles
    """(statements, roles and control roles, words of groups) log(p_target / p_prior), in nats; NaN
    for a word that is not a single token; empty if nothing is predicted."""
    reason: str = ""
    """Why nothing is predicted."""


def cannot_predict(experiment: AssociationExperiment, checkpoint: Checkpoint) -> str:
    """Return why a model predicts no words in the statements of an experiment; empty if it does."""
    if not experiment.statements:
        return "the experiment has no statements"
    if checkpoint.architecture.causal:
        return "the model is causal and fills no gaps"
    if experiment.memory == "stream":
        return "a streamed model has no language-model head"
    try:
        check_likelihood(checkpoint)
    except HeadlessError:
        return "the model has no language-model head"
    except ModelError as error:
        return error.problem
    return ""


def predict(experiment: AssociationExperiment, model: Model) -> Predictions:
    """Return what a masked model with its head predicts in the statements of an experiment.

    Raises:
        PromptError: a statement is too long.
        NonfiniteError, ResourceError: as in `prediction_associations`.
    """
    roles = predicted_roles(experiment)
    return Predictions(
        prediction_associations(model, experiment.statements, roles, experiment.group_words)
    )


def no_predictions(reason: str) -> Predictions:
    """Return the predictions of a model that predicts nothing."""
    return Predictions(np.empty((0, 0, 0)), reason)


def predicted_roles(experiment: AssociationExperiment) -> list[str]:
    """Return the roles and then the control roles of an experiment."""
    return [*experiment.roles, *experiment.control_roles]


def prediction_rows(
    experiment: AssociationExperiment, lexicon: Lexicon, predictions: Predictions
) -> tuple[list[PredictionRow], list[str]]:
    """Return the contrasts of predictions, and sentences on what was left out.

    q-values are corrected over all of them. The unit is the statement.
    """
    if predictions.reason:
        left_out = f"predictions were left out: {predictions.reason}"
        notes = [left_out] if experiment.statements else []
        return [], notes
    known_words = ~np.isnan(predictions.values.sum(axis=(0, 1)))  # (words of groups,)
    unknown = [experiment.group_words[place] for place in np.flatnonzero(~known_words)]
    notes = []
    if unknown:
        listed = ", ".join(map(repr, unknown))
        notes.append(f"left out of the predictions, as they are not single tokens: {listed}")
    words = [word for word in experiment.group_words if word not in unknown]
    known = [
        (role, a, b)
        for role, a, b in experiment.contrasts
        if all(set(experiment.groups[name]) & set(words) for name in (a, b))
    ]
    if not known:
        return [], notes
    by_role = _by_role(experiment, predictions.values)
    raw = np.stack([_raw(experiment, by_role, words, key, [key[0]]) for key in known], axis=1)
    controls = np.stack(
        [_raw(experiment, by_role, words, key, lexicon.controls[key[0]]) for key in known],
        axis=1,
    )
    return _rows(known, raw, raw - controls, experiment.seed), notes


def _by_role(experiment: AssociationExperiment, values: Doubles) -> dict[str, Doubles]:
    """Return (statements, words of groups) of each role and control role."""
    return {role: values[:, number] for number, role in enumerate(predicted_roles(experiment))}


def _raw(
    experiment: AssociationExperiment,
    by_role: dict[str, Doubles],
    words: Sequence[str],
    contrast: tuple[str, str, str],
    roles: Sequence[str],
) -> Doubles:
    """Return the contrast of two groups, mean over roles, (statements,)."""
    values = np.mean([by_role[role] for role in roles], axis=0)
    first, second = (
        values[
            :,
            [
                number
                for number, word in enumerate(experiment.group_words)
                if word in experiment.groups[name] and word in words
            ],
        ].mean(axis=1)
        for name in contrast[1:]
    )
    difference: Doubles = first - second
    return difference


def _rows(
    contrasts: Sequence[tuple[str, str, str]], raw: Doubles, controlled: Doubles, seed: int
) -> list[PredictionRow]:
    before = contrast_statistics(raw, seed=seed, p=False)
    tested = contrast_statistics(controlled, seed=seed)
    q = corrected(tested.p)
    columns = {
        "raw": before.mean,
        "raw_low": before.low,
        "raw_high": before.high,
        "controlled": tested.mean,
        "low": tested.low,
        "high": tested.high,
        "p": tested.p,
        "q": q,
        "effect": tested.effect,
    }
    return [
        PredictionRow(
            *contrast,
            **{name: values[number].item() for name, values in columns.items()},
            n=int(tested.templates[number]),
        )
        for number, contrast in enumerate(contrasts)
    ]
