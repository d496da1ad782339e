"""The command `neuroscope report`."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import app
from flows.cli.options import Json
from neuroscope.errors import NeuroscopeError
from neuroscope.options import StudyKind, choices

if TYPE_CHECKING:
    from neuroscope.reporting.recorded import RecordedRun
    from neuroscope.reporting.run_reader import RunReader

_REMEDY = "run a study first, for example with `neuroscope compare`"


@app.command()
def report(
    run: Annotated[
        str, typer.Argument(help="Id or name of a run, or name of an experiment. [default: newest]")
    ] = "",
    kind: Annotated[
        StudyKind | None, typer.Option(help="Kind of study. [default: the newest of any kind]")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    json: Json = False,
) -> None:
    """Print where the report of a run is; open it in a browser."""
    from flows.display import print_text
    from neuroscope.reporting.run_reader import RunReader

    _check_database()
    tracker = RunReader.connect()
    found = _newest(tracker, [kind] if kind else choices(StudyKind), run)
    location = tracker.report_location(found.id)
    if json:
        _print_document(tracker, found, location)
    else:
        print_text(location)
    if open_:
        _open(location)


def _check_database() -> None:
    """Raise NeuroscopeError if the embedded database is used but does not exist yet."""
    from neuroscope.home import home
    from neuroscope.reporting.tracking_server import embedded_database, tracking_uri

    is_embedded = tracking_uri() == embedded_database(home())
    if is_embedded and not (home() / "mlflow.db").is_file():
        raise NeuroscopeError(f"no run is recorded in {home()}", remedy=_REMEDY)


def _newest(tracker: "RunReader", kinds: Sequence[str], name: str) -> "RecordedRun":
    """Return the newest finished run with an id or name, or of all runs if it is empty.

    Raises:
        NeuroscopeError: there is no such run.
    """
    runs = [run for kind in kinds for run in tracker.find_runs(kind)]
    if not runs:
        raise NeuroscopeError(f"no finished run of kind {' or '.join(kinds)}", remedy=_REMEDY)
    named = [run for run in runs if not name or name in _names(run)]
    if not named:
        newest = max(runs, key=_start)
        raise NeuroscopeError(
            f"no finished run has the id or name '{name}'",
            remedy=f"name another; the newest is '{newest.name}'",
        )
    return max(named, key=_start)


def _start(run: "RecordedRun") -> datetime:
    return run.started


def _names(run: "RecordedRun") -> tuple[str, ...]:
    return run.id, run.name, run.tags.get("neuroscope.experiment", "")


def _print_document(tracker: "RunReader", run: "RecordedRun", location: str) -> None:
    from flows.display import print_json
    from flows.running_stack import mlflow_port

    document = {
        "run_id": run.id,
        "name": run.name,
        "kind": run.kind,
        "started": run.started.isoformat(timespec="seconds"),
        "address": tracker.address(run.id, port=mlflow_port() or 5000),
        "report": location,
    }
    print_json(document)


def _open(location: str) -> None:
    """Open a path or an address in a browser."""
    import webbrowser

    address = location if "://" in location else Path(location).as_uri()
    if not webbrowser.open(address):
        raise NeuroscopeError("no browser was found", remedy="open the report above")
