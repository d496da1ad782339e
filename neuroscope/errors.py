"""Errors a user can act on. Each says what is wrong and, apart from it, what to do.

NeuroscopeError           exit code
├── PromptError           2   prompts are missing, blank, duplicated, too long or unreadable
├── SiteError             2   a site or layer does not exist
├── ModelError            2   a model cannot be found, or is refused
├── ExperimentError       2   an experiment is malformed or asks for something impossible
├── NonfiniteError        65  activations contain NaN or infinity
├── StoreError            74  stored activations are incomplete, damaged or cannot be written
├── ResourceError         71  not enough memory or disk space
├── TrackingError         69  results cannot be recorded in MLflow, or read from it
└── StackError            69  a server does not start or does not respond

Exit codes other than 2 (wrong usage) are those of the BSD header sysexits.h.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ExperimentError",
    "ModelError",
    "NeuroscopeError",
    "NonfiniteError",
    "Option",
    "PromptError",
    "ResourceError",
    "SiteError",
    "StackError",
    "StoreError",
    "TrackingError",
]


@dataclass(frozen=True)
class Option:
    """A setting that avoids an error; each surface spells it in its own way.

    >>> Option("dtype", "float32", "compute in float32").in_python
    "dtype='float32'"
    """

    name: str
    """Of the parameter, as in Python."""
    value: Any
    """To give it."""
    purpose: str
    """What the setting does, in the imperative."""

    @property
    def in_python(self) -> str:
        """The setting as a keyword argument."""
        return f"{self.name}={self.value!r}"


class NeuroscopeError(Exception):
    """What was asked for cannot be done.

    >>> error = NeuroscopeError(
    ...     "NaN at mlp_act.3",
    ...     options=[Option("allow_nonfinite", True, "keep such values")],
    ...     remedy="fix the model's weights",
    ... )
    >>> str(error)
    'NaN at mlp_act.3; keep such values (allow_nonfinite=True), or fix the model's weights'
    >>> error.message(lambda option: None)  # on a surface that has no such option
    "NaN at mlp_act.3; fix the model's weights"

    Args:
        problem: what is wrong, with the names and values that identify it.
        options: settings that avoid it.
        remedy: what else to do, in the imperative.
    """

    exit_code = 2
    """Of the command line."""

    def __init__(self, problem: str, *, options: Sequence[Option] = (), remedy: str = ""):
        super().__init__(problem)
        self.problem = problem
        self.options = tuple(options)
        self.remedy = remedy

    def __str__(self) -> str:
        return self.message(lambda option: option.in_python)

    def message(self, spell: Callable[[Option], str | None]) -> str:
        """The problem and its remedies, for one surface.

        Args:
            spell: how a setting is written there; None where the surface does not have it.
        """
        spelled = [(option, spell(option)) for option in self.options]
        remedies = [f"{option.purpose} ({setting})" for option, setting in spelled if setting]
        if self.remedy:
            remedies.append(self.remedy)
        return f"{self.problem}; {', or '.join(remedies)}" if remedies else self.problem


class PromptError(NeuroscopeError):
    """Prompts are missing, blank, duplicated, too long or unreadable."""


class SiteError(NeuroscopeError):
    """A site or layer does not exist."""


class ModelError(NeuroscopeError):
    """A model cannot be found, or is refused."""


class ExperimentError(NeuroscopeError):
    """An experiment is malformed or asks for something impossible."""


class NonfiniteError(NeuroscopeError):
    """Activations contain NaN or infinity."""

    exit_code = 65


class StoreError(NeuroscopeError):
    """Stored activations are incomplete, damaged, foreign or cannot be written."""

    exit_code = 74


class ResourceError(NeuroscopeError):
    """There is not enough memory or disk space."""

    exit_code = 71


class TrackingError(NeuroscopeError):
    """Results cannot be recorded in MLflow, or read from it."""

    exit_code = 69


class StackError(NeuroscopeError):
    """A server does not start or does not respond."""

    exit_code = 69
