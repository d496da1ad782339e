"""Progress reports for long-running work, independent of what displays them."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Callback that receives the name of the task, the amount done and the total."""


def silent(task: str, done: int, total: int) -> None:
    """Ignore a progress report."""
