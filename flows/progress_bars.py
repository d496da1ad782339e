"""Progress on stderr: a bar in a terminal, and a line now and then elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from flows import display
from neuroscope.progress import Progress

_SECONDS_PER_LINE = 30
_SPEED_PERIOD = 30  # seconds over which the speed is measured


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a progress bar on stderr: the step, the number of steps done and the elapsed time.

    The bar is removed at the end. If stderr is not a terminal, print a line twice a minute instead.
    """
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=display.errors,
        transient=True,
        disable=not display.errors.is_terminal,
    )
    task = bar.add_task("starting", total=None)
    with bar, _lines(bar):

        def report(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        yield report


@contextmanager
def _lines(bar: Bar) -> Iterator[None]:
    """Print the step, the number of steps done and the time twice a minute if no bar is drawn."""
    task, ended = bar.tasks[0], threading.Event()
    start = time.monotonic()

    def print_lines() -> None:
        while not ended.wait(_SECONDS_PER_LINE):
            done = f"{task.completed:g} of {task.total or 0:g} steps done"
            seconds = time.monotonic() - start
            display.print_on(display.errors, f"{task.description}: {done}, {seconds:,.0f} s")

    thread = threading.Thread(target=print_lines, daemon=True)
    if bar.disable:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if bar.disable:
            thread.join()


class _SpeedColumn(ProgressColumn):
    """Column that shows the prompts per second over the last half minute."""

    def render(self, task: Task) -> Text:
        """Return the speed, or an empty text before it is known."""
        return Text(_speed_text(task))


def _speed_text(task: Task) -> str:
    if not task.speed:
        return ""
    return f"{task.speed:,.{0 if task.speed >= 10 else 2}f} prompts/s"


@contextmanager
def extraction_bar() -> Iterator[Progress]:
    """Show a progress bar on stderr with the speed, the time left and the bytes written.

    If stderr is not a terminal, print a line twice a minute instead.
    """
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _SpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=display.errors,
        transient=True,
        disable=not display.errors.is_terminal,
        speed_estimate_period=_SPEED_PERIOD,
    )
    task_id = bar.add_task("starting", total=None)
    task = bar.tasks[0]
    current, printed = "", time.monotonic()
    with bar:

        def report(name: str, done: int, total: int) -> None:
            nonlocal current, printed
            task_name = name.split(",")[0]
            if task_name != current:  # work before a task's first report is not part of its speed
                current = task_name
                bar.reset(task_id, completed=done, total=total, description=name)
            bar.update(task_id, description=name, completed=done, total=total)
            if bar.disable and time.monotonic() - printed > _SECONDS_PER_LINE:
                printed = time.monotonic()
                line = f"{name}: {done:,} of {total:,} prompts"
                display.print_on(display.errors, ", ".join(filter(None, [line, _speed_text(task)])))

        yield report
