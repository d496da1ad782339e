"""Checks of single values of an experiment."""

import re
from typing import Any

from neuroscope.errors import ExperimentError, Option
from neuroscope.experiment_faults import checked
from neuroscope.options import StudySite, choices
from neuroscope.sites import Layers, parse_site

SCHEMA = 1
"""Version of the format of experiment files; newer versions are refused."""


def plain_name(text: str, default: str) -> str:
    """Return a text as the name of an experiment, or `default` if nothing of it can be used.

    >>> plain_name("cat vs dog", "compare")
    'cat-vs-dog'
    """
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or default


def layers_text(value: Any) -> Any:
    """Return a choice of layers, given as text, a number or a list of integers, as text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | list):
        return value  # pydantic refuses it
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    checked(lambda: Layers.parse(text))
    return text


def check_name(name: str) -> None:
    """Raise ExperimentError unless an experiment can have this name."""
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ExperimentError(
            f"name {name!r} begins with a dot, or has a character that is no letter, digit, '_',"
            " '.' or '-'"
            if name
            else "the name is empty",
            options=[Option("name", plain_name(name, "cat-dog"), "choose a plain name")],
        )


def check_schema(number: int) -> None:
    """Raise ExperimentError if the format of an experiment file is newer than this version."""
    if number > SCHEMA:
        raise ExperimentError(
            f"schema {number} is newer than {SCHEMA}, the newest this version reads",
            remedy="upgrade neuroscope",
        )


def check_study_site(site: str) -> None:
    """Raise NeuroscopeError unless a study can read a site."""
    if parse_site(site, choices(StudySite))[0] == "logits":
        raise ExperimentError(
            f"no study reads site '{site}', one score per token of the vocabulary",
            options=[Option("site", "final", "read what the model computes them from")],
        )


def check_models(names: list[str]) -> None:
    """Raise ExperimentError if a name of a model is blank or appears twice."""
    if not all(name.strip() for name in names):
        raise ExperimentError("the name of a model is blank", remedy="fill it in or remove it")
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ExperimentError(f"model '{repeated}' is named twice", remedy="remove one")
