"""Checks of drift against one base, whose own passes and replicates are computed once."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neuroscope.studies.drift.agreement import Decision, decide_drift
from neuroscope.studies.drift.check import Stored, replicate, store_model
from neuroscope.studies.drift.experiment import USUAL_REPLICATES, DriftExperiment, drift_experiment
from neuroscope.studies.drift.measures import estimate
from neuroscope.studies.drift.replicates import Replicates
from neuroscope.studies.drift.result import DriftResult
from neuroscope.studies.drift.rewording import rewording_unit
from neuroscope.studies.drift.study import run_drift
from neuroscope.studies.drift.subjects import pair_of

FEW: dict[str, Any] = {"replicates": 3, "alpha": 0.25, "resamples": 100}
"""Settings for what depends neither on replicates nor on resamples."""


@dataclass(frozen=True)
class Base:
    """Base of several checks with the same prompts."""

    model: str
    """Name or folder of the model."""
    prompts: Path
    """File of prompts."""

    def decide(self, candidate: Path) -> Decision:
        """Return the decision of a check with its default settings."""
        experiment = self.experiment(candidate)
        pair = pair_of(experiment)
        folders = [
            store_model(experiment, subject, experiment.dtype)
            for subject in (pair.base, pair.candidate)
        ]
        estimated = estimate(experiment, pair, Stored(*folders))
        distances = self._replicates.distances
        return decide_drift(estimated, distances, margin=experiment.margin, alpha=experiment.alpha)

    def check(self, candidate: Path, **settings: Any) -> DriftResult:
        """Return the result of a complete check, which is not recorded in MLflow."""
        (result,) = run_drift(self.experiment(candidate, **settings))
        return result

    @property
    def rewording(self) -> float:
        """Mean distance that harmless rewording of the prompts causes."""
        return rewording_unit(self._replicates.rewordings)

    def experiment(self, candidate: Path | str, **settings: Any) -> DriftExperiment:
        """Return the experiment of a check."""
        source = {"file": str(self.prompts)}
        return drift_experiment(self.model, str(candidate), source, **settings)

    @cached_property
    def _replicates(self) -> Replicates:
        """Replicates with the default settings."""
        experiment = self.experiment(self.model, candidate_dtype="bfloat16")  # which is not read
        pair = pair_of(experiment)
        stored = store_model(experiment, pair.base, experiment.dtype)
        return replicate(experiment, pair.base, stored, pair.distance, USUAL_REPLICATES)
