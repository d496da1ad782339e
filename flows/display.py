"""What the command line shows: progress and messages on stderr, results on stdout."""

import json
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from flows.stack import StackAddresses
from neuroscope.align import VIEWS
from neuroscope.files import size_text
from neuroscope.progress import Progress
from neuroscope.reporting.report import number
from neuroscope.results import Comparison, ComparisonRow, model_label, pair_labels

if TYPE_CHECKING:
    from neuroscope.studies.store.store import StoredActivations

errors = Console(stderr=True)
output = Console()

_MOST_ROWS = 60
_SECONDS_A_LINE = 30
_SECONDS_OF_LATE = 30
_COLUMNS = (
    ("aligned", "cosine"),
    ("aligned", "mse"),
    ("aligned", "cosine_z"),
    ("aligned", "rms_z"),
    ("span", "cosine"),
    ("span", "cosine_z"),
    ("context", "cosine"),
    ("context", "cosine_z"),
)
_HEADINGS = {"cosine": "cosine", "mse": "MSE", "cosine_z": "cos z", "rms_z": "RMS z"}


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr that shows what is done, how much of it and for how long.

    It is gone at the end, and not drawn at all where stderr is no terminal.
    """
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    task = bar.add_task("starting", total=None)
    with bar:

        def report(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        yield report


class Pace:
    """How fast a piece of work has gone of late, and how long the rest will take.

    >>> pace = Pace()
    >>> pace.told("extract", 0, 1000)
    >>> pace.told("extract", 300, 1000)   # half a second later
    '600 prompts/s, 0:01 left'
    """

    def __init__(self) -> None:
        self._task = ""
        self._seen: deque[tuple[float, int]] = deque()  # when, and what was done by then

    def told(self, task: str, done: int, total: int) -> str:
        """Takes a progress report; what was done before the first one of a task does not count."""
        now = time.monotonic()
        if task != self._task:
            self._task = task
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] > _SECONDS_OF_LATE:
            self._seen.popleft()
        then, before = self._seen[0]
        if done <= before or now <= then:
            return ""
        rate = (done - before) / (now - then)
        left = str(timedelta(seconds=math.ceil((total - done) / rate)))
        clock = left.removeprefix("0:").removeprefix("0")
        digits = 0 if rate >= 10 else 2
        return f"{rate:,.{digits}f} prompts/s, {clock} left"


@contextmanager
def extraction_bar() -> Iterator[Progress]:
    """A bar on stderr with rate, time left and bytes written; where stderr is no terminal, a line
    twice a minute.
    """
    pace, told = Pace(), time.monotonic()
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    task = bar.add_task("starting", total=None, pace="")
    with bar:

        def report(name: str, done: int, total: int) -> None:
            nonlocal told
            rate = pace.told(name.split(",")[0], done, total)
            bar.update(task, description=name, completed=done, total=total, pace=rate)
            if bar.disable and time.monotonic() - told > _SECONDS_A_LINE:
                told = time.monotonic()
                line = f"{name}: {done:,} of {total:,} prompts"
                line = f"{line}, {rate}" if rate else line
                errors.print(line, markup=False, highlight=False, soft_wrap=True)

        yield report


@contextmanager
def show_log() -> Iterator[None]:
    """Prints what the library notes, such as how much it is going to write, on stderr."""

    class Printer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)

    log, printer = logging.getLogger("neuroscope"), Printer()
    level = log.level
    log.addHandler(printer)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(printer)
        log.setLevel(level)


def show_extraction(stored: "StoredActivations", seconds: float, *, json: bool) -> None:
    """Where the activations are, and what it took to get them."""
    manifest = stored.manifest
    if json:
        print_json(
            {
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
                "nonfinite": manifest.nonfinite,
                "seconds": round(seconds, 3),
            }
        )
        return
    kept = manifest.prompts - stored.computed
    lines = [
        f"{_counted(manifest.prompts, 'prompt')} at {_counted(len(manifest.sites), 'site')}"
        f" ({manifest.provenance.dtype}) in {stored.folder}",
        f"{size_text(stored.size)}, {seconds:,.1f} s"
        + (f"; {kept:,} of the prompts were there already" if kept else ""),
    ]
    if manifest.nonfinite:
        rows = ", ".join(f"{site} ({rows:,} rows)" for site, rows in manifest.nonfinite.items())
        lines.append(f"note: values are not finite at {rows}")
    for line in lines:
        output.print(line, markup=False, highlight=False, soft_wrap=True)


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("s" if number != 1 else "")


def show_comparison(comparison: Comparison, focus: Sequence[int]) -> None:
    """A table a pair: every layer if they fit on a screen or two, else those of `focus`."""
    labels = pair_labels([(pair.a, pair.b) for pair in comparison.pairs])
    layers = comparison.layers
    if len(labels) * len(layers) > _MOST_ROWS:
        layers = tuple(focus)
    title = f"{model_label(comparison.model)}, {comparison.site}"
    output.print(title, style="bold", markup=False, highlight=False)
    for (a, b), label in labels.items():
        output.print(f"\n{label}", markup=False, highlight=False)
        rows = {
            (row.layer, row.view): row
            for row in comparison.rows
            if (row.a, row.b) == (a, b) and row.layer in layers
        }
        output.print(_pair_table(rows, layers))
    for note in comparison.notes:
        errors.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _pair_table(rows: Mapping[tuple[int, str], ComparisonRow], layers: Sequence[int]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", justify="right", no_wrap=True)
    for view, metric in _COLUMNS:
        table.add_column(f"{view}\n{_HEADINGS[metric]}", justify="right", no_wrap=True)
    for layer in layers:
        cells = [number(getattr(rows[layer, view], metric)) for view, metric in _COLUMNS]
        table.add_row(str(layer), *cells)
    return table


def show_addresses(addresses: StackAddresses) -> None:
    """Where a browser finds what runs; links are whole lines, so that a terminal opens them."""
    lines = [f"{title:8} {address}" for title, address in addresses.servers.items()]
    lines += [f"Run {name}: {page}" for name, page in sorted(addresses.deployments.items())]
    lines += [
        f"Logs are in {addresses.logs}",
        "To use these servers in another terminal:",
        "  export " + " ".join(f"{name}={value}" for name, value in addresses.variables.items()),
        "Ctrl-C stops everything.",
    ]
    for line in lines:
        output.print(line, soft_wrap=True, markup=False, highlight=False)


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as one JSON document; a view that holds no word has null measures."""
    return {
        "run_id": comparison.run_id,
        "model": comparison.model,
        "site": comparison.site,
        "views": list(VIEWS),
        "notes": list(comparison.notes),
        "rows": [asdict(row) for row in comparison.rows],
        "pairs": [asdict(pair) for pair in comparison.pairs],
    }


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout, without NaN, which JSON has no word for."""
    print(json.dumps(_without_nan(document), ensure_ascii=False, indent=1))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inside) for inside in value]
    return None if isinstance(value, float) and math.isnan(value) else value
