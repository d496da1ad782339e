"""The commands `neuroscope monitor` and `neuroscope drift history`."""

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.app import app
from flows.cli.options import (
    AttentionOption,
    ChangesLabel,
    Device,
    DtypeOption,
    Json,
    Layers,
    Margin,
    PromptsOption,
    Seed,
    Site,
    TextColumn,
    Truncate,
)
from flows.cli.study import kept
from flows.signals import deferred, interruptible, watched
from neuroscope.errors import NeuroscopeError

if TYPE_CHECKING:
    from neuroscope.studies.drift.history import VersionDrift
    from neuroscope.studies.drift.monitor import MonitorReport, Watch

_NAME = "Name of a model that is registered in MLflow."


@app.command()
@interruptible(kept)
def monitor(
    name: Annotated[str, typer.Argument(help=_NAME)],
    prompts: PromptsOption,
    alias: Annotated[
        str, typer.Option(help="Alias of the version with which the others are compared.")
    ] = "champion",
    text_column: TextColumn = "text",
    label: ChangesLabel = "",
    site: Site = "mlp_act",
    layers: Layers = "all",
    margin: Margin = 0.05,
    alpha: Annotated[
        float,
        typer.Option(
            help="Rate of false alarms of all checks with these prompts, above 0 and below 0.5."
        ),
    ] = 0.05,
    seed: Seed = 0,
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: DtypeOption = "float32",
    attention: AttentionOption = "sdpa",
    json: Json = False,
) -> None:
    """Check every version of a registered model that was not yet checked.

    Each version is compared with that of the alias, and tagged with the verdict. Exit code 1 if a
    version that is checked now has drifted; 2 if one cannot be checked; 3 if one is inconclusive;
    else 0.
    """

    def watch() -> "Watch":
        from neuroscope.studies.drift.monitor import Watch

        settings = {
            "label": label,
            "site": site,
            "layers": layers,
            "margin": margin,
            "alpha": alpha,
            "seed": seed,
            "truncate": truncate,
            "device": device,
            "dtype": dtype,
            "attention": attention,
        }
        source = {"file": str(prompts), "text_column": text_column}
        return Watch(name, source, alias, settings)

    report = _run(watch)
    _show(report, json=json)
    if code := _exit_code(report):
        raise typer.Exit(code)


@app.command("drift history")
def history(
    name: Annotated[str, typer.Argument(help=_NAME)],
    json: Json = False,
) -> None:
    """Show the checks of a registered model's versions that `monitor` has recorded in MLflow."""
    from flows.display import print_json, print_text, show_pages, show_table
    from flows.running_stack import mlflow_port
    from neuroscope.reporting.tracking import Tracker
    from neuroscope.studies.drift.history import HISTORY_FIGURE, find_histories

    tracker = Tracker.connect()
    histories = find_histories(tracker, name)
    if json:
        document = {"name": name, "histories": [history.to_dict() for history in histories]}
        print_json(document)
        return
    for history in histories:
        show_table(history.table())
        print_text(f"Figure: {tracker.artifact(history.run_id, f'plots/{HISTORY_FIGURE}')}")
        show_pages({history.run_id: ""}, tracker, mlflow_port())


def _run(watch: "Any") -> "MonitorReport":
    """Run the monitor in this process and a second one, which loads the models."""
    from flows.startup import quick_start

    with quick_start() as executor:
        settings = watch()
        from flows.display import show_log
        from flows.progress_bars import progress_bar

        with show_log(), progress_bar() as progress:
            progress("starting", 0, 1)
            from neuroscope.reporting.tracking import Tracker
            from neuroscope.studies.drift.monitor import check_versions

            with deferred():
                tracker = Tracker.open()
                announce = _announcing(settings.name)
                return check_versions(settings, tracker, executor, watched(progress), announce)


def _announcing(name: str) -> "Callable[[VersionDrift], None]":
    """Return a function that emits the event of a check, if PREFECT_API_URL names a server."""
    if not os.environ.get("PREFECT_API_URL"):
        return lambda check: None
    from flows.environment import check_prefect
    from flows.monitor import emit_checked

    check_prefect()
    return partial(emit_checked, name)


def _show(report: "MonitorReport", *, json: bool) -> None:
    """Print the report as JSON, or its headline and a table of the checks."""
    from flows.display import errors, print_json, print_prose, print_text, show_runs, show_table
    from flows.running_stack import mlflow_port
    from neuroscope.reporting.tracking import Tracker
    from neuroscope.studies.drift.history import checks_table

    if json:
        print_json(report.to_dict())
        return
    print_text(report.headline)
    if checks := [*report.known, *report.checked]:
        show_table(checks_table(f"Drift of {report.name}", checks))
    if report.checked:
        names = {check.run_id: f"version {check.version}" for check in report.checked}
        show_runs(names, Tracker.connect(), mlflow_port())
    if report.outdated:
        versions = ", ".join(map(str, report.outdated))
        print_prose(errors, f"note: checked with another margin, and not again: {versions}")
    for failure in report.failed:
        print_prose(errors, f"note: version {failure.version}: {failure.error}")
    for number in report.deleted:
        print_prose(errors, f"note: version {number} was deleted during its check; its run remains")


def _exit_code(report: "MonitorReport") -> int:
    """Return the exit code of a report."""
    verdicts = {check.verdict for check in report.checked}
    if "drifted" in verdicts:
        return 1
    if report.failed:
        return NeuroscopeError.exit_code
    return 3 if "inconclusive" in verdicts else 0
