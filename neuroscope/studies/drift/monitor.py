"""Monitor of a registered model: checks every version that was not yet checked."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from neuroscope.errors import ModelError, NeuroscopeError, TrackingError
from neuroscope.progress import Progress, silent
from neuroscope.reporting.registered_model import RegisteredModel, VersionEntry
from neuroscope.reporting.tracking import Tracker
from neuroscope.stats.decision import spent_alpha
from neuroscope.studies.drift.experiment import DriftExperiment, drift_experiment
from neuroscope.studies.drift.history import (
    BASE_VERSION_TAG,
    LOOK_TAG,
    MODEL_TAG,
    VERSION_TAG,
    VersionDrift,
    record_history,
    recorded_checks,
)
from neuroscope.studies.drift.outputs import VERDICT_TAG
from neuroscope.studies.drift.study import check, run_drift

_BASE, _PROMPTS = "neuroscope.drift.base", "neuroscope.drift.prompts"
_RUN, _STATISTIC = "neuroscope.drift.run_id", "neuroscope.drift.statistic"
"""Tags of a checked version, beside that of the verdict."""
_CLAIM = "neuroscope.drift.monitor"
"""Tag of the registered model that names the process that checks its versions."""


@dataclass(frozen=True)
class Watch:
    """Registered model whose versions are checked, and how."""

    name: str
    """Name of the registered model."""
    source: Mapping[str, Any]
    """Keys and values of a `PromptSource`."""
    alias: str = "champion"
    """Alias of the version with which the others are compared."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of a `DriftExperiment`; `alpha` is the rate of false alarms of all checks."""

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("@/:"):
            raise ModelError(
                f"'{self.name}' is not the name of a registered model",
                remedy="name it without models:/, version or alias, as in `news`",
            )

    def experiment(self, base: int, version: int, look: int = 1) -> DriftExperiment:
        """Return the experiment that checks a version, with the alpha of one of many looks.

        Raises:
            ExperimentError: a setting is invalid, such as a number of replicates that is too small
                for the alpha of this look.
        """
        own, other = (f"models:/{self.name}/{number}" for number in (base, version))
        experiment = drift_experiment(own, other, dict(self.source), **self.settings)
        alpha = spent_alpha(experiment.alpha, look)
        return drift_experiment(own, other, dict(self.source), **{**self.settings, "alpha": alpha})


@dataclass(frozen=True)
class Failure:
    """Version that could not be checked."""

    version: int
    error: str


@dataclass(frozen=True)
class MonitorReport:
    """What a monitor has found and done."""

    name: str
    alias: str
    base: int
    """Version with the alias."""
    prompts: str
    """Digest of the prompts."""
    margin: float
    """Margin of new checks; that of earlier ones may differ."""
    looks: int = 0
    """Number of checks of this model on these prompts so far, over which alpha is spent."""
    checked: tuple[VersionDrift, ...] = ()
    """Checks of this call."""
    known: tuple[VersionDrift, ...] = ()
    """Earlier checks of the other versions against this base."""
    failed: tuple[Failure, ...] = ()
    """Versions that could not be checked."""
    deleted: tuple[int, ...] = ()
    """Versions that were deleted during their check, so that no tags could be written."""
    held_by: str = ""
    """Process that checks the versions at this moment, so that nothing was done."""
    history_run: str | None = None
    """Id of the run whose metrics have step = version."""

    @property
    def outdated(self) -> list[int]:
        """Versions whose earlier check had another margin; they are not checked again."""
        return [check.version for check in self.known if check.margin != self.margin]

    @property
    def headline(self) -> str:
        """Sentence on what was done."""
        model = f"{self.name}, base version {self.base} ({self.alias})"
        if self.held_by:
            return f"{model}: nothing done, as its versions are being checked by {self.held_by}."
        found = [f"version {check.version} {check.verdict}" for check in self.checked]
        found += [f"version {failure.version} could not be checked" for failure in self.failed]
        return f"{model}: {', '.join(found) if found else 'no new version to check'}."

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            **{key: getattr(self, key) for key in ("name", "alias", "base", "prompts", "looks")},
            "headline": self.headline,
            "margin": self.margin,
            "checked": [check.to_dict() for check in self.checked],
            "known": [check.to_dict() for check in self.known],
            "failed": [asdict(failure) for failure in self.failed],
            "deleted": list(self.deleted),
            "held_by": self.held_by,
            "history_run": self.history_run,
        }


def check_versions(
    watch: Watch,
    tracker: Tracker,
    executor: Executor | None = None,
    progress: Progress = silent,
    on_checked: Callable[[VersionDrift], None] = lambda check: None,
) -> MonitorReport:
    """Check the versions of a registered model that were not yet checked against the base.

    The base is the version with the alias. A pair of versions is checked once per set of prompts,
    and the version is tagged with the verdict. Alpha is spent over the checks: see `spent_alpha`.
    While another monitor checks the same model with the same prompts, nothing is done.

    Args:
        watch: model to watch.
        tracker: tracker that records the runs.
        executor: executor that runs the steps; by default they run in this thread.
        progress: callback that receives the current step and how many steps are done.
        on_checked: function that is called after each check, once its tags are written.

    Raises:
        ModelError: there is no such registered model or alias.
        PromptError, ExperimentError: the prompts or a setting are invalid.
        TrackingError: MLflow cannot be reached or refuses a request.
    """
    model = RegisteredModel.connect(watch.name)
    base = model.version_with(watch.alias)
    trial = watch.experiment(base, base)
    _ = trial.studied_label  # checks the prompts before anything is claimed
    report = MonitorReport(watch.name, watch.alias, base, trial.prompt_set.digest, trial.margin)
    with model.claimed(f"{_CLAIM}.{report.prompts[:8]}") as holder:
        if holder:
            return replace(report, held_by=holder)
        return _Monitor(watch, model, tracker, executor, progress, on_checked).run(report)


@dataclass(frozen=True)
class _Monitor:
    """Monitor that holds the claim on its model."""

    watch: Watch
    model: RegisteredModel
    tracker: Tracker
    executor: Executor | None
    progress: Progress
    on_checked: Callable[[VersionDrift], None]

    def run(self, report: MonitorReport) -> MonitorReport:
        """Check the versions one after another, and return the completed report."""
        versions = self.model.versions()
        recorded = recorded_checks(self.tracker, self.watch.name, report.prompts)
        known = _against(report.base, versions, recorded)
        for entry in versions:
            if (earlier := known.get(entry.number)) and not _is_tagged(entry, earlier):
                self._tag(earlier)  # the monitor that checked it was killed before it did
        report = replace(report, known=tuple(known.values()))
        look = 1 + max(
            (check.look for check in recorded if check.verdict != "identical"), default=0
        )
        for entry in versions:
            if entry.number != report.base and entry.number not in known:
                report = self._checked(report, entry.number, look)
                newest = report.checked[-1] if report.checked else None
                if newest and newest.version == entry.number and newest.verdict != "identical":
                    look += 1
        report = replace(report, looks=look - 1)
        if report.known and not report.checked:  # the last monitor may have been interrupted
            history = record_history(self.tracker, self.watch.name, report.prompts)
            report = replace(report, history_run=history)
        return report

    def _checked(self, report: MonitorReport, version: int, look: int) -> MonitorReport:
        """Check a version, and return the report with the result."""
        try:
            result = self._check(report, version, look)
        except TrackingError:
            raise  # the other versions would fail too
        except NeuroscopeError as error:
            return replace(report, failed=(*report.failed, Failure(version, str(error))))
        report = replace(report, checked=(*report.checked, result))
        if not self._tag(result):
            report = replace(report, deleted=(*report.deleted, version))
        history = record_history(self.tracker, report.name, report.prompts)
        report = replace(report, history_run=history)
        self.on_checked(result)
        return report

    def _check(self, report: MonitorReport, version: int, look: int) -> VersionDrift:
        """Check a version; the check is recorded as a run, from which it is read."""
        experiment = self.watch.experiment(report.base, version, look)
        check(experiment)
        tags = {
            MODEL_TAG: report.name,
            VERSION_TAG: str(version),
            BASE_VERSION_TAG: str(report.base),
            LOOK_TAG: str(look),
        }
        tracker = self.tracker.tagged(tags)
        (result,) = run_drift(experiment, tracker, self.executor, self.progress)
        recorded = recorded_checks(tracker, report.name, report.prompts)
        return next(check for check in recorded if check.run_id == result.run_id)

    def _tag(self, result: VersionDrift) -> bool:
        """Tag the version of a check; return whether it still exists.

        The verdict is removed first and written last: a version with a verdict has all tags.
        """
        tags = {
            VERDICT_TAG: None,
            _BASE: str(result.base),
            _PROMPTS: result.prompts,
            _RUN: result.run_id,
            _STATISTIC: f"{result.statistic:.6g}",
        }
        number = result.version
        return self.model.tag(number, tags) and self.model.tag(
            number, {VERDICT_TAG: result.verdict}
        )


def _against(
    base: int, versions: Sequence[VersionEntry], checks: Sequence[VersionDrift]
) -> dict[int, VersionDrift]:
    """Return the latest check of each version against a base.

    Checks from before the registration of either are those of a deleted model of the same name.
    """
    created = {entry.number: entry.created for entry in versions}
    return {
        check.version: check
        for check in checks
        if check.base == base
        and check.version in created
        and check.date >= max(created[check.version], created.get(base, created[check.version]))
    }


def _is_tagged(entry: VersionEntry, check: VersionDrift) -> bool:
    """Return whether a version has the tags of a check, or of one with other prompts."""
    tags = entry.tags
    if not tags.get(VERDICT_TAG) or tags.get(_BASE) != str(check.base):
        return False
    return tags.get(_PROMPTS) != check.prompts or tags.get(_RUN) == check.run_id
