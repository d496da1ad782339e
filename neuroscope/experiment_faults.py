"""Faults in experiments: what pydantic reports, in the words of the experiment's author."""

import datetime
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ValidationError

from neuroscope.errors import ExperimentError, NeuroscopeError, Option
from neuroscope.options import unknown_choice

Keys = tuple[str | int, ...]
"""Path of keys and list indices to a value in a document."""
T = TypeVar("T")

_LONGEST = 60  # characters of a value in a message
_EXPECTED = {
    "string": "text",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "list": "a list",
    "tuple": "a list",
    "dict": "keys with values",
    "model": "the keys {keys}",
    "literal": "one of {expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "too_short": "at least {min_length}",
}
"""Type of fault in pydantic, or its first word -> what the value should be."""


class Fault(ValueError):
    """Error in a value, which pydantic reports with the position of the value."""

    def __init__(self, error: NeuroscopeError):
        super().__init__(error.problem)
        self.error = error


class InvalidExperiment(ExperimentError):
    """Error about one or more faults in an experiment, each of which is one line."""

    def __init__(self, faults: Sequence[NeuroscopeError]):
        super().__init__("\n".join(fault.problem for fault in faults))
        self.args = (faults,)
        self.faults = tuple(faults)

    def message(self, spell: Callable[[Option], str | None]) -> str:
        return "\n".join(fault.message(spell) for fault in self.faults)

    def on(self, spell: Callable[[Option], str | None]) -> Self:
        return type(self)([ExperimentError(fault.message(spell)) for fault in self.faults])


def checked(parse: Callable[[], T]) -> T:
    """Return what `parse` returns; raise its error as a Fault."""
    try:
        return parse()
    except NeuroscopeError as error:
        raise Fault(error) from error


def validator(check: Callable[[T], object]) -> AfterValidator:
    """Return a validator that accepts the values for which `check` raises no error."""

    def validate(value: T) -> T:
        checked(lambda: check(value))
        return value

    return AfterValidator(validate)


@contextmanager
def about(*keys: str | int) -> Iterator[None]:
    """Add to an error of the block the keys of the setting that it is about.

    >>> with about("models", 0):
    ...     find_checkpoint("minilm")
    """
    try:
        yield
    except NeuroscopeError as error:
        error.keys = error.keys or keys
        raise


def faults_of(
    error: ValidationError, settings: type[BaseModel], where: Callable[[Keys], str]
) -> list[NeuroscopeError]:
    """Return the faults that pydantic reports.

    Args:
        error: error of pydantic.
        settings: class that declares the keys.
        where: function that returns the position of the value at some keys; the message of a fault
            begins with it.
    """
    faults: list[NeuroscopeError] = []
    for reported in error.errors():
        fault = _fault(settings, reported)
        problem = where((*reported["loc"], *fault.keys)) + fault.problem
        faults.append(ExperimentError(problem, options=fault.options, remedy=fault.remedy))
    return faults


def _fault(settings: type[BaseModel], reported: Any) -> NeuroscopeError:
    """Return one fault that pydantic reports, without its position."""
    keys: Keys = reported["loc"]
    kind, value = reported["type"], reported["input"]
    cause = reported.get("ctx", {}).get("error")
    if isinstance(cause, Fault):
        return cause.error
    if kind == "extra_forbidden":
        return _unknown_key(str(keys[-1]), list(_keys_at(settings, keys[:-1])))
    if kind == "missing":
        return ExperimentError(f"key '{keys[-1]}' is missing")
    if kind == "literal_error" and isinstance(value, str) and isinstance(keys[-1], str):
        known = re.findall("'([^']*)'", reported["ctx"]["expected"])
        return ExperimentError(unknown_choice(keys[-1], value, known))
    if kind == "string_unicode":
        return ExperimentError(f"{value!a} is not valid Unicode", remedy="save it as UTF-8")
    if kind == "model_type":
        reported["ctx"] = {"keys": ", ".join(_keys_at(settings, keys))}
    return ExperimentError(f"{_name(keys)}: {expectation(reported)}", remedy=_remedy(kind, value))


def expectation(reported: Any) -> str:
    """Return what a value that pydantic refuses should be, and what it is.

    Args:
        reported: one of the `errors()` of a ValidationError.
    """
    kind, found = reported["type"], _shown(reported["input"])
    expected = _EXPECTED.get(kind) or _EXPECTED.get(kind.split("_")[0])
    if kind == "value_error":  # raised by a check, whose message names the value
        return str(reported["ctx"]["error"])
    if expected is None:
        return f"{reported['msg']}, found {found}"
    return f"expected {expected.format(**reported.get('ctx', {}))}, found {found}"


def _unknown_key(key: str, known: Sequence[str]) -> NeuroscopeError:
    near = get_close_matches(key, known, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return ExperimentError(f"unknown key '{key}'{hint}; keys here are {', '.join(known)}")


def _name(keys: Keys) -> str:
    """Return the name of a setting: its innermost key, and the number of the item in a list."""
    if not keys:
        return "the experiment"
    if isinstance(keys[-1], int):
        return f"item {keys[-1] + 1} of {_name(keys[:-1])}"
    return f"'{keys[-1]}'"


def _shown(value: Any) -> str:
    """Return a value as text: scalars as they are written, groups by their kind."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "keys with values"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(str(value)) if isinstance(value, str) else str(value) or type(value).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _remedy(kind: str, value: Any) -> str:
    """Return what to do about a value of another type than expected."""
    if kind == "string_type" and isinstance(value, bool | int | float | datetime.date):
        return "quote it"
    if kind == "list_type" and isinstance(value, str):
        return f"write [{value}]"
    return ""


def _keys_at(settings: type[BaseModel], keys: Keys) -> Iterator[str]:
    """Yield the names of the keys that are known at a position in a document."""
    group: Any = settings
    for key in keys:
        if isinstance(key, str):
            annotation = next(
                field.annotation
                for name, field in group.model_fields.items()
                if key in (name, field.alias)
            )
            candidates = (annotation, *get_args(annotation))
            group = next(
                candidate
                for candidate in candidates
                if isinstance(candidate, type) and issubclass(candidate, BaseModel)
            )
    yield from (field.alias or name for name, field in group.model_fields.items())
