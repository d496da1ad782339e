"""Output of the command line: messages on stderr, results on stdout."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from flows.output import result_stream
from flows.running_stack import mlflow_port
from flows.stack import StackAddresses
from neuroscope.files import size_text
from neuroscope.home import home
from neuroscope.json_text import json_text
from neuroscope.labels import distinct_labels
from neuroscope.redaction import redacted
from neuroscope.reporting.mlflow_pages import experiments_page
from neuroscope.reporting.tables import Section, Table

if TYPE_CHECKING:
    from pathlib import Path

    from neuroscope.reporting.tracking import Tracker
    from neuroscope.studies.association.pairs_result import PairsResult
    from neuroscope.studies.atlas.ablation_result import AblationResult
    from neuroscope.studies.atlas.changes import AtlasChanges
    from neuroscope.studies.store.store import StoredActivations
    from neuroscope.studies.study import Findings, Results, Study


class _Results:
    """Current stream for results, as a file for a console."""

    def __getattr__(self, name: str) -> Any:
        return getattr(result_stream(), name)


errors = Console(stderr=True)
output = Console(file=cast(IO[str], _Results()))

_LONGEST_LINE = 10_000  # characters


@contextmanager
def show_log() -> Iterator[None]:
    """Print the log messages of the library on stderr, such as the size of a large extraction."""

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print_on(errors, redacted(record.getMessage()))

    log, printer = logging.getLogger("neuroscope"), Printer()
    level = log.level
    log.addHandler(printer)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(printer)
        log.setLevel(level)


def show_results(
    study: "Study[Any, Any]",
    results: "Results[Any]",
    tracker: "Tracker | None",
    *,
    json: bool,
    single: bool = False,
) -> None:
    """Print the results of a study as JSON, or as tables with where their reports are.

    Args:
        study: study of the results.
        results: results to print.
        tracker: tracker that recorded them, if any.
        json: whether to print one JSON document instead of tables.
        single: whether that document is the entry of the only run, not a list of runs.
    """
    from neuroscope.studies.study import results_document

    port = mlflow_port()
    if json:
        document = results_document(results, tracker, port=port or 5000)
        print_json(document["runs"][0] if single else document)
        return
    for index, result in enumerate(results):
        if index:
            print_text("")
        show_table(study.summary(result))
        _show_notes(result.notes)
    if results.overview:
        _show_findings(results.overview)
    if tracker:
        labels = distinct_labels([result.model for result in results])
        names = [*labels, "all models"] if results.overview else [""]
        show_runs(dict(zip(results.run_ids, names, strict=True)), tracker, port)


def _show_findings(findings: "Findings") -> None:
    """Print what differs between several models."""
    for table in findings.tables:
        print_text("")
        show_table(table)
    print_prose(output, f"\n{findings.headline}")
    _show_notes(findings.notes)


def _show_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print_prose(errors, f"note: {note}")


def show_runs(names: Mapping[str, str], tracker: "Tracker", port: int | None) -> None:
    """Print where the reports of runs are, and how to browse the runs.

    Args:
        names: id of each run -> name that tells it from the others; may be empty.
        tracker: tracker that recorded the runs.
        port: port at which `neuroscope up` serves the embedded database; None if it does not run.
    """
    print_text("")
    for run_id, name in names.items():
        label = f"Report, {name}" if name else "Report"
        print_text(f"{label}: {tracker.report_location(run_id)}")
    if show_pages(names, tracker, port):
        charts = tracker.charts_address(next(iter(names)), port=port or 0)
        print_text(f"All runs with these prompts: {charts}")


def show_pages(names: Mapping[str, str], tracker: "Tracker", port: int | None) -> bool:
    """Print the pages of runs in MLflow, or how to start it; return whether it runs.

    Args:
        names, tracker, port: as in `show_runs`.
    """
    from neuroscope.reporting.tracking_server import embedded_database, is_server

    embedded = tracker.uri == embedded_database(home())
    if embedded and port is None:
        print_text("To browse all runs in MLflow: neuroscope up")
    elif embedded or is_server(tracker.uri):  # `neuroscope up` serves no other database
        for run_id, name in names.items():
            label = f"MLflow, {name}" if name else "MLflow"
            print_text(f"{label}: {tracker.address(run_id, port=port or 0)}")
        return True
    return False


def show_table(table: Table) -> None:
    """Print a table, one per section."""
    if table.title:
        output.print(table.title, style="bold", markup=False, highlight=False)
    for section in table.sections:
        if section.title:
            print_prose(output, f"\n{section.title}")
        _print_grid(_rich_table(table, section))
    for note in table.notes:
        print_prose(output, note)


def _print_grid(grid: RichTable) -> None:
    """Print a table with every number and word in full.

    In a terminal, texts of several words continue on the next line of their cell; if that does not
    suffice, lines are longer than the terminal.
    """
    size = grid.__rich_measure__(output, output.options.update(width=_LONGEST_LINE))
    width = max(output.width, size.minimum) if output.is_terminal else size.maximum
    wide = Console(file=output.file, width=width, force_terminal=output.is_terminal)
    wide.print(grid, crop=False)


def _rich_table(table: Table, section: Section) -> RichTable:
    grid = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(table.columns):
        heading = f"{column.group}\n{column.heading}" if column.group else column.heading
        justify: Any = "left" if table.is_text(index) else "right"
        grid.add_column(Text(heading), justify=justify, vertical="bottom")
    for row in section.rows:
        grid.add_row(*map(Text, table.texts(row)))
    return grid


def show_extraction(stored: "StoredActivations", seconds: float, *, json: bool) -> None:
    """Print the folder of the activations, their size and the time taken."""
    manifest = stored.manifest
    if json:
        document = {
            "out": str(stored.folder),
            "key": manifest.key.digest,
            "model": manifest.provenance.model,
            "dtype": manifest.provenance.dtype,
            "device": manifest.provenance.device,
            "batch_tokens": manifest.latest.batch_tokens,
            "sites": [str(site) for site in manifest.sites],
            "prompts": manifest.prompts,
            "computed": stored.computed,
            "parts": len(manifest.parts),
            "bytes": stored.size,
            "nonfinite": dict(manifest.nonfinite),
            "seconds": round(seconds, 3),
        }
        print_json(document)
        return
    reused = manifest.prompts - stored.computed
    lines = [
        f"{counted(manifest.prompts, 'prompt')} at {counted(len(manifest.sites), 'site')}"
        f" ({manifest.provenance.dtype}) in {stored.folder}",
        f"{size_text(stored.size)}, {seconds:,.1f} s"
        + (f"; {reused:,} of the prompts were stored already" if reused else ""),
    ]
    if manifest.nonfinite:
        rows = ", ".join(f"{site} ({rows:,} rows)" for site, rows in manifest.nonfinite.items())
        lines.append(f"note: values are not finite at {rows}")
    print_text("\n".join(lines))


def show_ablation(result: "AblationResult", path: "Path | None" = None, *, json: bool) -> None:
    """Print the effects of silencing and the atlas that holds them, if it could be written."""
    from neuroscope.studies.atlas.ablation_result import ablation_table
    from neuroscope.studies.atlas.tables import plain_records

    if json:
        rows = plain_records(result.to_frame())
        print_json({"atlas": None if path is None else str(path), "rows": rows})
        return
    show_table(ablation_table(result))
    if path is not None:
        print_text(f"\nAtlas: {path}")


def show_pairs(results: "Sequence[PairsResult]", tracker: "Tracker | None", *, json: bool) -> None:
    """Print the scores of pairs as JSON, or as tables with where their reports are."""
    from neuroscope.studies.association.pairs_result import pairs_table
    from neuroscope.studies.study import Results, results_document

    port = mlflow_port()
    if json:
        print_json(results_document(Results(results), tracker, port=port or 5000))
        return
    for index, result in enumerate(results):
        if index:
            print_text("")
        show_table(pairs_table(result, result.sentences))
        _show_notes(result.notes)
    if tracker:
        labels = distinct_labels([result.model for result in results])
        ids = [result.run_id or "" for result in results]
        names = labels if len(labels) > 1 else [""]
        show_runs(dict(zip(ids, names, strict=True)), tracker, port)


def show_changes(
    changes: "AtlasChanges", atlases: Mapping[str, "Path"], top: int, *, json: bool
) -> None:
    """Print what differs between two atlases, and their paths.

    Args:
        changes: the changes.
        atlases: `old` and `new` -> path.
        top: maximum number of neurons.
        json: whether to print a document.
    """
    from neuroscope.studies.atlas.tables import changes_tables, plain_records

    named = {name: str(path) for name, path in atlases.items()}
    if json:
        rows = plain_records(changes.neurons.head(top))
        topics, notes = plain_records(changes.topics), list(changes.notes)
        print_json({**named, "notes": notes, "topics": topics, "rows": rows})
        return
    for table in changes_tables(changes, top):
        show_table(table)
        print_text("")
    print_text("\n".join(f"{name}: {path}" for name, path in named.items()))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def show_addresses(addresses: StackAddresses) -> None:
    """Print the addresses of servers and deployments; a line ends with its link."""
    # MLflow itself opens on a page about traces
    lines = [
        f"{title:9} {experiments_page(address) if title == 'MLflow' else address}"
        for title, address in addresses.servers.items()
    ]
    for name, page in sorted(addresses.deployments.items()):
        lines.append(f"Run {name}: {page}")
        if runs := addresses.runs.get(name):
            lines.append(f"Runs of {name}: {runs}")
    lines += [
        f"Logs are in {addresses.logs}",
        "To use these servers in another terminal:",
        "  export " + " ".join(f"{name}={value}" for name, value in addresses.variables.items()),
        "Ctrl-C stops everything.",
    ]
    print_text("\n".join(lines))


def print_json(document: Any) -> None:
    """Print the one JSON document of a command on stdout."""
    stream = result_stream()
    print(json_text(document, encoding=getattr(stream, "encoding", None) or "utf-8"), file=stream)


def print_text(text: str) -> None:
    """Print text on stdout unchanged; Rich adds neither markup nor line breaks."""
    print_on(output, text)


def print_on(console: Console, text: str) -> None:
    """Print text on a console unchanged; Rich adds neither markup nor line breaks."""
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def print_prose(console: Console, text: str) -> None:
    """Print sentences on a console; lines of a terminal end between words."""
    console.print(text, soft_wrap=not console.is_terminal, markup=False, highlight=False)
