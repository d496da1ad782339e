"""How long work reports what it is doing, without knowing who looks."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


def silent(task: str, done: int, total: int) -> None:
    """Nobody looks."""
