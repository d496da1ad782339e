"""Checks of the versions of a registered model, read from MLflow and charted over versions."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from neuroscope.errors import NeuroscopeError
from neuroscope.reporting.metrics import Metric
from neuroscope.reporting.page import NamedFigure
from neuroscope.reporting.plots import VersionCheck, plot_history
from neuroscope.reporting.recorded import RecordedRun
from neuroscope.reporting.run import Point, Run
from neuroscope.reporting.run_reader import PROMPTS_TAG
from neuroscope.reporting.tables import Cell, Column, Section, Table
from neuroscope.reporting.tracking import Tracker
from neuroscope.stats.decision import Verdict
from neuroscope.studies.drift.outputs import VERDICT_TAG
from neuroscope.studies.run_folder import RunFolder

MODEL_TAG = "neuroscope.drift.model"
"""Tag with the name of the registered model, of the runs of its checks and of its history."""
VERSION_TAG, BASE_VERSION_TAG = "neuroscope.drift.version", "neuroscope.drift.base_version"
"""Tags with the numbers of the candidate and of the base."""
LOOK_TAG = "neuroscope.drift.look"
"""Tag with the number of the check among all checks of the model on these prompts."""
HISTORY = "monitor"
"""Kind of the runs whose metrics have step = version."""

HISTORY_FIGURE = "history.png"
_CHARTED = ("statistic", "lower", "upper", "margin", "p_value", "kl", "final_change")
"""Fields of a check that are metrics of the history run."""
_STATISTIC = Metric("statistic", "statistic", "largest distance over layers", "low")


@dataclass(frozen=True)
class VersionDrift:
    """Result of the check of one version of a registered model."""

    version: int
    base: int
    """Version that it was compared with."""
    look: int
    """Number of the check among all checks of the model on these prompts."""
    verdict: Verdict
    statistic: float
    lower: float
    """One-sided 95 % confidence limits."""
    upper: float
    margin: float
    p_value: float
    alpha: float
    """Rate of false alarms that was left for this check."""
    replicates: int
    kl: float
    """Mean KL divergence of the predictions in nats; NaN without a language-model head."""
    final_change: float
    """Mean 1 - cosine of the final representations; NaN with a language-model head."""
    prompts: str
    """Digest of the prompts."""
    run_id: str
    date: datetime
    """Start of the check, in UTC."""

    def to_dict(self) -> dict[str, Any]:
        """Return the check as JSON values."""
        entries = {field.name: getattr(self, field.name) for field in fields(self)}
        return entries | {"date": self.date.isoformat(timespec="seconds")}


def recorded_checks(tracker: Tracker, name: str, digest: str = "") -> list[VersionDrift]:
    """Return the finished checks of a registered model's versions, oldest first.

    Args:
        tracker: connection to MLflow.
        name: name of the registered model.
        digest: digest of the prompts; empty for all sets of prompts.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    tags = {MODEL_TAG: name} | ({PROMPTS_TAG: digest} if digest else {})
    runs = tracker.find_runs("drift", tags)
    return [_check(run) for run in reversed(runs) if VERDICT_TAG in run.tags]


def _check(run: RecordedRun) -> VersionDrift:
    tags, metrics = run.tags, run.metrics
    return VersionDrift(
        version=int(tags[VERSION_TAG]),
        base=int(tags[BASE_VERSION_TAG]),
        look=int(tags[LOOK_TAG]),
        verdict=tags[VERDICT_TAG],  # type: ignore[arg-type]
        statistic=metrics["drift/statistic"],
        lower=metrics["drift/lower"],
        upper=metrics["drift/upper"],
        margin=metrics["drift/margin"],
        p_value=metrics["drift/p_value"],
        alpha=float(run.params["alpha"]),
        replicates=int(metrics["drift/replicates"]),
        kl=metrics.get("drift/kl", math.nan),
        final_change=metrics.get("drift/final_change", math.nan),
        prompts=tags[PROMPTS_TAG],
        run_id=run.id,
        date=run.started,
    )


def latest_by_version(checks: Sequence[VersionDrift]) -> list[VersionDrift]:
    """Return the latest check of each version, by increasing version."""
    latest = {check.version: check for check in checks}
    return [latest[version] for version in sorted(latest)]


def record_history(tracker: Tracker, name: str, digest: str) -> str:
    """Bring the history run of a model and a set of prompts up to date, and return its id.

    Its metrics have step = version, and show the latest check of each version. MLflow cannot
    replace the value of a step: if a version was checked again, against another base, a new run
    takes the place of the old one, which is deleted.
    """
    checks = latest_by_version(recorded_checks(tracker, name, digest))
    tags = {MODEL_TAG: name, PROMPTS_TAG: digest}
    for old in tracker.find_runs(HISTORY, tags):
        steps = tracker.metrics(old.id).get("statistic", {})
        drawn = {check.version: check.statistic for check in checks if check.version in steps}
        run = tracker.reopened(old.id, keep_description=False)
        if drawn == steps:
            if new := [check for check in checks if check.version not in steps]:
                _write(run, name, new, checks)
            return old.id
        run.delete()
    title = f"{name} by version"
    with tracker.run(HISTORY, title, source=f"history of {name}", tags=tags) as run:
        _write(run, name, checks, checks)
        return run.id


def _write(
    run: Run, name: str, new: Sequence[VersionDrift], checks: Sequence[VersionDrift]
) -> None:
    """Record the values of new checks, and the table and the figure of all checks."""
    run.log_points([point for check in new for point in _points(check)])
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(Path(path))
        folder.table("versions", list(checks))
        folder.figures([NamedFigure(HISTORY_FIGURE, "", history_figure(name, checks))])
        run.log_folder(folder.path)
    newest = checks[-1]
    run.describe(f"{name}: {_counts(checks)}; version {newest.version} {newest.verdict}.")


def _points(check: VersionDrift) -> Iterator[Point]:
    for name in _CHARTED:
        if not math.isnan(value := getattr(check, name)):
            yield Point(name, value, check.version)


def _counts(checks: Sequence[VersionDrift]) -> str:
    """Return how many versions have each verdict, in words."""
    verdicts = [check.verdict for check in checks]
    named = dict.fromkeys(verdicts)
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in named)


def history_figure(name: str, checks: Sequence[VersionDrift]) -> Any:
    """Return the figure of the statistic by version, with limits, margin and verdicts."""
    drawn = [
        VersionCheck(check.version, check.statistic, check.lower, check.upper, check.verdict)
        for check in latest_by_version(checks)
    ]
    margin = checks[-1].margin
    return plot_history(
        drawn, margin=margin, metric=_STATISTIC, title=f"Drift of {name}", notes=[_bases(checks)]
    )


def _bases(checks: Sequence[VersionDrift]) -> str:
    """Return with which version the others were compared, in words."""
    bases = sorted({check.base for check in checks})
    if len(bases) == 1:
        return f"against version {bases[0]}"
    latest = latest_by_version(checks)
    groups = [
        f"{', '.join(str(check.version) for check in latest if check.base == base)}"
        f" against version {base}"
        for base in bases
    ]
    return "; ".join(groups)


def checks_table(title: str, checks: Sequence[VersionDrift]) -> Table:
    """Return the table of checks, by version and date."""
    columns = [
        Column("version"),
        Column("base"),
        Column("verdict"),
        *map(Column, ("statistic", "lower", "upper", "margin", "p", "alpha")),
        Column("look"),
        Column("date (UTC)"),
    ]
    rows = [
        [
            *(check.version, check.base, check.verdict),
            *(check.statistic, check.lower, check.upper, check.margin),
            *((None, None, None) if check.verdict == "identical" else _test(check)),
            f"{check.date:%Y-%m-%d %H:%M}",
        ]
        for check in sorted(checks, key=lambda check: (check.version, check.date))
    ]
    return Table(title, columns, [Section("", rows)])


def _test(check: VersionDrift) -> tuple[Cell, Cell, Cell]:
    """Return p-value, alpha and number of a check that has spent alpha."""
    return check.p_value, check.alpha, check.look


@dataclass(frozen=True)
class History:
    """Checks of a registered model's versions on one set of prompts."""

    name: str
    prompts: str
    """Digest of the prompts."""
    checks: tuple[VersionDrift, ...]
    """All checks, oldest first."""
    run_id: str
    """Run whose metrics have step = version."""

    def table(self) -> Table:
        """Return the table of all checks."""
        return checks_table(f"Drift of {self.name}, prompts {self.prompts[:8]}", self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the history as JSON values."""
        rows = [check.to_dict() for check in self.checks]
        return {"prompts": self.prompts, "run_id": self.run_id, "rows": rows}


def find_histories(tracker: Tracker, name: str) -> list[History]:
    """Return the history of a registered model on each set of prompts, the newest last.

    Raises:
        NeuroscopeError: no check of this model is recorded.
        TrackingError: MLflow cannot be reached.
    """
    histories = []
    for run in reversed(tracker.find_runs(HISTORY, {MODEL_TAG: name})):
        digest = run.tags[PROMPTS_TAG]
        checks = tuple(recorded_checks(tracker, name, digest))
        histories.append(History(name, digest, checks, run.id))
    if not histories:
        raise NeuroscopeError(
            f"no check of a registered model '{name}' is recorded in MLflow",
            remedy="check its versions with `neuroscope monitor`",
        )
    return histories
