"""Errors that a user can act on. Each states the problem and, separately, the remedy.

NeuroscopeError           exit code
├── PromptError           2   prompts are missing, blank, duplicated, too long or unreadable
├── SiteError             2   a site or layer does not exist
├── ModelError            2   a model cannot be found or used
│   └── HeadlessError     2   a model has no language-model head
├── ExperimentError       2   an experiment is malformed or asks for something impossible
├── NonfiniteError        65  activations contain NaN or infinity
├── StoreError            74  stored activations are incomplete, damaged or cannot be written
├── ResourceError         71  not enough memory or disk space
├── TrackingError         69  results cannot be recorded in MLflow or read from it
└── StackError            69  a server does not start or does not respond

Exit codes other than 2 (wrong usage) are those of the BSD header sysexits.h.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from neuroscope.redaction import redacted

__all__ = [
    "ExperimentError",
    "HeadlessError",
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
    """Setting that avoids an error.

    The command line, experiment files, forms and Python each spell it in their own way.

    >>> Option("dtype", "float32", "compute in float32").in_python
    "dtype='float32'"
    """

    name: str
    """Name of the parameter in Python."""
    value: Any
    """Value that avoids the error."""
    purpose: str
    """Effect of the setting, in the imperative."""

    @property
    def in_python(self) -> str:
        """Setting as a keyword argument."""
        return f"{self.name}={self.value!r}"


class NeuroscopeError(Exception):
    """Error that a user can act on; the base class of all errors of this package.

    >>> error = NeuroscopeError(
    ...     "NaN at mlp_act.3",
    ...     options=[Option("allow_nonfinite", True, "keep such values")],
    ...     remedy="fix the model's weights",
    ... )
    >>> str(error)
    "NaN at mlp_act.3; keep such values (allow_nonfinite=True), or fix the model's weights"
    >>> error.message(lambda option: None)  # on a surface that has no such option
    "NaN at mlp_act.3; fix the model's weights"

    Args:
        problem: what is wrong, with the names and values that identify it; passwords and tokens
            in it are hidden.
        options: settings that avoid the error.
        remedy: another way to avoid it, in the imperative.
    """

    exit_code = 2
    """Exit code of the command line."""

    def __init__(self, problem: str, *, options: Sequence[Option] = (), remedy: str = ""):
        self.problem = redacted(problem)
        super().__init__(self.problem)
        self.options = tuple(options)
        self.remedy = redacted(remedy)
        self.keys: tuple[str | int, ...] = ()
        """Keys of the setting of an experiment that is at fault, such as `("models", 1)`."""

    def __str__(self) -> str:
        return self.message(lambda option: option.in_python)

    def message(self, spell: Callable[[Option], str | None]) -> str:
        """Return the problem and its remedies, worded for one surface such as the command line.

        Args:
            spell: function that returns how the surface writes a setting, or None if it lacks it.
        """
        spelled = [(option, spell(option)) for option in self.options]
        remedies = [f"{option.purpose} ({setting})" for option, setting in spelled if setting]
        if self.remedy:
            remedies.append(self.remedy)
        return f"{self.problem}; {', or '.join(remedies)}" if remedies else self.problem

    def on(self, spell: Callable[[Option], str | None]) -> Self:
        """Return the same error with the remedies worded for one surface; see `message`."""
        return type(self)(self.message(spell))


class PromptError(NeuroscopeError):
    """Error in prompts: they are missing, blank, duplicated, too long or unreadable."""


class SiteError(NeuroscopeError):
    """Error about a site or layer that does not exist."""


class ModelError(NeuroscopeError):
    """Error about a model that cannot be found or used."""


class HeadlessError(ModelError):
    """Error about a model that has no language-model head, although one is needed."""


class ExperimentError(NeuroscopeError):
    """Error in an experiment that is malformed or asks for something impossible."""


class NonfiniteError(NeuroscopeError):
    """Error about activations that contain NaN or infinity."""

    exit_code = 65


class StoreError(NeuroscopeError):
    """Error about stored activations that are incomplete, damaged, foreign or not writable."""

    exit_code = 74


class ResourceError(NeuroscopeError):
    """Error due to a lack of memory or disk space."""

    exit_code = 71


class TrackingError(NeuroscopeError):
    """Error in recording results in MLflow or in reading them."""

    exit_code = 69


class StackError(NeuroscopeError):
    """Error about a server that does not start or does not respond."""

    exit_code = 69
